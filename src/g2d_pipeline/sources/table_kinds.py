"""The cells of a user's table that are no numbers: categories, dates and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.table_cells import alike, is_missing, texts

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.sources.table_raw import RawTable

IDS = 20  # more categories than that, and more than half as many as rows: they are names, not categories
TIME = r"(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?(?:Z|[+-]\d{2}:?\d{2}))?)?"
YEAR_FIRST = rf"(?P<year>\d{{4}})(?P<sep>[-/.]?)(?P<month>\d{{1,2}})(?P=sep)(?P<day>\d{{1,2}}){TIME}"
DAY_FIRST = rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}}){TIME}"
EITHER = rf"(?P<one>\d{{1,2}})(?P<sep>[-/])(?P<two>\d{{1,2}})(?P=sep)(?P<year>\d{{4}}){TIME}"
CLOCK = r"[T ](?!0?0:00(?::00(?:\.0+)?)?(?:\D|$))\d{1,2}:\d{2}"  # a time of day other than midnight

Dates = npt.NDArray[np.datetime64]


def looks_like_dates(column: pd.Series[Any]) -> bool:
    """Whether most of the cells that are there are dates."""
    cells = texts(column)
    there = [cell for cell in cells if cell]
    return (
        sum(any(re.fullmatch(form, c) for form in (YEAR_FIRST, DAY_FIRST, EITHER)) for c in there)
        > len(there) / 2
    )


def read_categories(table: RawTable, name: str, notes: list[str]) -> pd.Series[Any]:
    """A column as categories `[N]`, missing where the cell is blank, NA, N/A, NaN or null.

    DataError where it is blank throughout, or where its values are names rather than categories.
    """
    import pandas as pd

    cells = texts(table[name])
    found = sorted(set(cells) - {""})
    there = int((cells != "").sum())
    if not found:
        raise data_error(
            f"{table.file}: column {name!r} is blank", [], "leave it out of `categorical`, or fill it."
        )
    if len(found) > IDS and len(found) > there / 2:
        headline = f"{table.file}: column {name!r} has {len(found)} different values in {there} rows"
        remedy = (
            "they look like no categories: leave it out of `categorical`; numbers are listed under `columns`."
        )
        raise data_error(headline, [", ".join(found[:8]) + " …"], remedy)
    notes += alike(f"Categories of {name!r}", found)
    return pd.Series([cell or None for cell in cells], dtype="str")


def mirrors(categories: pd.Series[Any], target: npt.NDArray[np.int64]) -> bool:
    """Whether each of several categories is one class, and each class one category; missing ones do not
    count."""
    there = categories.notna().to_numpy(bool)
    pairs = set(zip(categories[there], target[there].tolist(), strict=True))
    return 1 < len(pairs) == categories.nunique() == len({y for _, y in pairs}) < int(there.sum())


def read_dates(table: RawTable, name: str, notes: list[str]) -> Dates:
    """A column as days `[N]` (datetime64[ms]), NaT = missing; times of day and time zones are not used.

    2024-05-01, 2024/5/1, 20240501 and 1.5.2024 are dates; of 01/05/2024 the column tells whether the month
    comes first, where a number above 12 does. DataError, with rows, for cells that are no dates or could be
    two."""
    import pandas as pd

    column, missing = table[name], is_missing(table[name])
    cells = pd.Series(texts(column), dtype="str")
    if missing.all():
        raise data_error(
            f"{table.file}: column {name!r} is blank", [], "leave it out of `dates`, or fill it."
        )
    dates = cells.str.extract(f"^{YEAR_FIRST}$")[["year", "month", "day"]]
    dates = dates.fillna(cells.str.extract(f"^{DAY_FIRST}$")).fillna(_either(table, name, cells, notes))
    parts = [pd.to_numeric(dates[key]).fillna(0).to_numpy(np.int64) for key in ("year", "month", "day")]
    days, valid = _days(*parts)
    if wrong := np.flatnonzero(~valid & ~missing).tolist():
        shown = [f"{table.place(i, name)}: {cells.iloc[i]!r}" for i in wrong]
        remedy = (
            "write dates as 2024-05-01; leave cells blank where they are unknown; numbers go under `columns`."
        )
        raise data_error(f"{table.file}: cells that are not dates", shown, remedy)
    if clocks := int(cells.str.contains(CLOCK).sum()):
        notes.append(f"Column {name!r}: the times of day in {clocks} cells are not used.")
    days[missing] = np.datetime64("NaT")
    return days


def _either(table: RawTable, name: str, cells: pd.Series[Any], notes: list[str]) -> pd.DataFrame:
    """The cells such as 01/05/2024; DataError where the column does not tell whether the day or the month is
    first."""
    found = cells.str.extract(f"^{EITHER}$")
    there = np.flatnonzero(found["year"].notna()).tolist()
    above = {part: bool(found[part].dropna().astype(int).gt(12).any()) for part in ("one", "two")}
    if there and above["one"] == above["two"]:
        shown = [f"{table.place(i, name)}: {cells.iloc[i]!r}" for i in there]
        headline = f"{table.file}: dates of which the day or the month may come first"
        raise data_error(headline, shown, "write them as 2024-05-01.")
    if there:
        order = "day" if above["one"] else "month"
        notes.append(f"Column {name!r}: of dates such as {cells.iloc[there[0]]!r} the {order} comes first.")
    day, month = ("one", "two") if above["one"] else ("two", "one")
    return found.rename(columns={day: "day", month: "month"})


def _days(
    year: npt.NDArray[np.int64], month: npt.NDArray[np.int64], day: npt.NDArray[np.int64]
) -> tuple[Dates, npt.NDArray[np.bool_]]:
    """(the days, which of them exist)"""
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1)
    days = months.astype("datetime64[D]") + (day - 1)
    valid = (year > 0) & (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]") == months)
    return days.astype("datetime64[ms]"), valid


def read_texts(
    table: RawTable, source: str, columns: Sequence[str]
) -> tuple[npt.NDArray[np.object_], dict[int, str]]:
    """The texts `[N]` of a column, or of a template of columns, as they stand; what is wrong with rows
    without one.

    A blank cell is an empty text, and so is a blank spreadsheet cell; a key that a line of JSON lacks, or a
    null, is no text. DataError where all are empty."""
    from g2d_pipeline.sources.table_paths import fill
    from g2d_pipeline.sources.table_raw import as_text

    cells = {c: as_text(table[c]) if table[c].dtype.kind == "f" else table[c] for c in columns}
    if "{" in source:
        index = (table.rows - table.first).tolist()
        found = np.array(fill(source, {c: list(of) for c, of in cells.items()}, index, blanks=True), object)
    else:
        found = cells[source].to_numpy(object).copy()
    if not any(found):
        raise data_error(
            f"{table.file}: {source!r} holds no text", [], "leave the modality out, or fill the column."
        )
    missing = {c: np.flatnonzero(table.is_missing(c)).tolist() for c in columns}
    return found, {i: f"no text in column {c!r}" for c, rows in missing.items() for i in rows}
