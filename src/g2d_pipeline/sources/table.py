"""Anybody's own data: one table with a row a sample, and the files that it names (datasets.md §6)."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.sources.faults import BadRow, drop_or_raise, list_files
from g2d_pipeline.sources.table_files import TableFile, describe, find_tables, paths_start
from g2d_pipeline.sources.table_files import suggest as near_tables
from g2d_pipeline.sources.table_settings import (
    check_settings,
    find_columns,
    fractions,
    kind_of,
    needed_columns,
    own_columns,
    paths_dir,
    table_settings,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from g2d_pipeline.config import IngestSettings, LayoutSettings, Table
    from g2d_pipeline.sources.manifest import Manifest
    from g2d_pipeline.sources.table_raw import RawTable

PAPERS = (".md", ".txt", ".rst", ".pdf", ".html", ".py", ".ipynb", ".yml", ".yaml", ".log")


def expected(raw: LayoutSettings) -> str:
    table = table_settings(raw)
    return (
        f"{table.raw_dir} must hold the table {describe(table)} (set raw_dir and table in the data set's "
        f"parameters): a row a sample, the target in column {table.target!r}, paths relative to its folder or `root`."
    )


def suggest(root: Path, raw: LayoutSettings) -> str:
    """What may have been meant, where the table is not in `root`; a sentence, or nothing."""
    return near_tables(root, table_settings(raw))


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The table and every file, papers apart, in the folder where paths start; empty where there is no table."""
    settings = table_settings(raw)
    tables = find_tables(root, settings)
    if not tables:
        return []
    base = root / paths_start(settings, tables)
    files = {base / f for f in list_files(base) if not f.lower().endswith(PAPERS)}
    further = (file for join in settings.join if (file := root / join.table).is_file())
    return sorted({*files, *(root / table.file for table in tables), *further})


def read(settings: IngestSettings, root: Path) -> Manifest:
    """A sample a row: its id, split, target, the path of each medium and the numbers of tabular modalities.

    Rows that can not be read, or have no target or file, are dropped while their share is at most
    `max_bad_fraction`; a split that is drawn is drawn after that. Raises DataError naming rows, columns and
    remedies, and ConfigError where the settings contradict themselves."""
    import numpy as np
    import pandas as pd

    from g2d_pipeline.sources import table_cells as cells
    from g2d_pipeline.sources import table_kinds as kinds
    from g2d_pipeline.sources import table_splits as splits
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.table_files import read_tables
    from g2d_pipeline.sources.table_joining import complete

    raw = table_settings(settings.raw)
    tables = find_tables(root, raw)
    check_settings(settings, raw, tables)
    table = complete(read_tables(root, tables, raw.names), settings, raw, root)
    notes = list(table.notes)
    table.require(own_columns(raw))
    sources = find_columns(settings, raw, table, notes)
    names = list(
        dict.fromkeys(c for m, columns in settings.columns.items() if m not in sources for c in columns)
    )
    table.require([*names, *(c for column in sources.values() for c in needed_columns(column))])
    written = {m: column for m, column in sources.items() if kind_of(settings, m) == "text"}
    table.refuse_long([c for column in written.values() for c in needed_columns(column)])
    _note_unused(table, raw, sources, names, notes)

    class_names: list[str] | None = None
    target: npt.NDArray[Any]
    if settings.task == "regression":
        target, faults = cells.read_target(table, raw.target, raw.log_target)
    else:
        target, class_names, faults = cells.read_labels(table, raw.target, raw.classes, notes)
    numbers = [c for c in names if c not in {*settings.categorical, *settings.dates}]
    features: dict[str, Any] = dict(cells.read_features(table, numbers, notes))
    features |= {c: kinds.read_categories(table, c, notes) for c in names if c in settings.categorical}
    features |= {c: kinds.read_dates(table, c, notes) for c in names if c in settings.dates}
    values: dict[str, Any] = {}
    for modality, source in written.items():
        values[modality], blank = kinds.read_texts(table, source, needed_columns(source))
        faults = blank | faults
    paths = {m: _paths(table, column, raw, tables) for m, column in sources.items() if m not in written}
    faults = _media_faults(paths, sources, root / paths_start(raw, tables), table.file) | faults
    ids = cells.read_ids(table, raw.id) if raw.id is not None else _ids(paths, table)
    given = splits.given_split(table, raw, tables)

    bad = [
        *table.bad,
        *(BadRow(table.file_of(i), int(table.rows[i]), reason) for i, reason in sorted(faults.items())),
    ]
    total = len(table.rows) + len(table.bad)
    remedy = f"correct these rows of {table.file}, or the files in {paths_dir(raw, tables)}"
    dropped = drop_or_raise(bad, total, settings.max_bad_fraction, "rows", remedy)
    good = np.setdiff1d(np.arange(len(table.rows)), list(faults))
    target = target[good]
    if not len(good):
        raise data_error(f"{table.file}: no row is left", [], remedy + ".")
    shares = fractions(raw, tables)
    groups = splits.groups(table, shares, good)
    split = given[good] if given is not None else splits.draw(target, shares, groups, notes)
    splits.check_train(table, raw.target, good, target, split, class_names)

    result = pd.DataFrame({"sample_id": ids[good], "split": split, "target": target})
    values |= {m: np.array(of, object) for m, of in paths.items()}
    for modality, columns in settings.columns.items():
        for column in columns:
            of = values[modality] if modality in sources else features[column]
            result[column] = of.take(good).array if isinstance(of, pd.Series) else of[good]
        if modality in paths:
            _note_shared(result, modality, notes)
    if groups is not None:
        result["group"] = groups
    elif raw.group is not None:
        result["group"] = cells.texts(table[raw.group])[good]
    scales = [target.astype("float64"), *([np.exp(target)] if raw.log_target else [])]
    kept = {name: features[name][good] for name in numbers}
    leaks = list(dict.fromkeys(leak for scale in scales for leak in cells.leaks(kept, scale)))
    for name in settings.categorical if class_names is not None else []:
        if kinds.mirrors(features[name].take(good), target):
            notes.append(
                f"Target leakage? Each category of {name!r} is one class of the target {raw.target!r}."
            )
    _note_target(settings, raw, leaks, class_names, notes)
    return build(
        result,
        settings,
        raw_dir=paths_dir(raw, tables),
        class_names=class_names,
        group_disjoint=groups is not None,
        dropped=dropped,
        notes=notes,
    )


