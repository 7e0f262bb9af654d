"""One rule for the cells of all tables: what means a missing value, and what a number."""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MISSING = {"", "nan", "na", "n/a", "#n/a", "null", "<na>"}  # mean missing in any cell, in any case
MARKS = MISSING - {""} | {"none", "-"}  # and in a cell that should be a number
SENTINEL = -9999.0  # means missing, as number and as text
PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
COMMA = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]*),(?P<part>[0-9]+)")


def clear_sentinel(values: npt.NDArray[np.float64]) -> int:
    """Set every -9999 of `values` to NaN, in place, and return how many there were."""
    marks = values == SENTINEL
    values[marks] = math.nan
    return int(marks.sum())


def parse_number(cell: Any) -> tuple[float, Literal["number", "blank", "mark", "text"]]:
    """A cell as a float (NaN: missing), and how it is written: `mark` is a sign for missing, `text` a number
    stored as text.

    Raises ValueError saying what the cell holds instead. `0,25` and `12,5` are decimal commas; `1,013` may be
    a thousand or one point zero one three, and is refused."""
    if cell is None:
        return math.nan, "blank"
    if isinstance(cell, bool):
        raise ValueError(f"{str(cell).upper()} is no number")
    if isinstance(cell, int | float):
        return (math.nan, "mark") if cell == SENTINEL or not math.isfinite(cell) else (float(cell), "number")
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        raise ValueError(f"a date or time ({cell}), not a number: the spreadsheet program has converted it")
    text = str(cell).strip()
    if not text:
        return math.nan, "blank"
    if text.casefold() in MARKS:
        return math.nan, "mark"
    if match := COMMA.fullmatch(text):
        if len(match["part"]) == 3 and match["whole"].lstrip("0"):
            raise ValueError(
                f"text {text!r} may have a decimal comma or a comma for thousands: write a number"
            )
        text = text.replace(",", ".")
    if not PLAIN.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"text {cell!r} is no number")
    return (math.nan, "mark") if float(text) == SENTINEL else (float(text), "text")
