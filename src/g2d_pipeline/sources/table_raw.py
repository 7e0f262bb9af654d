"""A user's table as it was read: columns of text or numbers, and rows as the user counts them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow, nearest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RawTable:
    """`columns[k]` `[N]` is named `headers[k]`: stripped text ("" = no cell), or numbers where the file has
    types.

    `rows` `[N]`: each row's number as the user counts (a header is row 1; a wholly empty row counts, but is
    left out). `first`: the number of the first row below a header, of each row `[N]` where there are several
    files. `bad`: rows that could not be read; `notes`: what the reader took upon itself; `hint`: for missing
    columns. `missing`: column → which cells `[N]` the file says are not there, where it can say so; `long`:
    column → cells that go over many lines; `lacking`: column → files that do not have it; `files` `[N]`: the
    file of each row, where there are several."""

    file: str
    headers: list[str]
    columns: list[pd.Series[Any]]
    rows: npt.NDArray[np.int64]
    first: int | npt.NDArray[np.int64] = 1
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hint: str = ""
    missing: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    long: dict[str, list[str]] = field(default_factory=dict)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    files: npt.NDArray[np.object_] | None = None

    def __getitem__(self, name: str) -> pd.Series[Any]:
        return self.columns[self.headers.index(name)]

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    def require(self, names: Iterable[str]) -> None:
        """DataError where the header lacks any of `names` (the nearest is suggested) or has it more than
        once."""
        wanted = list(dict.fromkeys(names))
        known = [h for h in self.headers if h]
        if missing := [f"{name!r}{self._where(name, known)}" for name in wanted if name not in self.headers]:
            remedy = f"add or rename them there, or in the data set's parameters. The table has: {', '.join(known)}."
            raise data_error(f"{self.file} lacks columns", missing, remedy + self.hint)
        if double := [repr(name) for name in wanted if self.headers.count(name) > 1]:
            raise data_error(
                f"{self.file} has columns more than once", double, "remove or rename the extra ones."
            )

    def refuse_long(self, texts: Collection[str]) -> None:
        """DataError where a cell goes over many lines in a column that is not one of `texts`."""
        if swallowed := [cell for name, cells in self.long.items() if name not in texts for cell in cells]:
            raise data_error(
                f"{self.file}: a quotation mark is not closed", swallowed, "close it, or remove it."
            )

    def is_missing(self, name: str) -> npt.NDArray[np.bool_]:
        """Which cells `[N]` of a column the file says are not there; a blank cell of a text table is there."""
        return self.missing.get(name, np.zeros(len(self.rows), bool))

    def file_of(self, i: int) -> str:
        return self.file if self.files is None else str(self.files[i])

    def place(self, i: int, name: str) -> str:
        return f"{self.file_of(i)}, row {self.rows[i]}, column {name!r}"

    def _where(self, name: str, known: Collection[str]) -> str:
        return f" (not in {', '.join(self.lacking[name])})" if name in self.lacking else nearest(name, known)


def joined(every: Sequence[RawTable]) -> RawTable:
    """The rows of all tables, one after another, with the columns that all of them have."""
    import pandas as pd

    headers = list(dict.fromkeys(h for table in every for h in table.headers))
    lacking = {h: [t.file for t in every if h not in t] for h in headers}
    shared = [h for h in headers if not lacking[h]]
    columns = []
    for header in shared:
        parts = [table[header] for table in every]
        if len({part.dtype.kind for part in parts}) > 1:
            parts = [as_text(part.tolist()) if part.dtype.kind == "f" else part for part in parts]
        columns.append(pd.concat(parts, ignore_index=True))
    for header in shared:  # a column that a table has twice is told when it is needed
        if any(table.headers.count(header) > 1 for table in every):
            shared, columns = [*shared, header], [*columns, columns[shared.index(header)]]
    return RawTable(
        ", ".join(table.file for table in every),
        shared,
        columns,
        np.concatenate([table.rows for table in every]),
        np.concatenate([np.full(len(table.rows), table.first) for table in every]),
        [row for table in every for row in table.bad],
        [note for table in every for note in table.notes],
        "".join(dict.fromkeys(table.hint for table in every)),
        missing={h: np.concatenate([t.is_missing(h) for t in every]) for h in shared},
        long={h: [where for table in every for where in table.long.get(h, [])] for h in shared},
        lacking={h: files for h, files in lacking.items() if files},
        files=np.concatenate([np.full(len(table.rows), table.file, object) for table in every]),
    )


# ------------------------------------------------------------------------------------------------------ cells
def as_text(cells: Iterable[Any]) -> pd.Series[Any]:
    """Cells of any types as a column of text: 3.0 → `3`, missing → "", dates as ISO, lists as `<list>`."""
    import pandas as pd

    return pd.Series([_text(cell) for cell in cells], dtype="str")


def _text(cell: Any) -> str:
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, list | dict):
        return f"<{type(cell).__name__}>"
    return str(cell).strip()
