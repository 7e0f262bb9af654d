"""A user's table by its ending: csv, tsv, txt, jsonl, parquet, xlsx or npy → columns; rows as the user counts
them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.spreadsheet import read_sheet
from g2d_pipeline.sources.table_files import ENDINGS
from g2d_pipeline.sources.table_raw import RawTable, as_text

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
BYTE_ORDER = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
AGAIN = "save the table again as CSV in UTF-8 (in Excel: “CSV UTF-8”; in LibreOffice: character set Unicode (UTF-8))."
LINES = 50  # in one cell: a quotation mark has swallowed them


def read_table(path: Path, file: str, names: Sequence[str] | None = None) -> RawTable:
    """The table at `path`, by its ending; `file` is its name in messages.

    `names`: the columns of a text table without a header, whose separator may then be blanks, too. Raises
    DataError where the file is no such table, is not UTF-8, or has no rows; wholly empty rows are left out
    with a note."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        what = (
            "the old Excel format"
            if ending == ".xls"
            else f"the ending {ending!r}"
            if ending
            else "no ending"
        )
        raise data_error(f"{file} has {what}", [], f"save the table as one of {', '.join(ENDINGS)}.")
    if names is not None and ending in (".jsonl", ".ndjson", ".parquet", ".xlsx"):
        raise data_error(
            f"{file} has names of its own", [], "`names` is for text tables without a header: remove it."
        )
    if fault := media_fault(path):
        raise data_error(f"{file} {fault}", [], "replace the file by a whole copy.")
    try:
        if ending == ".parquet":
            table = _parquet(path, file)
        elif ending == ".npy":
            table = _array(path, file, names)
        elif ending == ".xlsx":
            table = _xlsx(path, file)
        elif ending in (".jsonl", ".ndjson"):
            table = _jsonl(_utf8(path, file), file)
        else:
            table = _delimited(_utf8(path, file), file, "\t" if ending == ".tsv" else None, names)
    except OSError as error:
        raise data_error(
            f"{file} can not be read ({error.strerror or error})", [], "look at its permissions."
        ) from None
    if not len(table.rows) and not table.bad:
        raise data_error(f"{file} has a header but no rows", [], "replace the file by a whole copy.")
    return table


# ------------------------------------------------------------------------------------------------ text tables
def _utf8(path: Path, file: str) -> str:
    """The file's text without byte-order mark; DataError naming the first byte that is not UTF-8 and its
    line."""
    content = path.read_bytes()
    if kind := BYTE_ORDER.get(content[:2]):
        raise data_error(f"{file} is {kind}, not UTF-8", [], AGAIN)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        before, after = content[: error.start], content[error.start : error.start + 12]
        around = (before[before.rfind(b"\n") + 1 :][-12:] + after.partition(b"\n")[0]).decode(
            "cp1252", "replace"
        )
        where = f"byte {error.start} (0x{content[error.start]:02x}) in line {line}, near {around.strip()!r}"
        raise data_error(f"{file} is not UTF-8", [where], AGAIN) from None
    if "\0" in text:
        raise data_error(f"{file} holds zero bytes: it is no text table", [], AGAIN)
    if not text.strip():
        raise data_error(f"{file} is empty", [], "replace the file by a whole copy.")
    return text


