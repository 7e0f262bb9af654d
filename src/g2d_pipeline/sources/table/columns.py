"""Columns of a user's table as numbers, targets, categories, dates, texts and ids.

What can mean only one thing is read; the rest is refused with its row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.errors import DataError, data_error, did_you_mean
from g2d_pipeline.sources.cells import MARKS, NUMBER, clear_sentinel, decimal_mark, parse_number
from g2d_pipeline.sources.table.frame import Cells, RawTable, Rows, as_text
from g2d_pipeline.sources.table.paths import fill, needed_columns
from g2d_pipeline.sources.table.settings import finite_number

WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
MANY = 20  # more values than that, and more than half as many as rows: names or measurements, no categories
TIME = r"(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?(?:Z|[+-]\d{2}:?\d{2}))?)?"
MONTH, DAY = r"(?P<month>0?[1-9]|1[0-2])", r"(?P<day>0?[1-9]|[12]\d|3[01])"
# without separators eight digits: seven may be the day of the year, six a month
YEAR_FIRST = rf"(?!\d{{5,7}}(?:\D|$))(?P<year>\d{{4}})(?P<sep>[-/.]?){MONTH}(?P=sep){DAY}{TIME}"
DAY_FIRST = rf"{DAY}\.{MONTH}\.(?P<year>\d{{4}}){TIME}"
EITHER = rf"(?P<one>\d{{1,2}})(?P<sep>[-/])(?P<two>\d{{1,2}})(?P=sep)(?P<year>\d{{4}}){TIME}"
CLOCK = r"[T ](?!0?0:00(?::00(?:\.0+)?)?(?:\D|$))\d{1,2}:\d{2}"  # a time of day other than midnight
ISO = "as 2024-05-01"

Floats = npt.NDArray[np.float64]
Dates = npt.NDArray[np.datetime64]


# ---------------------------------------------------------------------------------------------------- numbers
def read_numbers(table: RawTable, name: str) -> tuple[Floats, dict[int, str]]:
    """A column as floats `[N]`, NaN = missing; position → reason for cells that are no numbers.

    Decimal commas and marks for thousands are read where the column, or the separator of its file, leaves no
    doubt, and -9999 is missing, all with a note."""
    column = table[name]
    faults: dict[int, str] = {}
    if column.dtype.kind == "f":
        values: Floats = column.to_numpy(np.float64).copy()
    else:
        values = np.array(pd.to_numeric(column, errors="coerce"), np.float64)
        if np.isnan(values).any():
            column = column[column.notna() & column.ne("") & ~column.str.lower().isin(MARKS)]
        if np.isnan(values[column.index]).any():
            faults = _read_marks(table, name, values, column)
        elif table.separators.get(name) == ";":
            points = column[column.str.contains(".", regex=False)]
            if len(points) and points.str.fullmatch(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}").all():
                text = f"Column {name!r}: {len(points)} numbers such as {points.iloc[0]!r} are read with"
                table.note(f"{text} a decimal point; remove the points if they are for thousands.")
    if count := clear_sentinel(values):
        table.note(f"Column {name!r} holds {count} × -9999, read as missing.")
    if count := int((values == -999).sum()):
        remedy = "if that means missing, leave those cells blank."
        table.note(f"Column {name!r} holds {count} × -999, read as numbers: {remedy}")
    return values, faults


def _read_marks(table: RawTable, name: str, values: Floats, cells: pd.Series[Any]) -> dict[int, str]:
    """Read `cells`, not all plain numbers, into `values` `[N]`; position → reason for what is none."""
    mark = decimal_mark(cells, table.separators.get(name))
    unread, commas, faults = cells[np.isnan(values[cells.index])], 0, dict[int, str]()
    if mark in (",", "."):
        other = {",": ".", ".": ","}[mark]
        numbers = cells[cells.str.fullmatch(NUMBER[mark].pattern)]
        plain = numbers.str.replace(other, "", regex=False).str.replace(",", ".", regex=False)
        values[numbers.index] = pd.to_numeric(plain)
        commas = int(numbers.str.contains(",", regex=False).sum()) if mark == "," else 0
        if len(thousands := numbers[numbers.str.contains(other, regex=False)]):
            example = f"{thousands.iloc[0]!r} is {values[thousands.index[0]]:g}"
            text = f"Column {name!r}: {len(thousands)} numbers have marks for thousands, and are read so"
            table.note(f"{text} ({example}).")
        unread = unread.drop(numbers.index.intersection(unread.index))
    elif mark == "?":
        unread = cells[cells.str.contains(".", regex=False) | np.isnan(values[cells.index])]
    for i, cell in zip(unread.index.tolist(), unread, strict=True):
        try:
            values[i] = parse_number(cell, mark)[0]
            commas += "," in cell
        except ValueError as error:
            values[i], faults[i] = np.nan, str(error)
    if commas:
        table.note(f"Column {name!r}: {commas} numbers have a decimal comma, and are read so.")
    return faults


def read_features(table: RawTable, names: Iterable[str]) -> dict[str, Floats]:
    """The numbers of tabular modalities; DataError for columns of text or blanks, for cells that are no
    numbers, and for infinities."""
    features: dict[str, Floats] = {}
    lines: list[str] = []
    for name in names:
        values, faults = read_numbers(table, name)
        if faults:
            what, key = ("dates", "dates") if holds_dates(table, name) else ("text", "categorical")
            present = table[name][~table.missing(name)]
            numbers = 0 if what == "dates" else int(present.str.match(r"\W*[0-9]").sum())  # or `5 kg`, `12%`
            if len(faults) > len(present) / 2 >= numbers:
                shown = ", ".join(dict.fromkeys(repr(table[name].iloc[i]) for i in list(faults)[:20]))[:200]
                remedy = f"list it under the modality's `{key}`, or leave it out."
                raise table.error(f"column {name!r} holds {what}, and `columns` are numbers", [shown], remedy)
        if not faults and np.isnan(values).all():
            _refuse_blank(table, name, "columns")
        faults |= dict.fromkeys(np.flatnonzero(np.isinf(values)).tolist(), "infinite")
        lines += [f"{table.place(i, name)}: {reason}" for i, reason in faults.items()]
        features[name] = values
    if lines:
        remedy = "write plain numbers with a decimal point; leave cells blank where they are unknown."
        raise table.error("cells that are not numbers", lines, remedy)
    return features


def _refuse_blank(table: RawTable, name: str, key: str) -> None:
    raise table.error(f"column {name!r} is blank", [], f"leave it out of `{key}`, or fill it.")


# ----------------------------------------------------------------------------------------------------- target
def read_target(table: RawTable, name: str, log: bool) -> Floats:
    """A regression's target `[N]`, its natural logarithm where `log`; rows without one get a fault.

    DataError where it is text, constant, or (`log`) not positive."""
    values, faults = read_numbers(table, name)
    if len(faults) > int((~table.missing(name)).sum()) / 2:
        remedy = "set `task: classification`, or another target."
        raise data_error("The target of a regression is text", table.cells(faults, name), remedy)
    for i, reason in faults.items():
        table.faults.setdefault(i, f"column {name!r}: {reason}")
    table.fault(np.isnan(values), f"no value in the target's column {name!r}")
    table.fault(np.isinf(values), f"the target {name!r} is infinite")
    good = np.delete(values, list(table.faults))
    if len(good) > 1 and good.min() == good.max():
        raise _nothing_to_learn(table, name, f"{good[0]:g} in all {len(good)} rows")
    if not log:
        return values
    if low := [f"{table.place(i, name)}: {values[i]:g}" for i in np.flatnonzero(values <= 0).tolist()]:
        remedy = "remove these rows, or set `log_target: false`."
        raise data_error("Targets of zero or below have no logarithm", low, remedy)
    return np.log(values, where=np.isfinite(values), out=np.full(len(values), np.nan))


def read_labels(table: RawTable, name: str, classes: list[str] | None) -> tuple[Rows, list[str]]:
    """A classification's target `[N]` (-1 and a fault: none) and the class names: `classes`, or sorted,
    numbers by value. DataError where there is one class only, where the target resembles a measurement, or
    where labels are not among `classes`."""
    classes = classes and [unicodedata.normalize("NFC", label) for label in classes]
    labels = pd.Series(table.texts(name, classes or ()), dtype=object)
    present = labels[labels != ""]
    unique = set(present)
    if all(WHOLE.fullmatch(label) or label.lstrip("+-").isdigit() for label in unique):
        labels = labels.str.replace(WHOLE, r"\1", regex=True)
        unique = set(labels) - {""}
    numeric = all(finite_number(label) is not None for label in unique)
    names = sorted(unique, key=lambda label: (float(label), label)) if numeric else sorted(unique)
    fractions = numeric and any(float(label) % 1 for label in names)
    remedy = "classes: set `task: regression`, or choose another column as `target`."
    _refuse_many(table, f"the target {name!r}", names, len(present), remedy, fractions)
    if classes is not None:
        if unknown := [i for i, label in enumerate(labels) if label and label not in classes]:
            cells = zip(unknown, table.cells(unknown, name, labels), strict=True)
            lines = [f"{cell}.{did_you_mean(labels[i], classes)}".rstrip(".") for i, cell in cells]
            remedy = f"correct them, or add to {classes}."
            raise data_error("Labels that are not among `classes`", lines, remedy)
    elif len(names) < 2:
        raise _nothing_to_learn(table, name, f"{repr(names[0]) if names else 'blank'} in every row")
    _note_similar(table, "Classes", names)
    codes = {label: k for k, label in enumerate(classes or names)}
    target = labels.map(codes).fillna(-1).to_numpy(np.int64)
    for mark, rows in table.marks(name).items():
        why = f": {mark!r} means missing; if it is a class, list all under `classes`"
        table.fault(rows & (target < 0), f"no label in the target's column {name!r}{why}")
    table.fault(target < 0, f"no label in the target's column {name!r}")
    return target, classes or names


def _note_similar(table: RawTable, what: str, values: Sequence[str]) -> None:
    """A note on values that differ in case, blanks or the form of letters only, if there are any."""
    folded: dict[str, list[str]] = {}
    for value in values:
        key = unicodedata.normalize("NFKC", value).casefold()
        folded.setdefault(" ".join(key.split()), []).append(value)
    if similar := [" and ".join(map(repr, group)) for group in folded.values() if len(group) > 1]:
        table.note(f"{what} that differ in case or blanks only: {'; '.join(similar)}. Are they one?")


def _refuse_many(
    table: RawTable, what: str, values: Sequence[str], rows: int, remedy: str, fractions: bool = False
) -> None:
    """DataError where `values` are `fractions`, or so many that they are names or measurements."""
    if fractions or len(values) > max(MANY, rows / 2):
        problem = f"{what} has {len(values)} different values in {rows} rows"
        raise table.error(problem, [", ".join(values[:8]) + " …"], f"they look like no {remedy}")


def _nothing_to_learn(table: RawTable, name: str, value: str) -> DataError:
    remedy = "choose another column as `target`: there is nothing to learn."
    return table.error(f"the target {name!r} is {value}", [], remedy)


# ------------------------------------------------------------------------------ categories, dates, texts, ids
def read_categories(table: RawTable, name: str) -> pd.Series[Any]:
    """A column as categories `[N]`, null where missing. DataError where it is blank, or where its values are
    names rather than categories."""
    cells = pd.Series(table.texts(name), dtype="str").mask(table.missing(name))
    categories, present = sorted(cells.dropna().unique()), int(cells.notna().sum())
    if not present:
        _refuse_blank(table, name, "categorical")
    remedy = "categories: leave it out of `categorical`; numbers are listed under `columns`."
    _refuse_many(table, f"column {name!r}", categories, present, remedy)
    _note_similar(table, f"Categories of {name!r}", categories)
    for mark, rows in table.marks(name).items():
        table.note(f"Column {name!r}: {int(rows.sum())} cells are {mark!r}, read as missing.")
    return cells


def holds_dates(table: RawTable, name: str) -> bool:
    """Whether most of the cells that are there are dates."""
    cells = pd.Series([cell for cell in table.texts(name) if cell], dtype=object)
    forms = [cells.str.fullmatch(form) for form in (YEAR_FIRST, DAY_FIRST, EITHER)] if len(cells) else []
    return bool(forms) and int(np.logical_or.reduce(forms).sum()) > len(cells) / 2


def read_dates(table: RawTable, name: str) -> Dates:
    """A column as days `[N]` (datetime64[ms]), NaT = missing; times of day and time zones are not used.

    2024-05-01, 2024/5/1, 20240501 and 1.5.2024 are dates; of 01/05/2024 the column decides whether the month
    comes first, where a number above 12 does. DataError, with rows: cells are no dates, or could be two."""
    missing = table.missing(name)
    cells = pd.Series(table.texts(name), dtype="str")
    if missing.all():
        _refuse_blank(table, name, "dates")
    parts = cells.str.extract(f"^{YEAR_FIRST}$")[["year", "month", "day"]]
    parts = parts.fillna(cells.str.extract(f"^{DAY_FIRST}$")).fillna(_day_or_month_first(table, name, cells))
    dates: Dates = pd.to_datetime(parts.astype(float), errors="coerce").to_numpy("datetime64[ms]")
    if wrong := np.flatnonzero(np.isnat(dates) & ~missing).tolist():
        remedy = f"{ISO}; leave cells blank where they are unknown; numbers go under `columns`."
        raise table.error(
            "cells that are not dates", table.cells(wrong, name, cells), f"write dates {remedy}"
        )
    if clocks := int(cells.str.contains(CLOCK).sum()):
        table.note(f"Column {name!r}: the times of day in {clocks} cells are not used.")
    return dates


def _day_or_month_first(table: RawTable, name: str, cells: pd.Series[Any]) -> pd.DataFrame:
    """The parts of cells such as 01/05/2024; DataError where the column does not tell which is the month."""
    parts = cells.str.extract(f"^{EITHER}$")
    rows = np.flatnonzero(parts["year"].notna()).tolist()
    above = {part: bool(parts[part].dropna().astype(int).gt(12).any()) for part in ("one", "two")}
    if rows and above["one"] == above["two"]:
        problem = "dates of which the day or the month may come first"
        raise table.error(problem, table.cells(rows, name, cells), f"write them {ISO}.")
    day, month = ("one", "two") if above["one"] else ("two", "one")
    if rows:
        order = "day" if above["one"] else "month"
        table.note(f"Column {name!r}: of dates such as {cells.iloc[rows[0]]!r} the {order} comes first.")
    return parts.rename(columns={day: "day", month: "month"})


def read_texts(table: RawTable, source: str) -> Cells:
    """The texts `[N]` of a column, or of a template of columns, as they stand.

    A blank cell is an empty text, and so is a blank spreadsheet cell; a key that a line of JSON lacks, or a
    null, is no text: a fault. DataError where all are empty."""
    cells = {name: as_text(table[name]) for name in needed_columns(source)}
    texts = fill(
        source, {name: column.fillna("").tolist() for name, column in cells.items()}, table, blanks=True
    )
    if not any(texts):
        raise table.error(f"{source!r} holds no text", [], "leave the modality out, or fill the column.")
    for name, column in cells.items():
        table.fault(column.isna().to_numpy(bool), f"no text in column {name!r}")
    return np.array(texts, object)


def read_ids(table: RawTable, name: str) -> Cells:
    """The samples' ids `[N]`; DataError for blank and repeated ones, with their rows."""
    ids = table.texts(name)
    if blank := np.flatnonzero(ids == "").tolist():
        raise data_error("Rows without an id", table.cells(blank, name), "fill these cells.")
    double = table.places[pd.Index(ids).duplicated(keep=False)]
    if len(double):
        places = double["row"].astype(str) + (" of " + double["file"] if table.several else "")
        rows = places.groupby(ids[double.index], sort=False).agg(", ".join)
        lines = [f"{value!r} in rows {where}" for value, where in rows.items()]
        raise table.error(f"ids in column {name!r} that are not unique", lines, "rename or remove rows.")
    return ids
