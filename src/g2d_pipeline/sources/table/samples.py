"""The samples of a user's table: the values of its modalities, the target and the split of each row."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.config import SPLIT_WORDS, SPLITS, HeldOut, IngestSettings, SplitFractions, Table
from g2d_pipeline.errors import SHOWN, DataError, data_error, did_you_mean, enumerated
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.remote import joined
from g2d_pipeline.sources.layout import Samples
from g2d_pipeline.sources.splitting import Labels, draw_split
from g2d_pipeline.sources.table import TableLayout, Tables, columns
from g2d_pipeline.sources.table import settings as chosen
from g2d_pipeline.sources.table.frame import Cells, RawTable, Rows
from g2d_pipeline.sources.table.join import read_all, take_labelled
from g2d_pipeline.sources.table.paths import Files, check_paths, needed_columns, path_ids, read_paths

COLUMN_NOTE = re.compile(r"Column ('[^']*')(.*)", re.DOTALL)


def read_samples(layout: TableLayout, settings: IngestSettings) -> Samples:
    """See `TableLayout.read_samples`."""
    raw = layout.raw
    chosen.check_settings(settings, raw, layout.table_files)
    modalities = [m for m in settings.columns if chosen.kind_of(settings, m) == "tabular"]
    table = read_all(layout.root, raw, layout.table_files, chosen.tabular_columns(settings, modalities)[1])
    uses = chosen.own_columns(raw)
    table.require(uses)
    sources = chosen.find_columns(settings, raw, table)
    needed = {modality: needed_columns(source) for modality, source in sources.items()}
    others = {name: f"of {m!r}" for m, names in needed.items() for name in names}
    settings = chosen.select_columns(settings, table, modalities, uses | others)
    tabular, numbers = chosen.tabular_columns(settings, modalities)
    required = [*tabular, *(name for names in needed.values() for name in names)]
    table.require(required)
    # before anything is said of columns: rows that could not be read leave them blank
    layout.drop_or_raise(table.bad, len(table) + len(table.bad), settings, "rows", f"correct {table.file}")
    table = take_labelled(table, raw, settings.task)
    media = [modality for modality in sources if chosen.kind_of(settings, modality) != "text"]
    table.refuse_long([name for m, names in needed.items() if m not in media for name in names])
    _note_unused(table, {*uses, *required})

    raw_dir = joined(raw.raw_dir, layout.start)
    rows, class_names = _read_rows(layout, settings, table, sources, media, numbers)
    remedy = f"correct these rows of {table.file}, or the files in {raw_dir}"
    total, bad = len(table) + len(table.bad), [*table.bad, *table.bad_rows(table.faults)]
    dropped = layout.drop_or_raise(bad, total, settings, "rows", remedy)
    good = np.setdiff1d(np.arange(len(table)), list(table.faults))
    if not len(good):
        raise table.error("no row is left", [], f"{remedy}.")
    samples = rows.iloc[good].reset_index(drop=True)
    is_official, groups = bool((samples["split"] != "").all()), None
    shares = raw.split or SplitFractions()
    draws_val = raw.split is not None and (shares.column is None or shares.val is not None)
    if draws_val or not is_official:
        groups = _read_groups(table, shares, good)
        samples["split"] = _draw(samples, shares, groups, table, is_official)
    _check_train(table, raw.target, good, samples, class_names)
    if groups is not None:
        samples["group"] = groups
    elif raw.group is not None:
        samples["group"] = table.texts(raw.group)[good]
    _note_findings(table, settings, raw, samples, media)
    disjoint = groups is not None and not is_official
    return Samples(samples, class_names, dropped, _grouped(table.notes), disjoint, raw_dir, settings.columns)


def named_paths(layout: TableLayout, settings: IngestSettings) -> list[str]:
    """Every path that the table names in columns of media, there or not, once each and sorted. Raises as
    `read_samples` does where the table can not be read or lacks a column."""
    raw = layout.raw
    chosen.check_settings(settings, raw, layout.table_files)
    table = take_labelled(read_all(layout.root, raw, layout.table_files, ()), raw, settings.task)
    files, names = Files(layout.root / layout.start), set[str]()
    for modality, source in chosen.find_columns(settings, raw, table).items():
        if chosen.kind_of(settings, modality) != "text":
            table.require(needed_columns(source))
            cells = {*read_paths(table, source, layout.start if raw.root is None else None)} - {""}
            plain = (files.plain(split_cell(cell)[0]) for cell in cells)
            names |= {path for path, fault in plain if fault is None}
    return sorted(names)


def _read_rows(
    layout: TableLayout,
    settings: IngestSettings,
    table: RawTable,
    sources: Mapping[str, str],
    media: Sequence[str],
    numbers: Sequence[str],
) -> tuple[pd.DataFrame, Sequence[str]]:
    """The manifest's columns (split to be drawn: "") and the class names; bad rows get a fault."""
    raw, class_names = layout.raw, list[str]()
    target: Any
    if settings.task == "regression":
        target = columns.read_target(table, raw.target, raw.log_target)
    else:
        target, class_names = columns.read_labels(table, raw.target, raw.classes)
    values: dict[str, Any] = {**columns.read_features(table, numbers)}
    values |= {name: columns.read_categories(table, name) for name in settings.categorical}
    values |= {name: columns.read_dates(table, name) for name in settings.dates}
    values |= {m: columns.read_texts(table, sources[m]) for m in sources if m not in media}
    paths = {m: read_paths(table, sources[m], layout.start if raw.root is None else None) for m in media}
    check_paths(table, sources, paths, layout.root / layout.start)
    values |= paths
    first = next(iter(paths.values()), None)
    ids = path_ids(table, first) if raw.id is None else columns.read_ids(table, raw.id)
    rows = {"sample_id": ids, "split": _official_split(table, raw, layout.table_files), "target": target}
    rows |= {name: values[name] for names in settings.columns.values() for name in names}
    return pd.DataFrame(rows, index=table.data.index), class_names


