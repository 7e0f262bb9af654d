"""One rule for the cells of all tables: what means a missing value, and what a number."""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

MISSING = {"", "nan", "na", "n/a", "#n/a", "null", "<na>"}  # mean missing in any cell, in any case
MARKS = MISSING - {""} | {"none", "-"}  # and in a cell that should be a number
SENTINEL = -9999.0  # means missing, as number and as text
# decimal mark → a number written with it; the other mark may stand between thousands
NUMBER = {
    mark: re.compile(
        rf"[+-]?(?:(?:[0-9]+(?:[{mark}]{digits})?|[{mark}][0-9]+)(?:[eE][+-]?[0-9]+)?"
        rf"|(?P<thousands>[1-9][0-9]{{0,2}}(?:[{other}][0-9]{{3}})+(?:[{mark}][0-9]+)?))"
    )
    for mark, other, digits in ((".", ",", "[0-9]*"), (",", ".", "[0-9]+"))
}


def clear_sentinel(values: npt.NDArray[np.float64]) -> int:
    """Set every -9999 of `values` to NaN, in place, and return how many there were."""
    marks = values == SENTINEL
    values[marks] = math.nan
    return int(marks.sum())


def decimal_mark(cells: pd.Series[Any], separator: str | None) -> Literal["", ".", ",", "?"]:
    """The decimal mark of a column of text, as those cells have it that are numbers with one mark only.

    `separator`: of the file (semicolons say that commas are decimal); None: cells are typed, points decimal.
    "": each cell says it; "?": it does not, and `1.234` may be either."""
    comma, point = (cells.str.fullmatch(NUMBER[mark].pattern) for mark in ",.")
    with_comma, with_point = (cells.str.contains(mark, regex=False) for mark in ",.")
    commas, points = int((comma & ~point).sum()), int((point & ~comma).sum())
    either = int((comma & point & with_point).sum())
    if separator == ";" or commas:
        commas += int((comma & point & with_comma).sum())
    if separator is None:
        points, either = points + either, 0
    if commas and not points:
        return "," if commas >= either else "?"
    if not commas and (point & ~comma & with_comma).any():  # commas are for thousands
        return "."
    return "?" if commas > points and either else ""


def parse_number(
    cell: Any, mark: Literal["", ".", ",", "?"] = ""
) -> tuple[float, Literal["number", "blank", "mark", "text"]]:
    """A cell as a float (NaN: missing), and how it is written: a `mark` for missing, a number as `text`, …

    Raises ValueError saying what the cell holds instead. `0,25` and `12,5` are decimal commas; `1,013` may be
    a thousand or one point zero one three, and is refused unless the decimal `mark` of the column is known; a
    mark "?" refuses `1.234`, too."""
    if cell is None:
        return math.nan, "blank"
    if isinstance(cell, bool):
        raise ValueError(f"{str(cell).upper()} is no number")
    if isinstance(cell, int | float):
        return (math.nan, "mark") if cell == SENTINEL or not math.isfinite(cell) else (float(cell), "number")
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        raise ValueError(f"a date or time ({cell}), not a number: the spreadsheet program has converted it")
    text = str(cell).strip().replace("\N{MINUS SIGN}", "-")
    if not text:
        return math.nan, "blank"
    if text.casefold() in MARKS:
        return math.nan, "mark"
    forms = {point: match["thousands"] for point, form in NUMBER.items() if (match := form.fullmatch(text))}
    if len(forms) == 2 and mark not in forms and ("," in text or (mark == "?" and "." in text)):
        name = "comma" if "," in text else "point"
        raise ValueError(f"text {text!r} may have a decimal {name} or a {name} for thousands: write a number")
    point = mark if mark in forms else next((point for point, groups in forms.items() if not groups), "")
    number = float(text.replace({".": ",", ",": "."}[point], "").replace(",", ".")) if point else math.inf
    if not math.isfinite(number):
        raise ValueError(f"text {cell!r} is no number")
    return (math.nan, "mark") if number == SENTINEL else (number, "text")