# --------------------------------------------------------------------------------------- what is in the table
def _paths(table: RawTable, column: str, raw: Table, tables: Sequence[TableFile]) -> list[str]:
    """The cells of a column, or a template filled, from where paths start; "" where there is nothing."""
    from g2d_pipeline.sources.table_cells import texts
    from g2d_pipeline.sources.table_paths import fill

    if "{" not in column:
        found = list(texts(table[column]))
    else:
        columns = {c: list(texts(table[c])) for c in needed_columns(column)}
        found = fill(column, columns, (table.rows - table.first).tolist())
    start = paths_start(raw, tables)
    if raw.root is not None or all(posixpath.dirname(t.file) == start for t in tables):
        return found
    folders = {t.file: posixpath.relpath(posixpath.dirname(t.file), start or ".") for t in tables}
    inside = [not path or PurePosixPath(path).is_absolute() or "://" in path for path in found]
    return [
        p if plain else f"{folders[table.file_of(i)]}/{p}"
        for i, (p, plain) in enumerate(zip(found, inside, strict=True))
    ]


def _media_faults(
    paths: Mapping[str, list[str]], media: Mapping[str, str], base: Path, file: str
) -> dict[int, str]:
    """Position of a row → what is wrong with its first bad file; `paths` get their plain form, in place."""
    from g2d_pipeline.sources.table_paths import Files

    if paths and not base.is_dir():
        raise data_error(
            f"There is no folder {os.fspath(base)!r} for the paths in {file}", [], "set `root` under `raw`."
        )
    files = Files(base)
    faults: dict[int, str] = {}
    for name, cells in paths.items():
        for i, cell in enumerate(cells):
            if not cell:
                faults.setdefault(i, f"no file in column {media[name]!r}")
                continue
            cells[i], fault = files.check(cell)
            if fault:
                faults.setdefault(i, fault)
    return faults


def _ids(paths: Mapping[str, list[str]], table: RawTable) -> npt.NDArray[np.object_]:
    """The first medium's path without ending, with the row's number where that repeats; without media, that
    alone.

    Where there are several tables, the table's name is before the number.
    """
    import numpy as np

    places = [f"row{row}" for row in table.rows]
    if table.files is not None:
        places = [f"{file}:{place}" for file, place in zip(table.files, places, strict=True)]
    if not paths:
        return np.array(places, object)
    stems = [str(PurePosixPath(path).with_suffix("")) if path else "" for path in next(iter(paths.values()))]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
    ids = [s if seen[s] == 1 and s else f"{s}@{place}" for s, place in zip(stems, places, strict=True)]
    return np.array(ids, object)


# ------------------------------------------------------------------------------------------------------ notes
def _note_unused(
    table: RawTable, raw: Table, sources: Mapping[str, str], names: list[str], notes: list[str]
) -> None:
    used = {*own_columns(raw), *names, *(c for column in sources.values() for c in needed_columns(column))}
    if unused := [h for h in table.headers if h and h not in used]:
        notes.append(f"Columns of {table.file} that are not used: {', '.join(unused)}.")


def _note_shared(result: Any, name: str, notes: list[str]) -> None:
    splits = result.groupby(name)["split"].nunique()
    if len(shared := splits.index[splits > 1]):
        shown = ", ".join(map(str, shared[:SHOWN]))
        notes.append(f"{len(shared)} files of {name!r} are in more than one split, e.g. {shown}.")


def _note_target(
    settings: IngestSettings, raw: Table, leaks: list[str], class_names: list[str] | None, notes: list[str]
) -> None:
    if leaks and (class_names is None or len(class_names) == 2):
        notes.append(f"Target leakage? Nearly the same as the target {raw.target!r}: {', '.join(leaks)}.")
    if raw.log_target:
        logged = any(word in settings.target.unit.split() for word in ("ln", "log"))
        hint = (
            ""
            if logged
            else f" Say so in the data set's parameters: `target: {{unit: ln {settings.target.unit}}}`."
        )
        notes.append(f"The target is the natural logarithm of {raw.target!r}; so are its errors.{hint}")
