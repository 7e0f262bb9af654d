"""A user's table by its ending: csv, tsv, txt, jsonl, parquet, xlsx or npy; rows as the user counts them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.files import load_npy
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.spreadsheet import read_formulas, read_sheet
from g2d_pipeline.sources.table import ENDINGS
from g2d_pipeline.sources.table.frame import RawTable, as_text, make_table, stack

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
AGAIN = (
    "save the table again as CSV in UTF-8 (in Excel: “CSV UTF-8”; in LibreOffice: character set Unicode "
    "(UTF-8))."
)
WHOLE_COPY = "replace the file by a whole copy."
LINES = 50  # in one cell: a quotation mark has swallowed them
LINE_END = re.compile(r"\r\n?|\n")
MOST = 0.9  # of the lines


def read_tables(root: Path, files: Iterable[str], names: Sequence[str] | None = None) -> RawTable:
    """All rows of the files, one below the other; of several files those columns that all have.

    Raises what `read_table` raises, and DataError where no row can be read."""
    tables = [read_table(root / file, file, names) for file in files]
    table = tables[0] if len(tables) == 1 else stack(tables)
    if table.bad and not len(table):
        headline = f"{table.file}: {len(table.bad)} of {len(table.bad)} rows can not be used"
        remedy = "correct the table" + (", or `names` under `raw`." if names is not None else ".")
        raise data_error(headline, table.bad, remedy)
    return table


def read_table(path: Path, file: str, names: Sequence[str] | None = None, by_stem: bool = False) -> RawTable:
    """The table at `path`, by its ending; `file` is its name in messages.

    `names`: the columns of a text table without a header, whose separator may then be blanks, or of an array,
    whose columns are else `<stem>_0`, … if `by_stem`. DataError: the file is no such table, not UTF-8, or has
    no rows; wholly empty rows are left out with a note."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        what = {"": "no ending", ".xls": "the old Excel format"}.get(ending, f"the ending {ending!r}")
        raise data_error(f"{file} has {what}", [], f"save the table as one of {', '.join(ENDINGS)}.")
    typed = {".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".xlsx": _xlsx}
    if names is not None and ending in typed:
        remedy = "`names` is for text tables without a header: remove it."
        raise data_error(f"{file} has names of its own", [], remedy)
    if fault := media_fault(path):
        raise data_error(f"{file} {fault}", [], WHOLE_COPY)
    try:
        if ending in typed:
            table = typed[ending](path, file)
        elif ending == ".npy":
            table = _array(path, file, names, by_stem)
        else:
            table = _delimited(_utf8(path, file), file, "\t" if ending == ".tsv" else None, names)
    except OSError as error:
        remedy = "look at its permissions."
        raise data_error(f"{file} can not be read ({error.strerror or error})", [], remedy) from None
    if not len(table) and not table.bad:
        raise data_error(f"{file} has a header but no rows", [], WHOLE_COPY)
    return table


# ------------------------------------------------------------------------------------------------ text tables
def _utf8(path: Path, file: str) -> str:
    """The file's text without byte-order mark; DataError with the first byte that is not UTF-8."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise data_error(f"{file} is UTF-16, not UTF-8", [], AGAIN)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start
        line = content.count(b"\n", 0, start) + 1
        before, after = content[:start].rpartition(b"\n")[2], content[start : start + 12].partition(b"\n")[0]
        around = (before[-12:] + after).decode("cp1252", "replace").strip()
        where = f"byte {start} (0x{content[start]:02x}) in line {line}, near {around!r}"
        raise data_error(f"{file} is not UTF-8", [where], AGAIN) from None
    if "\0" in text:
        raise data_error(f"{file} holds zero bytes: it is no text table", [], AGAIN)
    if not text.strip():
        raise data_error(f"{file} is empty", [], WHOLE_COPY)
    return text


def _delimited(text: str, file: str, separator: str | None, names: Sequence[str] | None) -> RawTable:
    """A table whose cells are separated by one character, which the first line tells."""
    notes: list[str] = []
    text = text.lstrip("\r\n") if names is None else text
    first = LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0]
    if separator is None:
        separator = max(",;\t|", key=first.count)
        if names is not None and not first.count(separator):
            separator = " "
            text = "\n".join(" ".join(line.split()) for line in LINE_END.split(text.rstrip()))
        if separator != ",":
            notes.append(f"{file}: cells are separated by {SEPARATORS[separator]}.")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        headers = names or [name.strip() for name in next(lines)]
    except csv.Error as error:
        raise data_error(f"{file}: row 1 is no header ({error})", [], WHOLE_COPY) from None
    text, quoting = _normalise_quotes(text, file, separator, len(headers), notes)
    if not quoting and names is None:
        headers = [_unquote(header) for header in first.split(separator)]
    cells, bad = _parse(text, file, separator, len(headers), quoting, names is not None)
    rows = np.setdiff1d(np.arange(1, len(cells) + len(bad) + 1), [row.row or 0 for row in bad])
    skip = 1 if names is None else 0
    cells, rows = cells.iloc[skip:], rows[skip:]
    full = (cells[0] != "").to_numpy(bool)
    if not full.all():  # else no row can be empty
        full = (cells != "").any(axis=1).to_numpy(bool)
    if not full.all():
        notes.append(_empty(file, rows[~full].tolist()))
        cells, rows = cells[full], rows[full]
    cells = cells.reset_index(drop=True)
    line_ends = _lines(text) if '"' in text else 0
    long = [
        (name, f"row {rows[i]}, column {name!r}, goes over {cells[k][i].count(chr(10))} lines")
        for k, name in enumerate(headers if line_ends > len(cells) + LINES else [])  # else no cell can
        for i in np.flatnonzero((cells[k].str.count("\n") > LINES).to_numpy(bool)).tolist()
    ]
    more = {"bad": bad, "notes": notes, "long": long, "separators": dict.fromkeys(headers, separator)}
    return make_table(file, headers, cells, rows, 1 + skip, **more)


def _normalise_quotes(text: str, file: str, separator: str, width: int, notes: list[str]) -> tuple[str, bool]:
    """The text of a table of `width` columns, and whether quotation marks in it are around cells; else they
    are characters. A backslash before one within a cell becomes a second one; blanks before a cell go.

    They are characters where they are wrong, or hold line ends, and lines are rows without them. `notes`
    tells what is not the standard. DataError, with the row, where one is not closed or not doubled."""
    if '"' not in text:
        return text, True
    start, end = rf"(?<![^{separator}\r\n])", rf"(?= *(?:[{separator}\r\n]|\Z))"
    long, wrong = _quoted(text, start, end)
    if f'{separator} "' in text:
        stripped = re.sub(rf'{start} *("[^"]*+(?:""[^"]*+)*+"){end}', r"\1", text)
        if (cells := _quoted(stripped, start, end))[1] is None:
            text, (long, wrong) = stripped, cells
    if wrong and '\\"' in text:
        escaped = rf'{start}"(?:[^"\\]|\\.|"")*+"{end}'
        doubled = re.sub(escaped, lambda cell: cell[0].replace('\\"', '""'), text, flags=re.DOTALL)
        if _quoted(doubled, start, end)[1] is None:
            notes.append(f"{file}: quotation marks after a backslash are read as characters of the cell.")
            return doubled, True
    if not (wrong or long):
        return text, True
    rows = [line.count(separator) == width - 1 for line in LINE_END.split(text) if line]
    if (wrong and sum(rows) > MOST * len(rows)) or (long and all(rows) and width > 1):
        marks = "quotation marks that are not around a whole cell"
        row = _lines(text[: (wrong or long[0]).start()]) + 1
        notes.append(f"{file}: {marks} are read as characters (row {row}).")
        return text, False
    if wrong:
        row = _lines(text[: wrong.start()]) - sum(_lines(cell[0]) for cell in long) + 1
        if wrong.end() == len(text):
            line = f"row {row} goes over {_lines(wrong[0].rstrip())} lines"
            raise data_error(f"{file}: a quotation mark is not closed", [line], "close it, or remove it.")
        line = f"row {row}, near {text[wrong.start() : wrong.end() + 12][:40]!r}"
        headline = f"{file}: a quotation mark is not closed, or one within a cell is not doubled"
        raise data_error(headline, [line], "close it, double it, or remove it.")
    if whole := [cell for cell in long if width > 1 and _holds_rows(text, cell, separator, width)]:
        count = len(whole)
        headline = f"{file}: {count} quoted cells hold line ends, and each of their lines has {width} cells"
        line = f"line {_lines(text[: whole[0].start()]) + 1}"
        if separator == "\t":  # which texts do not hold
            raise data_error(headline, [line], "close the quotation marks, or remove them.")
        notes.append(f"{headline} ({line}): is a quotation mark not closed?")
    return text, True


def _quoted(text: str, start: str, end: str) -> tuple[list[re.Match[str]], re.Match[str] | None]:
    """The quoted cells that hold line ends, and the first one that does not end where it should."""
    long: list[re.Match[str]] = []
    for cell in re.finditer(rf'{start}"[^"]*+(?:""[^"]*+)*+(?P<end>"{end})?', text):
        if cell["end"] is None:
            return long, cell
        if LINE_END.search(cell[0]):
            long.append(cell)
    return long, None


def _lines(text: str) -> int:
    return len(LINE_END.findall(text))


def _holds_rows(text: str, cell: re.Match[str], separator: str, width: int) -> bool:
    """Whether each line that the cell goes over has as many cells as a row."""
    start = max(text.rfind(end, 0, cell.start()) for end in "\r\n") + 1
    ending = LINE_END.search(text, cell.end())
    lines = LINE_END.split(text[start : ending.start() if ending else len(text)])
    return all(line.count(separator) == width - 1 for line in lines)


def _unquote(cell: str) -> str:
    """A cell without the quotation marks around it, if it has them."""
    cell = cell.strip()
    return cell[1:-1].replace('""', '"').strip() if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _parse(
    text: str, file: str, separator: str, width: int, quoting: bool, named: bool
) -> tuple[pd.DataFrame, list[BadRow]]:
    """All rows of `width` cells, stripped, and the others: pyarrow alone numbers the rows that it refuses."""
    bad: list[BadRow] = []

    def refuse(row: Any) -> str:
        expected = f"and `names` gives {width}" if named else f"not {width}"
        reason = f"has {row.actual_columns} cells, {expected}: {row.text.strip()[:60]!r}"
        if row.actual_columns > row.expected_columns and not named:
            reason += " (quote cells that hold the separator; write decimal points, not commas)"
        bad.append(BadRow(file, row.number, reason))
        return "skip"

    keys = [str(k) for k in range(width)]
    content = text.encode()
    # one thread numbers the rows; a row may be as long as the file
    block_size = min(len(content) + 1, 2**31 - 1)
    read = pa.csv.ReadOptions(column_names=keys, use_threads=False, block_size=block_size)
    parse = pa.csv.ParseOptions(
        delimiter=separator,
        quote_char='"' if quoting else False,
        newlines_in_values=quoting,
        ignore_empty_lines=False,
        invalid_row_handler=refuse,
    )
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(keys, pa.string()), strings_can_be_null=False)
    try:
        parsed = pa.csv.read_csv(io.BytesIO(content), read, parse, convert)
    except pa.ArrowInvalid as error:
        remedy = "look for a quotation mark that is not closed, or replace the file by a whole copy."
        raise data_error(f"{file} is no table of cells ({error})", [], remedy) from None
    cells = pa.table(list(map(pc.utf8_trim_whitespace, parsed.columns)), names=keys).to_pandas()
    if not text.isascii():
        cells = cells.apply(_compose)
    if not quoting:
        cells = cells.map(_unquote)
    return cells.astype("str").set_axis(range(width), axis=1), bad


def _jsonl(path: Path, file: str) -> RawTable:
    """One JSON object a line; rows are lines. Keys that a line lacks are null; lists and objects `<list>`."""
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[BadRow] = []
    for number, line in enumerate(_utf8(path, file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append({key.strip(): value for key, value in json.loads(line).items()})
            rows.append(number)
        except ValueError as error:
            bad.append(BadRow(file, number, f"is not JSON ({error})"))
        except AttributeError:  # it has no items
            bad.append(BadRow(file, number, 'is not an object of keys, such as {"file_name": "a.wav"}'))
    data = pd.DataFrame(records, dtype=object)  # as they are: an integer beside a null stays one
    names, data = [str(key) for key in data], data.apply(as_text)
    return make_table(file, names, data, np.array(rows, np.int64), 1, bad=bad)


# ------------------------------------------------------------------------------------------ tables with types
def _parquet(path: Path, file: str) -> RawTable:
    """Rows count from 1. Numbers stay numbers; everything else becomes text."""
    try:
        table = pa.parquet.ParquetFile(path).read()
    except (pa.ArrowException, ValueError) as error:
        raise data_error(f"{file} is no parquet table ({error})", [], WHOLE_COPY) from None
    return typed_table(table, file)


def typed_table(table: pa.Table, file: str, start: int = 0) -> RawTable:
    """A table whose columns have types; `start`: how many rows of the file are before its first."""
    names = [str(name).strip() for name in table.column_names]
    data = pd.DataFrame({k: _column(values) for k, values in enumerate(table.columns)})
    return make_table(file, names, data, np.arange(start + 1, start + table.num_rows + 1), 1)


def _column(values: pa.ChunkedArray | pa.Array) -> pd.Series[Any]:
    """Numbers as float64 where that is exact, else as text, as everything else."""
    kind, exact = values.type, False
    if pa.types.is_integer(kind):
        exact = all(abs(value or 0) <= 2**53 for value in pc.min_max(values).as_py().values())
    if exact or pa.types.is_floating(kind):
        return pd.Series(values.to_pandas(), dtype="float64")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _compose(pd.Series(pc.utf8_trim_whitespace(values).to_pandas(), dtype="str"))
    return as_text(values.to_pylist())


def _compose(cells: pd.Series[Any]) -> pd.Series[Any]:
    """The text in Unicode NFC."""
    return cells if cells.str.isascii().all() else cells.str.normalize("NFC")


def _array(path: Path, file: str, names: Sequence[str] | None, by_stem: bool) -> RawTable:
    """Numbers `[N]` or `[N, F]` and the `names` of the columns; rows count from 0, as an array's do."""
    try:
        array = load_npy(path)
    except (ValueError, EOFError) as error:
        remedy = "save it again by numpy.save."
        raise data_error(f"{file} is no array of numbers ({error})", [], remedy) from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "iufb":
        remedy = "a table is numbers [N] or [N, columns]: save it so."
        raise data_error(f"{file} holds {array.dtype} {list(array.shape)}", [], remedy)
    if by_stem and names is None:
        names = [path.stem] if array.ndim == 1 else [f"{path.stem}_{k}" for k in range(array.shape[1])]
    array = array.reshape(len(array), -1)
    if names is None or len(names) != array.shape[1]:
        count = "no names" if names is None else f"{len(names)} names"
        headline = f"{file} has {array.shape[1]} columns and `names` gives {count}"
        raise data_error(headline, [], "name each of them under `names`.")
    array = array.astype(np.float64) if array.dtype.kind == "b" else array
    data = pd.DataFrame({k: _column(pa.array(column)) for k, column in enumerate(array.T)})
    return make_table(file, names, data, np.arange(len(array)), 0)


def _xlsx(path: Path, file: str) -> RawTable:
    """The first visible worksheet. DataError for formulas that no spreadsheet program has computed."""
    sheet = read_sheet(path, file, [])
    rows = np.array([row for row, _ in sheet.rows], np.int64)
    data = pd.DataFrame(
        {k: as_text(cells[k] for _, cells in sheet.rows).fillna("") for k in range(len(sheet.headers))}
    )
    blank = {(int(rows[i]), int(k)) for i, k in np.argwhere((data == "").to_numpy(bool))}
    formulas = read_formulas(path, file) if blank else {}
    if uncomputed := [
        f"{file}, row {r}, column {sheet.headers[k]!r}: {formulas[r, k]}"
        for r, k in sorted(blank & set(formulas))
    ]:
        remedy = "open and save the workbook in a spreadsheet program, or paste the values over the formulas."
        raise data_error(f"{file} holds formulas without a value", uncomputed, remedy)
    notes = sheet.notes + ([_empty(file, sheet.empty_rows)] if sheet.empty_rows else [])
    return make_table(file, sheet.headers, data, rows, 2, notes=notes, hint=sheet.hint)


def _empty(file: str, rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:5])) + (" …" if len(rows) > 5 else "")
    return f"{file}: {len(rows)} wholly empty rows are left out (row {shown})."
