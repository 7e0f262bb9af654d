"""XLSX label files as they really are: every complaint names file and cell, in the spreadsheet's own
counting."""

from __future__ import annotations

import datetime
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import nearest

MARKS = {"nan", "na", "n/a", "#n/a", "null", "none", "<na>", "-"}
SENTINEL = -9999.0
PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
COMMA = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]*),(?P<part>[0-9]+)")


@dataclass(frozen=True)
class Sheet:
    """The first worksheet of a file: `rows` are (row number, cells in the order of `headers`); wholly empty
    rows apart.

    `headers` are stripped; a column without a header is "".
    """

    file: str
    headers: list[str]
    rows: list[tuple[int, tuple[Any, ...]]]
    empty_rows: list[int]

    def column(self, header: str) -> list[Any]:
        k = self.headers.index(header)
        return [cells[k] for _, cells in self.rows]

    def cell(self, i: int, header: str) -> str:
        """The name of a cell, e.g. `labels/train.xlsx, cell D12 (row 12, column 'vwc')`; `i` counts `rows`."""
        row = self.rows[i][0]
        letters, k = "", self.headers.index(header) + 1
        while k:
            k, rest = divmod(k - 1, 26)
            letters = chr(65 + rest) + letters
        return f"{self.file}, cell {letters}{row} (row {row}, column {header!r})"


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers: NaN = missing. `faults`: cells that are no numbers; the counts are for notes."""

    values: list[float]
    faults: list[str]
    marks: int  # NaN, -9999 … read as missing
    texts: int  # unambiguous numbers stored as text


def read_sheet(path: Path, file: str, required: Collection[str], hint: str = "") -> Sheet:
    """The first worksheet of `path`; `file` is its name in messages.

    Raises DataError where it is not an XLSX workbook (and says what it is), has no header or no rows, or
    where `required` columns are missing or doubled; `hint` then ends the remedy."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    if fault := media_fault(path):
        raise data_error(f"{file}: {fault}", [], "replace the file by a whole copy.")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise data_error(
            f"{file} is {_what_it_is(path)} ({error})", [], "save or download it as .xlsx."
        ) from None
    try:
        if not book.worksheets:
            raise data_error(f"{file} has no worksheet", [], "save the table in the first worksheet.")
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write wrong ones
        lines = [tuple(cells) for cells in sheet.iter_rows(values_only=True)]
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        raise data_error(
            f"{file} is a damaged workbook ({error})", [], "replace the file by a whole copy."
        ) from None
    finally:
        book.close()
    if not lines or _is_empty(lines[0]):
        raise data_error(
            f"{file}: row 1 holds no column names", [], "put them in row 1 of the first worksheet."
        )
    headers = ["" if h is None else str(h).strip().removeprefix("\ufeff") for h in lines[0]]
    _check_headers(file, headers, required, hint)
    width = len(headers)
    rows: list[tuple[int, tuple[Any, ...]]] = []
    empty: list[int] = []
    for number, cells in enumerate(lines[1:], start=2):
        if _is_empty(cells):
            empty.append(number)
        else:
            rows.append((number, (*cells[:width], *(None,) * (width - len(cells)))))
    return Sheet(file, headers, rows, empty)


def read_numbers(sheet: Sheet, header: str) -> Numbers:
    """The column as floats; blanks and missing marks are NaN, text that can mean only one number is that
    number."""
    values: list[float] = []
    faults: list[str] = []
    marks = texts = 0
    for i, cell in enumerate(sheet.column(header)):
        try:
            value, how = parse_number(cell)
        except ValueError as error:
            faults.append(f"{sheet.cell(i, header)}: {error}")
            value, how = math.nan, "fault"
        values.append(value)
        marks += how == "mark"
        texts += how == "text"
    return Numbers(values, faults, marks, texts)


def parse_number(cell: Any) -> tuple[float, str]:
    """A cell as a float, and how it came to be: `number`, `blank`, `mark` (a sign for missing) or `text`.

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


def _check_headers(file: str, headers: Sequence[str], required: Collection[str], hint: str) -> None:
    if missing := [name for name in required if name not in headers]:
        known = [h for h in headers if h]
        named = [f"{name!r}{nearest(name, known)}" for name in missing]
        remedy = f"add or rename them; the header (row 1) has: {', '.join(known)}.{hint}"
        raise data_error(
            f"{file} lacks {len(missing)} of {len(required)} columns", [", ".join(named)], remedy
        )
    if double := [name for name in required if list(headers).count(name) > 1]:
        raise data_error(
            f"{file} has columns more than once (row 1)", double, "remove or rename the extra ones."
        )


def _is_empty(cells: Sequence[Any]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


def _what_it_is(path: Path) -> str:
    head = path.read_bytes()[:512]
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return "an old XLS workbook (or an encrypted one) with the ending .xlsx"
    if head.startswith(b"PK"):
        return "a truncated or damaged workbook"
    if b"\0" not in head and any(mark in head for mark in b",;\t"):
        return "a text table (CSV) with the ending .xlsx"
    return "no XLSX workbook"
