"""The samples of a user's table: the values of its modalities, the target and the split of each row."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.config import IngestSettings, Table
from g2d_pipeline.errors import SHOWN, data_error, enumerated
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.remote import joined
from g2d_pipeline.sources.layout import Layout, Samples
from g2d_pipeline.sources.table import columns
from g2d_pipeline.sources.table import settings as chosen
from g2d_pipeline.sources.table.files import Tables, find_tables, path_prefix, paths_start
from g2d_pipeline.sources.table.frame import RawTable
from g2d_pipeline.sources.table.join import read_all, take_labelled
from g2d_pipeline.sources.table.paths import Files, check_paths, needed_columns, path_ids, read_paths
from g2d_pipeline.sources.table.splits import check_train, draw, note_unused, official_split, read_groups

COLUMN_NOTE = re.compile(r"Column ('[^']*')(.*)", re.DOTALL)


def read_samples(layout: Layout[Table], settings: IngestSettings) -> Samples:
    """See `TableLayout.read_samples`."""
    raw = layout.raw
    tables = find_tables(layout.root, raw)
    chosen.check_settings(settings, raw, tables)
    modalities = [m for m in settings.columns if chosen.kind_of(settings, m) == "tabular"]
    table = read_all(layout.root, raw, tables, chosen.tabular_columns(settings, modalities)[1])
    table.require(chosen.own_columns(raw))
    sources = chosen.find_columns(settings, raw, table)
    needed = {modality: needed_columns(source) for modality, source in sources.items()}
    uses = chosen.uses(raw) | {name: f"of {m!r}" for m, names in needed.items() for name in names}
    settings = chosen.select_columns(settings, table, modalities, uses)
    tabular, numbers = chosen.tabular_columns(settings, modalities)
    required = [*tabular, *(name for names in needed.values() for name in names)]
    table.require(required)
    # before anything is said of columns: rows that could not be read leave them blank
    layout.drop_or_raise(table.bad, len(table) + len(table.bad), settings, "rows", f"correct {table.file}")
    table = take_labelled(table, raw, settings.task)
    media = [modality for modality in sources if chosen.kind_of(settings, modality) != "text"]
    table.refuse_long([name for m, names in needed.items() if m not in media for name in names])
    used = {*chosen.own_columns(raw), *required}
    if unused := [name for name in table.names if name not in used]:
        table.note(f"Columns of {table.file} that are not used: {enumerated(unused)}.")
        note_unused(table, unused)

    raw_dir = joined(raw.raw_dir, paths_start(raw, tables))
    rows, class_names = _read_rows(layout, settings, table, sources, media, tables, numbers)
    remedy = f"correct these rows of {table.file}, or the files in {raw_dir}"
    total, bad = len(table) + len(table.bad), [*table.bad, *table.bad_rows(table.faults)]
    dropped = layout.drop_or_raise(bad, total, settings, "rows", remedy)
    good = np.setdiff1d(np.arange(len(table)), list(table.faults))
    if not len(good):
        raise data_error(f"{table.file}: no row is left", [], f"{remedy}.")
    samples = rows.iloc[good].reset_index(drop=True)
    shares, groups = chosen.fractions(raw, tables), None
    is_official = bool((samples["split"] != "").all())
    if shares is not None:
        groups = read_groups(table, shares, good)
        samples["split"] = draw(samples, shares, groups, table, is_official)
    check_train(table, raw.target, good, samples, class_names)
    if groups is not None:
        samples["group"] = groups
    elif raw.group is not None:
        samples["group"] = table.texts(raw.group)[good]
    _note_findings(table, settings, raw, samples, media)
    return Samples(
        samples,
        class_names,
        dropped,
        _grouped(table.notes),
        group_disjoint=groups is not None and not is_official,
        raw_dir=raw_dir,
        columns=settings.columns,
    )


def named_paths(layout: Layout[Table], settings: IngestSettings) -> list[str]:
    """Every path that the table names in columns of media, there or not, once each and sorted. Raises as
    `read_samples` does where the table can not be read or lacks a column."""
    raw = layout.raw
    tables = find_tables(layout.root, raw)
    chosen.check_settings(settings, raw, tables)
    table = take_labelled(read_all(layout.root, raw, tables, ()), raw, settings.task)
    sources = chosen.find_columns(settings, raw, table)
    start = paths_start(raw, tables)
    files, names = Files(layout.root / start), set[str]()
    for modality, source in sources.items():
        if chosen.kind_of(settings, modality) != "text":
            table.require(needed_columns(source))
            cells = {*read_paths(table, source, path_prefix(raw, tables))} - {""}
            plain = (files.plain(split_cell(cell)[0]) for cell in cells)
            names |= {path for path, fault in plain if fault is None}
    return sorted(names)


def _read_rows(
    layout: Layout[Table],
    settings: IngestSettings,
    table: RawTable,
    sources: dict[str, str],
    media: Sequence[str],
    tables: Tables,
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
    base, prefix = layout.root / paths_start(raw, tables), path_prefix(raw, tables)
    values |= {m: columns.read_texts(table, sources[m]) for m in sources if m not in media}
    paths = {m: read_paths(table, sources[m], prefix) for m in media}
    values |= paths
    check_paths(table, sources, paths, base)
    first = next(iter(paths.values()), None)
    ids = path_ids(table, first) if raw.id is None else columns.read_ids(table, raw.id)
    split = official_split(table, raw, tables)
    rows = {"sample_id": ids, "split": "" if split is None else split, "target": target}
    rows |= {name: values[name] for names in settings.columns.values() for name in names}
    return pd.DataFrame(rows, index=table.data.index), class_names


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
        if {"ln", "log"} & {*unit.split()}:
            hint = ""
        table.note(f"The target is the natural logarithm of {raw.target!r}; so are its errors.{hint}")
