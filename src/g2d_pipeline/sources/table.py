"""Anybody's own data: one table with a row a sample, and the files that it names (datasets.md §6)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.sources.faults import BadRow, settle, walk
from g2d_pipeline.sources.table_settings import (
    check_settings,
    find_modalities,
    needed_columns,
    own_columns,
    paths_dir,
    paths_start,
    table_settings,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from g2d_pipeline.config import IngestSettings, LayoutSettings, Table
    from g2d_pipeline.sources.manifest import Manifest
    from g2d_pipeline.sources.table_reading import RawTable

PAPERS = (".md", ".txt", ".rst", ".pdf", ".html", ".py", ".ipynb", ".yml", ".yaml", ".log")


def sample_dir(raw: LayoutSettings) -> None:
    """None: nobody can simulate what the user has."""


def expected(raw: LayoutSettings) -> str:
    table = table_settings(raw)
    return (
        f"{table.raw_dir} must hold the table {table.table!r} (set raw_dir and table in the data set's parameters): "
        f"a row a sample, the target in column {table.target!r}, paths of files relative to {paths_dir(table)}."
    )


def raw_files(root: Path, raw: LayoutSettings) -> list[Path]:
    """The table and every file, papers apart, in the folder where paths start; empty where there is no table."""
    settings = table_settings(raw)
    table = root / settings.table
    if not table.is_file():
        return []
    base = root / paths_start(settings)
    files = {base / f for f in walk(base) if not f.lower().endswith(PAPERS)}
    return sorted({*files, table})


def read(settings: IngestSettings, root: Path) -> Manifest:
    """A sample a row: its id, split, target, the path of each medium and the numbers of tabular modalities.

    Rows that can not be read, or have no target or file, are dropped while their share is at most `max_bad_fraction`;
    a split that is drawn is drawn after that. Raises DataError naming rows, columns and remedies, and ConfigError where
    the settings contradict themselves.
    """
    import numpy as np
    import pandas as pd

    from g2d_pipeline.sources import table_cells as cells
    from g2d_pipeline.sources.manifest import build
    from g2d_pipeline.sources.table_reading import read_table

    raw = table_settings(settings.raw)
    table = read_table(root / raw.table, raw.table, raw.names)
    notes = list(table.notes)
    check_settings(settings, raw)
    table.require(own_columns(raw))
    media, tabular = find_modalities(settings, raw, table)
    names = list(dict.fromkeys(c for columns in tabular.values() for c in columns))
    table.require([*names, *(c for column in media.values() for c in needed_columns(column))])
    _note_unused(table, raw, media, names, notes)

    class_names: list[str] | None = None
    target: npt.NDArray[Any]
    if settings.task == "regression":
        target, faults = cells.read_target(table, raw.target, raw.log_target)
    else:
        target, class_names, faults = cells.read_labels(table, raw.target, raw.classes, notes)
    features = cells.read_features(table, names, notes)
    paths = {name: _paths(table, column) for name, column in media.items()}
    faults |= {i: reason for i, reason in _media_faults(paths, media, root, raw).items() if i not in faults}
    ids = cells.read_ids(table, raw.id) if raw.id is not None else _ids(paths, table)
    given = cells.read_split(table, raw.split) if isinstance(raw.split, str) else None

    bad = [*table.bad, *(BadRow(table.file, int(table.rows[i]), reason) for i, reason in sorted(faults.items()))]
    total = len(table.rows) + len(table.bad)
    remedy = f"correct these rows of {table.file}, or the files in {paths_dir(raw)}"
    dropped = settle(bad, total, settings.max_bad_fraction, "rows", remedy)
    good = np.setdiff1d(np.arange(len(table.rows)), list(faults))
    target = target[good]
    if not len(good):
        raise data_error(f"{table.file}: no row is left", [], remedy + ".")
    groups = _groups(table, raw, good)
    split = given[good] if given is not None else _draw(target, raw, groups, notes)
    _check_train(target, split, class_names, settings)

    result = pd.DataFrame({"sample_id": ids[good], "split": split, "target": target})
    for name in settings.columns:
        for column in tabular.get(name, []):
            result[column] = features[column][good]
        if name in paths:
            result[name] = np.array(paths[name], object)[good]
            _note_shared(result, name, notes)
    if groups is not None:
        result["group"] = groups
    kept = {name: values[good] for name, values in features.items()}
    scales = [target.astype("float64"), *([np.exp(target)] if raw.log_target else [])]
    leaks = list(dict.fromkeys(leak for scale in scales for leak in cells.leaks(kept, scale)))
    _note_target(settings, raw, leaks, class_names, notes)
    return build(
        result,
        settings,
        raw_dir=paths_dir(raw),
        class_names=class_names,
        group_disjoint=groups is not None,
        dropped=dropped,
        notes=notes,
    )


# ------------------------------------------------------------------------------------------------- what is in the table
def _paths(table: RawTable, column: str) -> list[str]:
    """The cells of a column, or a template filled; "" where there is nothing."""
    from g2d_pipeline.sources.table_cells import texts
    from g2d_pipeline.sources.table_paths import fill

    if "{" not in column:
        return list(texts(table[column]))
    columns = {c: list(texts(table[c])) for c in needed_columns(column)}
    return fill(column, columns, (table.rows - table.first).tolist())


def _media_faults(paths: Mapping[str, list[str]], media: Mapping[str, str], root: Path, raw: Table) -> dict[int, str]:
    """Position of a row → what is wrong with its first bad file; `paths` get their plain form, in place."""
    from g2d_pipeline.sources.table_paths import Files

    base = root / paths_start(raw)
    if paths and not base.is_dir():
        raise data_error(
            f"There is no folder {os.fspath(base)!r} for the paths in {raw.table}", [], "set `root` under `raw`."
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
    """The first medium's path without ending, with the row's number where that repeats; without media, that alone."""
    import numpy as np

    if not paths:
        return np.array([f"row{row}" for row in table.rows], object)
    stems = [str(PurePosixPath(path).with_suffix("")) if path else "" for path in next(iter(paths.values()))]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
    ids = [s if seen[s] == 1 and s else f"{s}@row{row}" for s, row in zip(stems, table.rows, strict=True)]
    return np.array(ids, object)


def _groups(table: RawTable, raw: Table, good: npt.NDArray[np.int64]) -> npt.NDArray[np.object_] | None:
    from g2d_pipeline.sources.table_cells import texts

    if isinstance(raw.split, str) or raw.split.group is None:
        return None
    groups = texts(table[raw.split.group])[good]
    if blank := [i for i, group in enumerate(groups) if not group]:
        shown = [table.place(int(good[i]), raw.split.group) for i in blank]
        raise data_error(
            "Rows without a group", shown, "fill these cells; a sample of no group gets a name of its own."
        )
    return groups


def _draw(
    target: npt.NDArray[Any], raw: Table, groups: npt.NDArray[np.object_] | None, notes: list[str]
) -> npt.NDArray[np.str_]:
    from g2d_pipeline.sources.splitting import draw_split

    assert not isinstance(raw.split, str)
    split = draw_split(len(target), target, raw.split, None if groups is None else groups.astype(str))
    counts = ", ".join(f"{name} {int((split == name).sum())}" for name in ("train", "val", "test"))
    by = f", no {raw.split.group!r} in two of them" if groups is not None else ""
    notes.append(f"The split is drawn (seed {raw.split.seed}{by}): {counts}. It follows the order of the rows.")
    return split


def _check_train(
    target: npt.NDArray[Any], split: npt.NDArray[np.str_], class_names: list[str] | None, settings: IngestSettings
) -> None:
    """DataError where train lacks a class; other splits may."""
    import numpy as np

    if class_names is None:
        return
    counts = np.bincount(target, minlength=len(class_names))
    inside = np.bincount(target[split == "train"], minlength=len(class_names))
    lacking = [(k, int(n)) for k, n in enumerate(counts) if inside[k] == 0]
    if lacking:
        shown = [f"{class_names[k]!r} ({n} rows, none of them in train)" for k, n in lacking]
        remedy = "add such rows to train, lower val and test, or leave these classes out of the table."
        raise data_error(f"{settings.dataset}: classes that train lacks", shown, remedy)


# --------------------------------------------------------------------------------------------------------------- notes
def _note_unused(table: RawTable, raw: Table, media: Mapping[str, str], names: list[str], notes: list[str]) -> None:
    used = {*own_columns(raw), *names, *(c for column in media.values() for c in needed_columns(column))}
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
        hint = "" if logged else f" Say so in the data set's parameters: `target: {{unit: ln {settings.target.unit}}}`."
        notes.append(f"The target is the natural logarithm of {raw.target!r}; so are its errors.{hint}")
