"""The cells of a user's table as numbers, labels and splits: what can mean only one thing is read, the rest
is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS
from g2d_pipeline.config.layouts import SPLIT_WORDS
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import nearest
from g2d_pipeline.sources.spreadsheet import MARKS, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.table_raw import RawTable

MISSING = ["", "na", "n/a", "#n/a", "nan", "null", "<na>"]
SENTINELS = (-9999.0, -999.0)
WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
MANY_CLASSES = 20
LEAK = 0.999

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Numbers:
    """A column as floats `[N]`, NaN = missing; `faults`: position of a cell that is no number → what it is."""

    values: Floats
    faults: dict[int, str]
    notes: list[str]


def is_missing(column: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Which cells `[N]` are blank, NA, N/A, NaN or null, in any case."""
    if column.dtype.kind == "f":
        return column.isna().to_numpy(bool)
    return column.str.lower().isin(MISSING).to_numpy(bool)


def texts(column: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """The cells as text `[N]`, "" where they are missing; numbers as in a text table."""
    from g2d_pipeline.sources.table_raw import as_text

    missing = is_missing(column)
    plain = as_text(column.tolist()) if column.dtype.kind == "f" else column
    cells: npt.NDArray[np.object_] = plain.to_numpy(object).copy()
    cells[missing] = ""
    return cells


def read_numbers(table: RawTable, name: str) -> Numbers:
    """A column as numbers. A decimal comma is read where it can be nothing else; `1,013` is a fault."""
    import pandas as pd

    column = table[name]
    if column.dtype.kind == "f":
        values: Floats = column.to_numpy(np.float64).copy()
        return Numbers(values, {}, _sentinels(values, name))
    missing = column.str.lower().isin([*MISSING, *MARKS]).to_numpy(bool)
    values = np.array(pd.to_numeric(column.mask(missing), errors="coerce"), np.float64)
    faults: dict[int, str] = {}
    commas = 0
    for i in np.flatnonzero(np.isnan(values) & ~missing).tolist():
        try:
            values[i] = parse_number(column.iloc[i])[0]
            commas += 1
        except ValueError as error:
            faults[i] = str(error)
    notes = [f"Column {name!r}: {commas} numbers have a decimal comma, and are read so."] if commas else []
    return Numbers(values, faults, notes + _sentinels(values, name))


def _sentinels(values: Floats, name: str) -> list[str]:
    found = [f"{count} × {mark:g}" for mark in SENTINELS if (count := int((values == mark).sum()))]
    remedy = "if that means missing, leave those cells blank."
    return [f"Column {name!r} holds {', '.join(found)}, read as numbers: {remedy}"] if found else []


def read_features(table: RawTable, columns: Sequence[str], notes: list[str]) -> dict[str, Floats]:
    """The numbers of tabular modalities; DataError for text columns, cells that are no numbers, and
    infinities."""
    from g2d_pipeline.sources.table_kinds import looks_like_dates

    found: dict[str, Floats] = {}
    faults: list[str] = []
    for name in columns:
        numbers = read_numbers(table, name)
        there = int((~is_missing(table[name])).sum())
        if len(numbers.faults) > there / 2:
            shown = ", ".join(dict.fromkeys(f"{table[name].iloc[i]!r}" for i in list(numbers.faults)[:20]))
            dates = looks_like_dates(table[name])
            headline = f"{table.file}: column {name!r} holds {'dates' if dates else 'text'}, and `columns` are numbers"
            key = "dates" if dates else "categorical"
            raise data_error(
                headline, [shown[:200]], f"list it under the modality's `{key}`, or leave it out."
            )
        faults += [f"{table.place(i, name)}: {reason}" for i, reason in numbers.faults.items()]
        faults += [
            f"{table.place(i, name)}: infinite" for i in np.flatnonzero(np.isinf(numbers.values)).tolist()
        ]
        if not there:
            raise data_error(
                f"{table.file}: column {name!r} is blank", [], "leave it out of `columns`, or fill it."
            )
        notes += numbers.notes
        found[name] = numbers.values
    if faults:
        remedy = "write plain numbers with a decimal point; leave cells blank where they are unknown."
        raise data_error(f"{table.file}: cells that are not numbers", faults, remedy)
    return found


# ----------------------------------------------------------------------------------------------------- target
def read_target(table: RawTable, name: str, log: bool) -> tuple[Floats, dict[int, str]]:
    """A regression's target `[N]`, its natural logarithm where `log`; with it, what is wrong with rows that
    have none.

    DataError where it is text, constant, or (`log`) not positive.
    """
    numbers = read_numbers(table, name)
    values = numbers.values
    if len(numbers.faults) > int((~is_missing(table[name])).sum()) / 2:
        shown = [f"{table.place(i, name)}: {table[name].iloc[i]!r}" for i in numbers.faults]
        raise data_error(
            "The target of a regression is text", shown, "set `task: classification`, or another target."
        )
    faults = {i: f"column {name!r}: {reason}" for i, reason in numbers.faults.items()}
    for i in np.flatnonzero(np.isnan(values)).tolist():
        faults.setdefault(i, f"no value in the target's column {name!r}")
    faults |= dict.fromkeys(np.flatnonzero(np.isinf(values)).tolist(), f"the target {name!r} is infinite")
    good = np.delete(values, list(faults))
    if len(good) > 1 and good.min() == good.max():
        headline = f"{table.file}: the target {name!r} is {good[0]:g} in all {len(good)} rows"
        raise data_error(headline, [], "choose another column as `target`: there is nothing to learn.")
    if log and (low := np.flatnonzero(values <= 0).tolist()):
        shown = [f"{table.place(i, name)}: {values[i]:g}" for i in low]
        raise data_error(
            "Targets of zero or below have no logarithm",
            shown,
            "remove these rows, or set `log_target: false`.",
        )
    if log:
        values = np.log(values, where=np.isfinite(values), out=np.full(len(values), np.nan))
    return values, faults


def read_labels(
    table: RawTable, name: str, classes: list[str] | None, notes: list[str]
) -> tuple[npt.NDArray[np.int64], list[str], dict[int, str]]:
    """A classification's target `[N]` (-1: none), the class names, and what is wrong with rows that have
    none.

    Class names are `classes`, or sorted: numbers by value. DataError where there is one class only, where the
    target looks like a measurement, or where labels are not among `classes`."""
    labels = texts(table[name])
    there = labels[labels != ""]
    if len(there) and all(WHOLE.fullmatch(label) or label.lstrip("+-").isdigit() for label in set(there)):
        labels = np.array([WHOLE.sub(r"\1", label) for label in labels], object)
    found = (
        sorted(set(labels) - {""}, key=_by_value)
        if _all_numbers(set(labels) - {""})
        else sorted(set(labels) - {""})
    )
    measured = _all_numbers(found) and any(not float(label).is_integer() for label in found)
    if measured or (len(found) > MANY_CLASSES and len(found) > len(there) / 2):
        headline = f"{table.file}: the target {name!r} has {len(found)} different values in {len(there)} rows"
        remedy = "they look like no classes: set `task: regression`, or choose another column as `target`."
        raise data_error(headline, [", ".join(found[:8]) + " …"], remedy)
    if classes is not None:
        if unknown := [i for i, label in enumerate(labels) if label and label not in classes]:
            shown = [f"{table.place(i, name)}: {labels[i]!r}{nearest(labels[i], classes)}" for i in unknown]
            raise data_error(
                "Labels that are not among `classes`", shown, f"correct them, or add to {classes}."
            )
    elif len(found) < 2:
        headline = (
            f"{table.file}: the target {name!r} is {found[0]!r} in every row"
            if found
            else (f"{table.file}: the target {name!r} is blank in every row")
        )
        raise data_error(headline, [], "choose another column as `target`: there is nothing to learn.")
    names = classes or found
    notes += alike("Classes", found)
    code = {label: k for k, label in enumerate(names)}
    target = np.array([code.get(label, -1) for label in labels], np.int64)
    return (
        target,
        names,
        dict.fromkeys(np.flatnonzero(target < 0).tolist(), f"no label in the target's column {name!r}"),
    )


def alike(what: str, values: Sequence[str]) -> list[str]:
    """A note on values that differ in case or blanks only, if there are any."""
    folded: dict[str, list[str]] = {}
    for value in values:
        folded.setdefault(" ".join(value.casefold().split()), []).append(value)
    found = [" and ".join(map(repr, of)) for of in folded.values() if len(of) > 1]
    return [f"{what} that differ in case or blanks only: {'; '.join(found)}. Are they one?"] if found else []


def _all_numbers(labels: set[str] | list[str]) -> bool:
    try:
        return all(np.isfinite(float(label)) for label in labels)
    except ValueError:
        return False


def _by_value(label: str) -> tuple[float, str]:
    return float(label), label


# ---------------------------------------------------------------------------------------------- split and ids
def read_split(table: RawTable, name: str) -> npt.NDArray[np.str_]:
    """train, val or test of each row `[N]`; the usual synonyms are understood. DataError for other words and
    blanks."""
    cells = texts(table[name])
    meant = [SPLIT_WORDS.get(cell.casefold()) for cell in cells]
    if wrong := [i for i, split in enumerate(meant) if split is None]:
        shown = [
            f"{table.place(i, name)}: {f'{cells[i]!r}{nearest(cells[i], SPLIT_WORDS)}' if cells[i] else 'blank'}"
            for i in wrong
        ]
        raise data_error("Splits that are none of train, val and test", shown, "correct these cells.")
    if empty := [split for split in SPLITS if split not in meant]:
        remedy = (
            "name such rows in that column; or have the split drawn: `split: {val: 0.1, test: 0.2}` in place of "
            f"`split: {name}`."
        )
        raise data_error(f"{table.file}: column {name!r} has no row of split", empty, remedy)
    return np.array(meant, dtype="<U5")


def read_ids(table: RawTable, name: str) -> npt.NDArray[np.object_]:
    """The samples' ids `[N]`; DataError for blank and repeated ones, with their rows."""
    ids = texts(table[name])
    if blank := np.flatnonzero(ids == "").tolist():
        raise data_error("Rows without an id", [table.place(i, name) for i in blank], "fill these cells.")
    rows: dict[str, list[str]] = {}
    for i, value in enumerate(ids.tolist()):
        place = str(table.rows[i]) if table.files is None else f"{table.rows[i]} of {table.file_of(i)}"
        rows.setdefault(value, []).append(place)
    if double := [f"{v!r} in rows {', '.join(of)}" for v, of in rows.items() if len(of) > 1]:
        raise data_error(
            f"{table.file}: ids in column {name!r} that are not unique", double, "rename or remove rows."
        )
    return ids


def leaks(features: dict[str, Floats], target: Floats) -> list[str]:
    """The columns whose correlation with the target exceeds 0.999, and how much it is."""
    found = []
    for name, values in features.items():
        both = np.isfinite(values) & np.isfinite(target)
        x, y = values[both], target[both]
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            r = abs(float(np.corrcoef(x, y)[0, 1]))
            if r > LEAK:
                found.append(f"{name!r} (|r| = {r:.4f})")
    return found
