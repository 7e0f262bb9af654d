"""The splits of a user's table: in a column, by the files, or drawn."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from g2d_pipeline.config import SPLIT_WORDS, SPLITS, HeldOut, SplitFractions, Table
from g2d_pipeline.errors import SHOWN, DataError, data_error, did_you_mean
from g2d_pipeline.sources.splitting import Labels, draw_split
from g2d_pipeline.sources.table.files import Tables
from g2d_pipeline.sources.table.frame import Cells, RawTable, Rows


def official_split(table: RawTable, raw: Table, tables: Tables) -> Cells | None:
    """The split of each row `[N]` that a column or the files say; None: all of it is to be drawn."""
    if raw.split is not None and raw.split.column is not None:
        return _read_split(table, raw.split.column, raw.split.val is not None)
    if None in tables.values():
        return None
    return table.places["file"].map(tables).to_numpy(object)


def _read_split(table: RawTable, name: str, draws_val: bool) -> Cells:
    """The split of each row. DataError for other words and blanks, and for rows of val where `draws_val`."""
    cells = table.texts(name)
    splits = [SPLIT_WORDS.get(cell.casefold()) for cell in cells]
    if wrong := [i for i, split in enumerate(splits) if split is None]:
        hints = {c: f"{c!r}.{did_you_mean(c, SPLIT_WORDS)}" if c else "blank" for c in set(cells[wrong])}
        lines = [f"{table.place(i, name)}: {hints[cells[i]].rstrip('.')}" for i in wrong]
        raise data_error("Splits that are none of train, val and test", lines, "correct these cells.")
    if draws_val and (own := splits.count("val")):
        headline = f"{table.file}: column {name!r} says which rows are val ({own})"
        remedy = f"remove val (`split: {name}`), or call these rows train in the table."
        raise data_error(f"{headline}, and split.val is given, too", [], remedy)
    if empty := [split for split in SPLITS if split not in splits and not (draws_val and split == "val")]:
        remedy = "name such rows in that column; or have "
        remedy += (
            f"val drawn from train: `split: {{column: {name}, val: 0.1}}`."
            if empty == ["val"]
            else f"the split drawn: `split: {{val: 0.1, test: 0.2}}` in place of `split: {name}`."
        )
        raise data_error(f"{table.file}: column {name!r} has no row of split", empty, remedy)
    return np.array(splits, object)


def note_unused(table: RawTable, unused: Sequence[str]) -> None:
    """A loud note on columns that look like a split and are not used: named so, or with no other cells."""
    for name in unused:
        cells = table.texts(name) if table[name].dtype.kind != "f" else np.array([], object)
        likely = len(cells) and SPLIT_WORDS.get(cells[0].casefold()) is not None
        unique = set(cells) - {""} if likely else set()
        words = {SPLIT_WORDS.get(cell.casefold()) for cell in unique}
        if name.casefold() == "split" or {"train", "test"} <= words <= set(SPLITS):
            has_val = "val" in words or not words
            use = f"`split: {name}`" if has_val else f"`split: {{column: {name}, val: 0.1}}`"
            official = f"If it is the official one, say {use}."
            table.note(f"Warning: column {name!r} is NOT used as the split. {official}")


def read_groups(table: RawTable, shares: SplitFractions, positions: Rows) -> Cells | None:
    """The group of each row at `positions`; None: the split has none. DataError for blanks."""
    if shares.group is None:
        return None
    groups = group_cells(table, shares)[positions]
    remedy = "fill these cells; a sample of no group gets a name of its own."
    if shares.group_pattern is not None:
        remedy += f" The group is what group_pattern = {shares.group_pattern!r} finds in them."
    if blank := positions[groups == ""].tolist():
        lines = [table.place(i, shares.group) for i in blank]
        raise data_error("Rows without a group", lines, remedy)
    return groups


def group_cells(table: RawTable, shares: SplitFractions) -> Cells:
    """The group of each row `[N]` of the table; "" where it has none."""
    cells = table.texts(str(shares.group))
    if shares.group_pattern is None:
        return cells
    matches = [re.search(shares.group_pattern, cell) for cell in cells]
    return np.array([match[0] if match else "" for match in matches], object)


def draw(
    samples: pd.DataFrame, shares: SplitFractions, groups: Cells | None, table: RawTable, is_official: bool
) -> Labels:
    """The split of each sample `[N]`, drawn as `splitting.draw_split` does; the table notes what came out.
    `is_official`: `samples` have a column `split`, of whose train rows val is drawn."""
    official = samples["split"].to_numpy(object) if is_official else None
    target, codes = samples["target"].to_numpy(), None if groups is None else groups.astype(str)
    try:
        split = draw_split(len(samples), target, shares, codes, official)
    except DataError as error:
        raise DataError(f"{table.file}: {error}") from None
    counts = ", ".join(f"{name} {int((split == name).sum())}" for name in SPLITS)
    parts = "them" if not is_official else "train and val"
    by = f", no {shares.group!r} in two of {parts}" if groups is not None else ""
    what = "val is drawn from the official train rows" if is_official else "The split is drawn"
    held_out = {name: part.group for name in SPLITS[1:] if isinstance(part := getattr(shares, name), HeldOut)}
    if shares.folds is not None:
        what = f"Fold {shares.fold or 1} of {shares.folds} is drawn"
        if groups is not None:
            held_out["test"] = sorted(set(groups[split == "test"]))
    named = [
        f" {name.capitalize()} is {shares.group!r} {', '.join(names[:SHOWN])}"
        + (f" and {len(names) - SHOWN} more." if len(names) > SHOWN else ".")
        for name, names in held_out.items()
    ]
    drawn = f"{what} (seed {shares.seed}{by}): {counts}.{''.join(named)}"
    table.note(f"{drawn} It follows the order of the rows.")
    return split


def check_train(
    table: RawTable, column: str, good: Rows, samples: pd.DataFrame, class_names: Sequence[str]
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
