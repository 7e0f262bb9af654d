"""A user's table as it was read: columns of text or numbers, and where each row stands in its file."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.errors import DataError, data_error, did_you_mean, enumerated
from g2d_pipeline.sources.cells import MISSING
from g2d_pipeline.sources.faults import BadRow

UNREADABLE = ("<list>", "<dict>", "<bytes>")  # stand for cells that are neither text nor number
CUT = r"[+-]?[0-9](?:\.[0-9]+)?[eE]\+(?:1[5-9]|[2-9][0-9])"  # a long number as a spreadsheet writes it

Mask = npt.NDArray[np.bool_]
Cells = npt.NDArray[np.object_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawTable:
    """`data` `[N, columns]` by unique, non-blank names: stripped text in Unicode NFC (dtype str; "" is a
    blank cell, null one that the file says is absent), or float64 where a file has types and that is exact.

    `places` `[N]`: the `file` of each row, its `row` as the user counts (a header is row 1; a wholly empty
    row counts, but is left out), and its `index` from 0 below the header. `bad`: rows that could not be
    read; `faults`: position → why a row that was read can not be used, the first reason only; `notes`: what
    was decided while reading; `hint`: ends the remedy for missing columns. `long`: (column, cell over many
    lines); `lacking`: column → files that do not have it; `repeated`: columns that are there more than
    once; `lengths`: file → its rows, whether they can be used or not; `separators`: column → what separates
    the cells of its file, where that is text."""

    file: str
    data: pd.DataFrame
    places: pd.DataFrame
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    hint: str = ""
    long: list[tuple[str, str]] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    lengths: dict[str, int] = field(default_factory=dict)
    separators: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.data]

    @property
    def several(self) -> bool:
        """Whether rows are of several files."""
        return len(self.lengths) > 1

    def __getitem__(self, name: str) -> pd.Series[Any]:
        return self.data[name]

    def __len__(self) -> int:
        return len(self.data)

    def error(self, problem: str, offenders: Iterable[object], remedy: str) -> DataError:
        """What is wrong with the table, its name before."""
        return data_error(f"{self.file}: {problem}", offenders, remedy)

    def require(self, names: Iterable[str]) -> None:
        """DataError where any of `names` is no column (the nearest is suggested), one more than once, or one
        of lists, objects or bytes that are no text."""
        required, known = list(dict.fromkeys(names)), dict.fromkeys(self.names)
        if missing := [name for name in required if name not in known]:
            nfc = {unicodedata.normalize("NFC", name): name for name in known}
            lines = []
            for name in missing:
                if name in self.lacking:
                    lines.append(f"{name!r} (not in {', '.join(self.lacking[name])})")
                elif other := nfc.get(unicodedata.normalize("NFC", name)):
                    lines.append(f"{name!r}. Copy {other!r} from here: its letters have another Unicode form")
                else:
                    lines.append(f"{name!r}.{did_you_mean(name, known)}".rstrip("."))
            remedy = "add or rename them there, or in the data set's parameters. The table has: "
            raise data_error(f"{self.file} lacks columns", lines, f"{remedy}{enumerated(known)}.{self.hint}")
        if double := [repr(name) for name in required if name in self.repeated]:
            remedy = "remove or rename the extra ones."
            raise data_error(f"{self.file} has columns more than once", double, remedy)
        for name in required:
            if self.data[name].dtype.kind != "f" and (rows := self.data[name].isin(UNREADABLE)).any():
                remedy = "store one text or number a row in that column."
                cells = self.cells(np.flatnonzero(rows), name)
                raise self.error("cells that are neither text nor number", cells, remedy)

    def refuse_long(self, texts: Collection[str]) -> None:
        """DataError where a cell goes over many lines in a column that is not one of `texts`."""
        if cells := [cell for name, cell in self.long if name not in texts]:
            raise self.error("a quotation mark is not closed", cells, "close it, or remove it.")

    def missing(self, name: str, keep: Collection[str] = ()) -> Mask:
        """Which cells `[N]` are absent, or blank, NA, N/A, NaN or null in any case, and not one of `keep`."""
        column = self.data[name]
        missing = column.isna().to_numpy(bool)
        if column.dtype.kind != "f":
            missing = missing | (column.str.lower().isin(MISSING) & ~column.isin(keep)).to_numpy(bool)
        return missing

    def marks(self, name: str) -> dict[str, Mask]:
        """What is written in cells that are missing, such as NA → which cells `[N]`."""
        written = as_text(self.data[name]).where(self.missing(name)).replace("", None)
        return {mark: written.eq(mark).to_numpy(bool) for mark in written.dropna().unique()}

    def texts(self, name: str, keep: Collection[str] = ()) -> Cells:
        """The cells as text `[N]`, "" where they are missing (see `missing`); numbers as in a text table."""
        column = as_text(self.data[name])
        if len(cut := column[column.str.fullmatch(CUT).eq(True)]):
            text = f"Column {name!r}: {len(cut)} cells such as {cut.iloc[0]!r} are long numbers without"
            self.note(f"{text} their last digits, as spreadsheets write them; store them as text.")
        cells: Cells = column.to_numpy(object).copy()
        cells[self.missing(name, keep)] = ""
        return cells

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def fault(self, rows: Mask, reason: str) -> None:
        """The rows of this mask `[N]` can not be used; an earlier reason stays."""
        for i in np.flatnonzero(rows).tolist():
            self.faults.setdefault(i, reason)

    def bad_rows(self, faults: Mapping[int, str]) -> list[BadRow]:
        """The rows of these `faults`, position → reason, by position."""
        files, rows = self.places["file"].to_numpy(), self.places["row"].to_numpy()
        return [BadRow(files[i], int(rows[i]), faults[i]) for i in sorted(faults)]

    def row(self, i: int) -> str:
        """Where a row stands, e.g. `train.csv, row 7`."""
        return f"{self.places['file'].iloc[i]}, row {self.places['row'].iloc[i]}"

    def place(self, i: int, name: str) -> str:
        return f"{self.row(i)}, column {name!r}"

    def cells(self, positions: Iterable[int], name: str, values: pd.Series[Any] | None = None) -> list[str]:
        """Cells for messages, e.g. `a.csv, row 7, column 'size': 'big'`; `values`: what is shown of them."""
        values = self.data[name] if values is None else values
        return [f"{self.place(i, name)}: {values.iloc[i]!r}" for i in positions]

    def take(self, positions: Rows) -> RawTable:
        """These rows alone."""
        data, places = (part.iloc[positions].reset_index(drop=True) for part in (self.data, self.places))
        return replace(self, data=data, places=places)


def make_table(
    file: str, names: Sequence[str], data: pd.DataFrame, rows: npt.NDArray[Any], first: int, **more: Any
) -> RawTable:
    """A table of the `names` of columns and their `data`; `rows` `[N]`: their numbers, `first`: that of the
    first below a header. Columns without a name are left out; of the same name the first is kept. `more`:
    other fields."""
    data = data.set_axis(pd.Index(names, dtype=object), axis=1)
    data = data.loc[:, (data.columns != "") & ~data.columns.duplicated()]
    places = pd.DataFrame({"file": file, "row": rows, "index": rows - first}, index=range(len(rows)))
    repeated = frozenset(name for name, count in Counter(names).items() if count > 1 and name)
    last = max([*rows[-1:], *(bad.row or 0 for bad in more.get("bad", []))], default=first - 1)
    return RawTable(file, data, places, repeated=repeated, lengths={file: int(last) - first + 1}, **more)


def stack(tables: Sequence[RawTable]) -> RawTable:
    """The rows of all tables, one after another, with the columns that all of them have."""
    names = dict.fromkeys(name for table in tables for name in table.names)
    lacking = {n: files for n in names if (files := [t.file for t in tables if n not in t.data])}
    shared = [name for name in names if name not in lacking]
    mixed = [name for name in shared if len({table[name].dtype.kind for table in tables}) > 1]
    parts = [table.data[shared].assign(**{name: as_text(table[name]) for name in mixed}) for table in tables]
    marks = {name: {table.separators.get(name, "") for table in tables} for name in shared}
    return RawTable(
        ", ".join(table.file for table in tables),
        pd.concat(parts, ignore_index=True),
        pd.concat([table.places for table in tables], ignore_index=True),
        bad=[row for table in tables for row in table.bad],
        notes=[note for table in tables for note in table.notes],
        hint="".join(dict.fromkeys(table.hint for table in tables)),
        long=[cell for table in tables for cell in table.long],
        lacking=lacking,
        repeated=frozenset().union(*(table.repeated for table in tables)),
        lengths={file: count for table in tables for file, count in table.lengths.items()},
        separators={name: mark for name, (mark, *others) in marks.items() if not others and mark},
    )


def as_text(cells: pd.Series[Any] | Iterable[Any]) -> pd.Series[Any]:
    """Cells of any type as a column of text: 3.0 → `3`, missing → null, dates in ISO, bytes in UTF-8 as text;
    lists, objects and other bytes as one of `UNREADABLE`."""
    if isinstance(cells, pd.Series) and isinstance(cells.dtype, pd.StringDtype):
        return cells
    return pd.Series([_text(cell) for cell in cells], dtype="str")


def _text(cell: Any) -> str | None:
    if isinstance(cell, list | dict):
        return f"<{type(cell).__name__}>"
    if cell is None or cell != cell:  # NaN, NaT
        return None
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            return "<bytes>"
    if (isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53) or (
        isinstance(cell, Decimal) and cell.is_finite() and cell == cell.to_integral_value()
    ):
        return str(int(cell))
    return unicodedata.normalize("NFC", str(cell).strip())
