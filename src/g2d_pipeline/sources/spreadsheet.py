"""XLSX files as they really are: every message names file and cell, in the spreadsheet's own counting.

openpyxl rather than pandas: row numbers, wholly empty rows, the types of cells and merged ones survive."""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import data_error, did_you_mean, media_fault

# what zipfile, the XML parsers and openpyxl raise for workbooks that are none, damaged, or of other programs
FAULTS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, SyntaxError, RuntimeError),
    *(LookupError, ValueError, TypeError, AttributeError),
)


@dataclass(frozen=True)
class Sheet:
    """The first visible worksheet of a file: `rows` are (row number, cells in the order of `headers`); wholly
    empty rows apart. `headers` are stripped; a column without a header is "". `notes`: what was decided while
    reading; `hint`: which other worksheets there are, for messages."""

    file: str
    headers: list[str]
    rows: list[tuple[int, tuple[Any, ...]]]
    empty_rows: list[int]
    notes: list[str]
    hint: str

    def column(self, header: str) -> list[Any]:
        k = self.headers.index(header)
        return [cells[k] for _, cells in self.rows]

    def cell(self, i: int, header: str) -> str:
        """The name of a cell, e.g. `train.xlsx, cell D12 (row 12, column 'vwc')`; `i` counts `rows`."""
        from openpyxl.utils import get_column_letter

        row = self.rows[i][0]
        letter = get_column_letter(self.headers.index(header) + 1)
        return f"{self.file}, cell {letter}{row} (row {row}, column {header!r})"


def read_sheet(path: Path, file: str, required: Collection[str], hint: str = "") -> Sheet:
    """The first visible worksheet of `path`, merged cells filled; `file` is its name in messages.

    Raises DataError where it is not an XLSX workbook (and says what it is), has no header or no rows, or
    where `required` columns are missing or doubled; `hint` then ends the remedy."""
    notes: list[str] = []
    with _open(path, file) as (sheet, others):
        lines = [list(cells) for cells in sheet.iter_rows(values_only=True)]
        if filled := _fill_merged(sheet, lines):
            notes.append(f"{file}: {filled} merged cells are filled with the value that they show.")
    if others:
        hint += f" {others}"
        notes.append(f"{file}: {others}")
    if not lines or _is_empty(lines[0]):
        remedy = "put them in row 1 of the first worksheet."
        raise data_error(f"{file}: row 1 holds no column names", [], remedy)
    headers = ["" if h is None else str(h).strip().removeprefix("\ufeff") for h in lines[0]]
    known = [h for h in headers if h]
    if missing := [f"{name!r}.{did_you_mean(name, known)}" for name in required if name not in headers]:
        remedy = f"add or rename them; the header (row 1) has: {', '.join(known)}.{hint}"
        raise data_error(f"{file} lacks {len(missing)} of {len(required)} columns", missing, remedy)
    if double := [name for name in required if headers.count(name) > 1]:
        remedy = "remove or rename the extra ones."
        raise data_error(f"{file} has columns more than once (row 1)", double, remedy)
    below = list(enumerate(lines[1:], 2))
    padding = (None,) * len(headers)
    empty = [i for i, cells in below if _is_empty(cells)]
    rows = [(i, (*cells, *padding)[: len(headers)]) for i, cells in below if not _is_empty(cells)]
    return Sheet(file, headers, rows, empty, notes, hint)


def read_formulas(path: Path, file: str) -> dict[tuple[int, int], str]:
    """(row, position of the column) → formula, of the worksheet that `read_sheet` reads."""
    with _open(path, file, values=False) as (sheet, _):
        return {
            (r, k): cell
            for r, cells in enumerate(sheet.iter_rows(values_only=True), start=1)
            for k, cell in enumerate(cells)
            if isinstance(cell, str) and cell.startswith("=")
        }


@contextlib.contextmanager
def _open(path: Path, file: str, values: bool = True) -> Iterator[tuple[Any, str]]:
    """The first visible worksheet, and which others there are (""); cells are `values`, or formulas."""
    import openpyxl

    if fault := media_fault(path):
        raise data_error(f"{file}: {fault}", [], "replace the file by a whole copy.")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=values)
    except FAULTS as error:
        raise data_error(f"{file} is {_form(path)} ({error})", [], "save or download it as .xlsx.") from None
    with contextlib.closing(book):
        if not book.worksheets:
            raise data_error(f"{file} has no worksheet", [], "save the table in the first worksheet.")
        hidden = [s for s in book.worksheets if s.sheet_state != "visible"]
        sheet = next((s for s in book.worksheets if s not in hidden), book.worksheets[0])
        names = [f"{s.title!r}{' (hidden)' * (s in hidden)}" for s in book.worksheets if s is not sheet]
        which = "first visible" if hidden else "first"
        only = f"Only the {which} worksheet ({sheet.title!r}) is read; there are {', '.join(names)}, too."
        try:
            sheet.reset_dimensions()  # some programs write wrong ones
            yield sheet, only if names else ""
        except FAULTS as error:
            headline = f"{file} is a damaged workbook ({error})"
            raise data_error(headline, [], "replace the file by a whole copy.") from None


def _fill_merged(sheet: Any, lines: list[list[Any]]) -> int:
    """Write the value of merged cells, which stands in the first alone, into all of them; how many."""
    from openpyxl.utils import range_boundaries

    with sheet._get_source() as source:  # read-only worksheets do not say it themselves
        merged = re.findall(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]+[0-9]+:[A-Z]+[0-9]+)"', source.read())
    width, filled = max(map(len, lines), default=0), 0
    for left, top, right, bottom in (range_boundaries(ref.decode()) for ref in merged):
        area = range(left - 1, min(right, width))
        rows = [line + [None] * (width - len(line)) for line in lines[top - 1 : bottom]]
        value = rows[0][left - 1] if rows and area else None
        for row in rows if value is not None else []:
            filled += sum(row[k] is None for k in area)
            row[area.start : area.stop] = [value] * len(area)
        lines[top - 1 : bottom] = rows
    return filled


def _is_empty(cells: Sequence[Any]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells)


def _form(path: Path) -> str:
    """What a file is that is no workbook."""
    head = path.read_bytes()[:512]
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return "an old XLS workbook (or an encrypted one) with the ending .xlsx"
    if head.startswith(b"PK"):
        return "a truncated or damaged workbook"
    if b"\0" not in head and any(mark in head for mark in b",;\t"):
        return "a text table (CSV) with the ending .xlsx"
    return "no XLSX workbook"