# ---------------------------------------------------------------------------------------------------- splits
def _official_split(table: RawTable, raw: Table, tables: Tables) -> Cells | str:
    """The split of each row `[N]` that a column or the files say; "": all of it is to be drawn.

    DataError where the column holds other words or blanks, lacks a split, or has rows of val and val is
    drawn."""
    if raw.split is None or raw.split.column is None:
        return "" if None in tables.values() else table.places["file"].map(tables).to_numpy(object)
    name, draws_val = raw.split.column, raw.split.val is not None
    cells = table.texts(name)
    splits = [SPLIT_WORDS.get(cell.casefold()) for cell in cells]
    if wrong := [i for i, split in enumerate(splits) if split is None]:
        hints = {c: f"{c!r}.{did_you_mean(c, SPLIT_WORDS)}" if c else "blank" for c in set(cells[wrong])}
        lines = [f"{table.place(i, name)}: {hints[cells[i]].rstrip('.')}" for i in wrong]
        raise data_error("Splits that are none of train, val and test", lines, "correct these cells.")
    if draws_val and (count := splits.count("val")):
        problem = f"column {name!r} says which rows are val ({count}), and split.val is given, too"
        remedy = f"remove val (`split: {name}`), or call these rows train in the table."
        raise table.error(problem, [], remedy)
    if empty := [split for split in SPLITS if split not in splits and not (draws_val and split == "val")]:
        remedy = f"the split drawn: `split: {{val: 0.1, test: 0.2}}` in place of `split: {name}`."
        if empty == ["val"]:
            remedy = f"val drawn from train: `split: {{column: {name}, val: 0.1}}`."
        remedy = f"name such rows in that column; or have {remedy}"
        raise table.error(f"column {name!r} has no row of split", empty, remedy)
    return np.array(splits, object)


def _note_unused(table: RawTable, used: Collection[str]) -> None:
    """A note on columns that are not `used`, and a warning on those of them that may be the split: with its
    name, or with no other words."""
    unused = [name for name in table.names if name not in used]
    if unused:
        table.note(f"Columns of {table.file} that are not used: {enumerated(unused)}.")
    for name in unused:
        cells = [] if table[name].dtype.kind == "f" else table.texts(name).tolist()
        likely = {*cells} - {""} if cells and cells[0].casefold() in SPLIT_WORDS else set[str]()
        words = {SPLIT_WORDS.get(cell.casefold()) for cell in likely}
        if name.casefold() == "split" or {"train", "test"} <= words <= set(SPLITS):
            has_val = "val" in words or not words
            use = f"`split: {name}`" if has_val else f"`split: {{column: {name}, val: 0.1}}`"
            official = f"If it is the official one, say {use}."
            table.note(f"Warning: column {name!r} is NOT used as the split. {official}")


