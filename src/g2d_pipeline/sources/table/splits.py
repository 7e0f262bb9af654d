"""The splits of a user's table: in a column, by the files, or drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.config.base import SPLITS
from g2d_pipeline.config.layouts import SPLIT_WORDS
from g2d_pipeline.errors import data_error, did_you_mean
from g2d_pipeline.sources.splitting import draw_split
from g2d_pipeline.sources.table.files import Tables
from g2d_pipeline.sources.table.frame import RawTable

if TYPE_CHECKING:
    from g2d_pipeline.config import SplitFractions, Table


def fixed_split(table: RawTable, raw: Table, tables: Tables) -> npt.NDArray[np.object_] | None:
    """The split of each row `[N]` that a column or the files say; None: it is to be drawn."""
    if isinstance(raw.split, str):
        return _read_split(table, raw.split)
    if None in tables.values():
        return None
    return table.places["file"].map(tables).to_numpy(object)


def _read_split(table: RawTable, name: str) -> npt.NDArray[np.object_]:
    """train, val or test of each row, or its synonyms. DataError for other words and blanks."""
    cells = table.texts(name)
    splits = [SPLIT_WORDS.get(cell.casefold()) for cell in cells]
    if wrong := [i for i, split in enumerate(splits) if split is None]:
        words = [
            f"{cells[i]!r}.{did_you_mean(cells[i], SPLIT_WORDS)}" if cells[i] else "blank" for i in wrong
        ]
        lines = [f"{table.place(i, name)}: {w.rstrip('.')}" for i, w in zip(wrong, words, strict=True)]
        raise data_error("Splits that are none of train, val and test", lines, "correct these cells.")
    if empty := [split for split in SPLITS if split not in splits]:
        remedy = (
            "name such rows in that column; or have the split drawn: `split: {val: 0.1, test: 0.2}` in place "
            f"of `split: {name}`."
        )
        raise data_error(f"{table.file}: column {name!r} has no row of split", empty, remedy)
    return np.array(splits, object)


def read_groups(
    table: RawTable, shares: SplitFractions, positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_] | None:
    """The group of each row at `positions`; None: the split has none. DataError for blanks."""
    if shares.group is None:
        return None
    groups = table.texts(shares.group)[positions]
    remedy = "fill these cells; a sample of no group gets a name of its own."
    if shares.group_pattern is not None:
        matches = [re.search(shares.group_pattern, cell) for cell in groups]
        groups = np.array([match[0] if match else "" for match in matches], object)
        remedy += f" The group is what group_pattern = {shares.group_pattern!r} finds in them."
    if blank := positions[groups == ""].tolist():
        lines = [table.place(i, shares.group) for i in blank]
        raise data_error("Rows without a group", lines, remedy)
    return groups


def draw(
    target: npt.NDArray[Any], shares: SplitFractions, groups: npt.NDArray[np.object_] | None, table: RawTable
) -> npt.NDArray[np.str_]:
    """The split of each row `[N]`, drawn as `splitting.draw_split` does; the table notes what came out."""
    split = draw_split(len(target), target, shares, None if groups is None else groups.astype(str))
    counts = ", ".join(f"{name} {int((split == name).sum())}" for name in ("train", "val", "test"))
    by = f", no {shares.group!r} in two of them" if groups is not None else ""
    table.note(f"The split is drawn (seed {shares.seed}{by}): {counts}. It follows the order of the rows.")
    return split


def check_train(
    table: RawTable,
    column: str,
    good: npt.NDArray[np.int64],
    samples: pd.DataFrame,
    class_names: Sequence[str],
) -> None:
    """DataError where train lacks a class of the target `column`; other splits may. `samples` (`split`,
    `target`) are the `good` rows."""
    present = set(samples.loc[samples["split"] == "train", "target"])
    lines = []
    for k, name in enumerate(class_names):
        if k not in present:
            rows = good[(samples["target"] == k).to_numpy()].tolist()
            where = f", the first in {table.row(rows[0])}" if rows else ""
            lines.append(f"{name!r} ({len(rows)} in val and test{where})")
    if lines:
        remedy = "add such rows to train, lower val and test, or leave these classes out of the table."
        raise data_error(f"{table.file}, column {column!r}: classes without a row in train", lines, remedy)