def _delimited(text: str, file: str, separator: str | None, names: Sequence[str] | None) -> RawTable:
    """A table whose cells are separated by one character, which the first line tells; parsed by pyarrow."""
    import pyarrow as pa
    import pyarrow.csv as pc

    notes: list[str] = []
    first = text.lstrip("\r\n").partition("\n")[0]
    if separator is None:
        separator = max(",;\t|", key=first.count)
        if names is not None and not first.count(separator):
            separator = " "
            text = "\n".join(" ".join(line.split()) for line in text.rstrip().split("\n"))
        if separator != ",":
            notes.append(f"{file}: cells are separated by {SEPARATORS[separator]}.")
    if names is None:
        text = text.lstrip("\r\n")
        headers = [h.strip() for h in next(csv.reader(io.StringIO(text), delimiter=separator))]
    else:
        headers = list(names)
    keys = [f"c{k}" for k in range(len(headers))]
    bad: list[BadRow] = []
    swallowed: list[str] = []

    def refuse(row: Any) -> str:
        if row.text.count("\n") > LINES:
            swallowed.append(f"row {row.number} goes over {row.text.count(chr(10))} lines")
        reason = f"has {row.actual_columns} cells, not {row.expected_columns}: {row.text.strip()[:60]!r}"
        if row.actual_columns > row.expected_columns:
            reason += " (quote cells that hold the separator; write decimal points, not commas)"
        bad.append(BadRow(file, row.number, reason))
        return "skip"

    try:
        parsed = pc.read_csv(
            io.BytesIO(text.encode()),
            read_options=pc.ReadOptions(
                column_names=keys, use_threads=False
            ),  # one thread: rows are numbered
            parse_options=pc.ParseOptions(
                delimiter=separator,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=refuse,
            ),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(keys, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        remedy = "look for a quotation mark that is not closed, or replace the file by a whole copy."
        raise data_error(f"{file} is no table of cells ({error})", [], remedy) from None
    numbers = np.arange(1, parsed.num_rows + len(bad) + 1)
    numbers = numbers[~np.isin(numbers, [b.row for b in bad if b.row is not None])]
    skip = 0 if names is not None else 1
    if swallowed:
        raise data_error(f"{file}: a quotation mark is not closed", swallowed, "close it, or remove it.")
    columns = [column.slice(skip).to_pandas().astype("str").str.strip() for column in parsed.columns]
    long = {
        header: [
            f"row {numbers[skip + i]}, column {header!r}, goes over {column[i].count(chr(10))} lines"
            for i in np.flatnonzero((column.str.count("\n") > LINES).to_numpy(bool)).tolist()
        ]
        for header, column in zip(headers, columns, strict=True)
    }
    return _without_empty(RawTable(file, headers, columns, numbers[skip:], 1 + skip, bad, notes, long=long))


def _jsonl(text: str, file: str) -> RawTable:
    """One JSON object a line; rows are lines. Keys that a line lacks are blank; lists and objects are refused
    later."""
    records: dict[str, dict[int, Any]] = {}
    rows: list[int] = []
    bad: list[BadRow] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            bad.append(BadRow(file, number, f"is not JSON ({error})"))
            continue
        if not isinstance(record, dict):
            bad.append(BadRow(file, number, 'is not an object of keys, such as {"file_name": "a.wav"}'))
            continue
        for key, value in record.items():
            records.setdefault(key.strip(), {})[len(rows)] = value
        rows.append(number)
    columns = [as_text(cells.get(i) for i in range(len(rows))) for cells in records.values()]
    missing = {
        key: np.array([cells.get(i) is None for i in range(len(rows))], bool)
        for key, cells in records.items()
    }
    return RawTable(file, list(records), columns, np.array(rows, np.int64), 1, bad, missing=missing)


# ------------------------------------------------------------------------------------------ tables with types
def _parquet(path: Path, file: str) -> RawTable:
    """Rows count from 1. Numbers stay numbers; everything else becomes text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, ValueError) as error:
        raise data_error(
            f"{file} is no parquet table ({error})", [], "replace the file by a whole copy."
        ) from None
    columns = []
    for values in table.columns:
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            columns.append(values.to_pandas().astype("float64"))
        elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            columns.append(values.to_pandas().astype("str").fillna("").str.strip())
        else:
            columns.append(as_text(values.to_pylist()))
    headers = [str(h).strip() for h in table.column_names]
    missing = {
        h: values.is_null().to_numpy().astype(bool)
        for h, values in zip(headers, table.columns, strict=True)
        if values.null_count
    }
    return RawTable(file, headers, columns, np.arange(1, table.num_rows + 1), missing=missing)


def _array(path: Path, file: str, names: Sequence[str] | None) -> RawTable:
    """Numbers `[N]` or `[N, F]` and the `names` of the columns; rows count from 0, as an array's do."""
    import pandas as pd

    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise data_error(
            f"{file} is no array of numbers ({error})", [], "save it again by numpy.save."
        ) from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "iufb":
        shape = f"{array.dtype} {list(array.shape)}"
        raise data_error(f"{file} holds {shape}", [], "a table is numbers [N] or [N, columns]: save it so.")
    columns = array[:, None] if array.ndim == 1 else array
    if names is None or len(names) != columns.shape[1]:
        said = "no names" if names is None else f"{len(names)} names"
        raise data_error(
            f"{file} has {columns.shape[1]} columns and `names` gives {said}",
            [],
            "name each of them under `names`.",
        )
    values = [pd.Series(column.astype(np.float64)) for column in columns.T]
    return RawTable(file, [str(n) for n in names], values, np.arange(len(columns)), first=0)


def _xlsx(path: Path, file: str) -> RawTable:
    """The first worksheet. A formula that no spreadsheet program has computed is a bad row, not a blank."""
    sheet = read_sheet(path, file, [])
    rows = np.array([row for row, _ in sheet.rows], np.int64)
    columns = [as_text(cells[k] for _, cells in sheet.rows) for k in range(len(sheet.headers))]
    names, formulas = _sheets(path)
    blank = {(int(rows[i]), k) for k, c in enumerate(columns) for i in np.flatnonzero((c == "").to_numpy())}
    if uncomputed := [
        f"{file}, row {r}, column {sheet.headers[k]!r}: {formulas[r, k]}"
        for r, k in sorted(blank & set(formulas))
    ]:
        remedy = "open and save the workbook in a spreadsheet program, or paste the values over the formulas."
        raise data_error(f"{file} holds formulas without a value", uncomputed, remedy)
    hint = (
        f" Only the first worksheet ({names[0]!r}) is read; there are {', '.join(map(repr, names[1:]))}, too."
    )
    notes = [_empty(file, sheet.empty_rows)] if sheet.empty_rows else []
    return RawTable(file, sheet.headers, columns, rows, 2, [], notes, hint if len(names) > 1 else "")


def _sheets(path: Path) -> tuple[list[str], dict[tuple[int, int], str]]:
    """The worksheets' names, and (row, position of the column) → formula of the first one."""
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        formulas = {
            (r, k): cell
            for r, cells in enumerate(sheet.iter_rows(values_only=True), start=1)
            for k, cell in enumerate(cells)
            if isinstance(cell, str) and cell.startswith("=")
        }
        return list(book.sheetnames), formulas
    finally:
        book.close()


def _without_empty(table: RawTable) -> RawTable:
    """Leave wholly empty rows out, and say so."""
    full = np.zeros(len(table.rows), bool)
    for column in table.columns:
        full |= (column != "").to_numpy(bool)
    if full.all():
        return table
    columns = [column[full].reset_index(drop=True) for column in table.columns]
    notes = [*table.notes, _empty(table.file, table.rows[~full].tolist())]
    return replace(table, columns=columns, rows=table.rows[full], notes=notes)


def _empty(file: str, rows: Collection[int]) -> str:
    shown = ", ".join(map(str, list(rows)[:5])) + (" …" if len(rows) > 5 else "")
    return f"{file}: {len(rows)} wholly empty rows are left out (row {shown})."