def group_cells(table: RawTable, shares: SplitFractions) -> Cells:
    """The group of each row `[N]` of the table; "" where it has none."""
    cells = table.texts(str(shares.group))
    if shares.group_pattern is None:
        return cells
    matches = [re.search(shares.group_pattern, cell) for cell in cells]
    return np.array([match[0] if match else "" for match in matches], object)


def _read_groups(table: RawTable, shares: SplitFractions, positions: Rows) -> Cells | None:
    """The group of each row at `positions`; None: the split has none. DataError for blanks."""
    if shares.group is None:
        return None
    groups = group_cells(table, shares)[positions]
    if blank := positions[groups == ""].tolist():
        remedy = "fill these cells; a sample of no group gets a name of its own."
        if shares.group_pattern is not None:
            remedy += f" The group is what group_pattern = {shares.group_pattern!r} finds in them."
        raise data_error("Rows without a group", [table.place(i, shares.group) for i in blank], remedy)
    return groups


def _draw(
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
    held_out = {name: part.group for name in SPLITS[1:] if isinstance(part := getattr(shares, name), HeldOut)}
    what = "val is drawn from the official train rows" if is_official else "The split is drawn"
    by = ""
    if groups is not None:
        by = f", no {shares.group!r} in two of {'train and val' if is_official else 'them'}"
    if shares.folds is not None:
        what = f"Fold {shares.fold or 1} of {shares.folds} is drawn"
        if groups is not None:
            held_out["test"] = sorted(set(groups[split == "test"]))
    counts = ", ".join(f"{name} {int((split == name).sum())}" for name in SPLITS)
    note = f"{what} (seed {shares.seed}{by}): {counts}."
    for name, names in held_out.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        note += f" {name.capitalize()} is {shares.group!r} {', '.join(names[:SHOWN])}{more}."
    table.note(f"{note} It follows the order of the rows.")
    return split


def _check_train(
    table: RawTable, column: str, good: Rows, samples: pd.DataFrame, class_names: Sequence[str]
) -> None:
    """DataError where train lacks a class of the target `column`; other splits may. `samples` (`split`,
    `target`) are the `good` rows."""
    present = set(samples.loc[samples["split"] == "train", "target"])
    lines = []
    for k in (k for k in range(len(class_names)) if k not in present):
        rows = good[(samples["target"] == k).to_numpy()].tolist()
        first = f", the first in {table.row(rows[0])}" if rows else ""
        lines.append(f"{class_names[k]!r} ({len(rows)} in val and test{first})")
    if lines:
        remedy = "add such rows to train, lower val and test, or leave these classes out of the table."
        raise data_error(f"{table.file}, column {column!r}: classes without a row in train", lines, remedy)


# ----------------------------------------------------------------------------------------------------- notes
def _grouped(notes: Sequence[str]) -> list[str]:
    """The notes; of those that differ in column and numbers alone, where there are many, one."""
    groups: dict[str, dict[str, str]] = {}  # form → note → column
    for note in notes:
        match = COLUMN_NOTE.match(note)
        name, form = (match[1], re.sub(r"[0-9][0-9.]*", "#", match[2])) if match else ("", note)
        groups.setdefault(form, {})[note] = name
    lines: list[str] = []
    for same in groups.values():
        first, *rest = same
        more = f" Likewise {len(rest):,} more: {enumerated(list(same.values())[1:], SHOWN)}."
        lines += [first + more] if len(same) > SHOWN else same
    return lines


def _note_findings(
    table: RawTable, settings: IngestSettings, raw: Table, samples: pd.DataFrame, media: Sequence[str]
) -> None:
    """Notes on files in more than one split, and on the logarithm of the target."""
    for name in media:
        splits = samples.groupby(name)["split"].nunique()
        if len(shared := splits.index[splits > 1]):
            shown = ", ".join(map(str, shared[:SHOWN]))
            table.note(f"{len(shared)} files of {name!r} are in more than one split, e.g. {shown}.")
    if raw.log_target:
        unit = settings.target.unit
        hint = f" Say so in the data set's parameters: `target: {{unit: ln {unit}}}`."
        hint = "" if {"ln", "log"} & {*unit.split()} else hint
        table.note(f"The target is the natural logarithm of {raw.target!r}; so are its errors.{hint}")
