"""A user's table by its ending: csv, tsv, txt, jsonl, parquet, xlsx or npy; rows as the user counts them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.spreadsheet import read_sheet
from g2d_pipeline.sources.table.files import ENDINGS
from g2d_pipeline.sources.table.frame import RawTable, as_text, make_table, stack

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
AGAIN = (
    "save the table again as CSV in UTF-8 (in Excel: “CSV UTF-8”; in LibreOffice: character set Unicode "
    "(UTF-8))."
)
WHOLE_COPY = "replace the file by a whole copy."
LINES = 50  # in one cell: a quotation mark has swallowed them


def read_tables(root: Path, files: Iterable[str], names: Sequence[str] | None = None) -> RawTable:
    """All rows of the files, one below the other; of several files those columns that all have."""
    tables = [read_table(root / file, file, names) for file in files]
    return tables[0] if len(tables) == 1 else stack(tables)


def read_table(path: Path, file: str, names: Sequence[str] | None = None) -> RawTable:
    """The table at `path`, by its ending; `file` is its name in messages.

    `names`: the columns of a text table without a header, whose separator may then be blanks, too. Raises
    DataError where the file is no such table, is not UTF-8, or has no rows; wholly empty rows are left out
    with a note."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        what = f"the ending {ending!r}" if ending else "no ending"
        what = "the old Excel format" if ending == ".xls" else what
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
            table = _array(path, file, names)
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
    first = text.lstrip("\r\n").partition("\n")[0]
    notes: list[str] = []
    if separator is None:
        separator = max(",;\t|", key=first.count)
        if names is not None and not first.count(separator):
            separator = " "
            text = "\n".join(" ".join(line.split()) for line in text.rstrip().split("\n"))
        if separator != ",":
            notes.append(f"{file}: cells are separated by {SEPARATORS[separator]}.")
    headers = names
    if headers is None:
        text = text.lstrip("\r\n")
        headers = [header.strip() for header in next(csv.reader(io.StringIO(text), delimiter=separator))]
    cells, bad = _parse(text, file, separator, len(headers))
    rows = np.arange(1, len(cells) + len(bad) + 1)
    rows = np.setdiff1d(rows, [row.row or 0 for row in bad])
    skip = 0 if names is not None else 1
    cells, rows = cells.iloc[skip:], rows[skip:]
    full = (cells != "").any(axis=1).to_numpy(bool)
    if not full.all():
        notes.append(_empty(file, rows[~full].tolist()))
        cells, rows = cells[full], rows[full]
    cells = cells.reset_index(drop=True)
    columns = [(name, cells[k]) for k, name in enumerate(headers)]
    lines = text.count("\n")
    long = [
        (name, f"row {rows[i]}, column {name!r}, goes over {column[i].count(chr(10))} lines")
        for name, column in columns
        if lines > len(cells) + LINES  # else no cell can
        for i in np.flatnonzero((column.str.count("\n") > LINES).to_numpy(bool)).tolist()
    ]
    return make_table(file, columns, rows, 1 + skip, bad=bad, notes=notes, long=long)


