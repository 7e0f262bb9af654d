"""The splits of a user's table: told by a column, by the files, or drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.splitting import draw_split
from g2d_pipeline.sources.table_cells import read_split, texts

if TYPE_CHECKING:
    from g2d_pipeline.config import SplitFractions, Table
    from g2d_pipeline.sources.table_files import TableFile
    from g2d_pipeline.sources.table_raw import RawTable


def given_split(table: RawTable, raw: Table, tables: Sequence[TableFile]) -> npt.NDArray[np.str_] | None:
    """The split of each row `[N]` as a column tells it, or the files do; None: it is to be drawn."""
    if isinstance(raw.split, str):
        return read_split(table, raw.split)
    if table.files is None or tables[0].split is None:
        return None
    splits = {t.file: t.split for t in tables}
    return np.array([splits[file] for file in table.files], dtype="<U5")


def groups(
    table: RawTable, shares: SplitFractions | None, good: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_] | None:
    """The group of each good row; None: there are none. DataError for blanks."""
    if shares is None or shares.group is None:
        return None
    groups = texts(table[shares.group])[good]
    if shares.group_pattern is not None:
        found = [re.search(shares.group_pattern, cell) for cell in groups]
        groups = np.array([match[0] if match else "" for match in found], object)
    if blank := [i for i, group in enumerate(groups) if not group]:
        shown = [table.place(int(good[i]), shares.group) for i in blank]
        remedy = "fill these cells; a sample of no group gets a name of its own."
        if shares.group_pattern is not None:
            remedy += f" The group is what group_pattern = {shares.group_pattern!r} finds in them."
        raise data_error("Rows without a group", shown, remedy)
    return groups


def draw(
    target: npt.NDArray[Any],
    shares: SplitFractions | None,
    groups: npt.NDArray[np.object_] | None,
    notes: list[str],
) -> npt.NDArray[np.str_]:
    """The split of each row `[N]`, drawn as `splitting.draw_split` does; what came out is noted."""
    assert shares is not None
    split = draw_split(len(target), target, shares, None if groups is None else groups.astype(str))
    counts = ", ".join(f"{name} {int((split == name).sum())}" for name in ("train", "val", "test"))
    by = f", no {shares.group!r} in two of them" if groups is not None else ""
    notes.append(f"The split is drawn (seed {shares.seed}{by}): {counts}. It follows the order of the rows.")
    return split


def check_train(
    table: RawTable,
    column: str,
    good: npt.NDArray[np.int64],
    target: npt.NDArray[Any],
    split: npt.NDArray[np.str_],
    class_names: list[str] | None,
) -> None:
    """DataError where train lacks a class of the target `column`; other splits may. `target` is of the `good`
    rows."""
    present = set(target[split == "train"].tolist())
    shown = []
    for k, name in enumerate(class_names or []):
        if k not in present:
            rows = good[target == k].tolist()
            where = f", the first in {table.file_of(rows[0])}, row {table.rows[rows[0]]}" if rows else ""
            shown.append(f"{name!r} ({len(rows)} in val and test{where})")
    if shown:
        remedy = "add such rows to train, lower val and test, or leave these classes out of the table."
        raise data_error(f"{table.file}, column {column!r}: classes without a row in train", shown, remedy)