def _parse(text: str, file: str, separator: str, width: int) -> tuple[pd.DataFrame, list[BadRow]]:
    """All rows of `width` cells, stripped, and the others: pyarrow alone numbers the rows that it refuses."""
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

    keys = [str(k) for k in range(width)]
    types = dict.fromkeys(keys, pa.string())
    try:
        parsed = pa.csv.read_csv(
            io.BytesIO(text.encode()),
            read_options=pa.csv.ReadOptions(
                column_names=keys, use_threads=False
            ),  # one thread numbers the rows
            parse_options=pa.csv.ParseOptions(
                delimiter=separator,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=refuse,
            ),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        remedy = "look for a quotation mark that is not closed, or replace the file by a whole copy."
        raise data_error(f"{file} is no table of cells ({error})", [], remedy) from None
    if swallowed:
        raise data_error(f"{file}: a quotation mark is not closed", swallowed, "close it, or remove it.")
    return pd.DataFrame(
        {k: column.to_pandas().astype("str").str.strip() for k, column in enumerate(parsed.columns)}
    ), bad


def _jsonl(path: Path, file: str) -> RawTable:
    """One JSON object a line; rows are lines. Keys that a line lacks are null; lists and objects `<list>`."""
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[BadRow] = []
    for number, line in enumerate(_utf8(path, file).split("\n"), start=1):
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
        records.append({key.strip(): value for key, value in record.items()})
        rows.append(number)
    data = pd.DataFrame(records, dtype=object)  # as they are: an integer beside a null stays one
    return make_table(
        file, [(str(key), as_text(data[key])) for key in data], np.array(rows, np.int64), 1, bad=bad
    )


# ------------------------------------------------------------------------------------------ tables with types
def _parquet(path: Path, file: str) -> RawTable:
    """Rows count from 1. Numbers stay numbers; everything else becomes text."""
    try:
        table = pa.parquet.ParquetFile(path).read()
    except (pa.ArrowException, ValueError) as error:
        raise data_error(f"{file} is no parquet table ({error})", [], WHOLE_COPY) from None
    columns = []
    for name, values in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            column = values.to_pandas().astype("float64")
        elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            column = values.to_pandas().astype("str").str.strip()
        else:
            column = as_text(values.to_pylist())
        columns.append((str(name).strip(), column))
    return make_table(file, columns, np.arange(1, table.num_rows + 1), 1)


def _array(path: Path, file: str, names: Sequence[str] | None) -> RawTable:
    """Numbers `[N]` or `[N, F]` and the `names` of the columns; rows count from 0, as an array's do."""
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        remedy = "save it again by numpy.save."
        raise data_error(f"{file} is no array of numbers ({error})", [], remedy) from None
    if array.ndim not in (1, 2) or array.dtype.kind not in "iufb":
        remedy = "a table is numbers [N] or [N, columns]: save it so."
        raise data_error(f"{file} holds {array.dtype} {list(array.shape)}", [], remedy)
    data = pd.DataFrame(array, dtype=np.float64)
    if names is None or len(names) != data.shape[1]:
        count = "no names" if names is None else f"{len(names)} names"
        headline = f"{file} has {data.shape[1]} columns and `names` gives {count}"
        raise data_error(headline, [], "name each of them under `names`.")
    return make_table(file, [(name, data[k]) for k, name in enumerate(names)], np.arange(len(data)), 0)


def _xlsx(path: Path, file: str) -> RawTable:
    """The first worksheet. DataError for formulas that no spreadsheet program has computed."""
    sheet = read_sheet(path, file, [])
    rows = np.array([row for row, _ in sheet.rows], np.int64)
    columns = [
        (name, as_text(cells[k] for _, cells in sheet.rows).fillna(""))
        for k, name in enumerate(sheet.headers)
    ]
    names, formulas = _sheets(path)
    blank = {(int(rows[i]), k) for k, (_, c) in enumerate(columns) for i in np.flatnonzero(c.eq("")).tolist()}
    if uncomputed := [
        f"{file}, row {r}, column {sheet.headers[k]!r}: {formulas[r, k]}"
        for r, k in sorted(blank & set(formulas))
    ]:
        remedy = "open and save the workbook in a spreadsheet program, or paste the values over the formulas."
        raise data_error(f"{file} holds formulas without a value", uncomputed, remedy)
    others = ", ".join(map(repr, names[1:]))
    hint = f" Only the first worksheet ({names[0]!r}) is read; there are {others}, too." if others else ""
    notes = [_empty(file, sheet.empty_rows)] if sheet.empty_rows else []
    return make_table(file, columns, rows, 2, notes=notes, hint=hint)


def _sheets(path: Path) -> tuple[list[str], dict[tuple[int, int], str]]:
    """The worksheets' names, and (row, position of the column) → formula of the first one."""
    import openpyxl

    with contextlib.closing(openpyxl.load_workbook(path, read_only=True)) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        formulas = {
            (r, k): cell
            for r, cells in enumerate(sheet.iter_rows(values_only=True), start=1)
            for k, cell in enumerate(cells)
            if isinstance(cell, str) and cell.startswith("=")
        }
        return list(book.sheetnames), formulas


def _empty(file: str, rows: Collection[int]) -> str:
    shown = ", ".join(map(str, list(rows)[:5])) + (" …" if len(rows) > 5 else "")
    return f"{file}: {len(rows)} wholly empty rows are left out (row {shown})."
