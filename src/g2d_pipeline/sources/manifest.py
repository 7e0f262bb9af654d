"""The manifest: one table of samples that every later stage reads, and its side file (design.md §4)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.config import SPLITS, IngestSettings
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import nearest

if TYPE_CHECKING:
    import pandas as pd

TABLE, META = "manifest.parquet", "manifest.json"
KEYS = (
    "dataset", "task", "class_names", "target", "counts", "source", "raw_dir", "columns", "kinds", "group_disjoint",
    "dropped", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """Samples and what is known about them.

    `table`, a row a sample: `sample_id` str, unique; `split` train|val|test; `target` int64 (class) or
    float64; one column per media modality (path relative to the raw root, `file#row` for a row of an array
    file) or text; the columns of tabular modalities (numbers float64, categories str, dates datetime64;
    missing ones are null); optional `group` and further columns for reports.

    `meta`: `dataset`, `task`, `class_names` (empty for regression), `target` {name, unit, and for regression
    mean, std (population), min, max on train}, `counts` {split: n}, `source` raw|sample, `raw_dir` (the
    folder that paths are relative to; itself relative to the project unless absolute), `columns` {modality:
    [columns]}, `kinds` {modality: kind} where the settings say it, `group_disjoint`, `dropped` [{file, row,
    reason}], `notes` [str]."""

    table: pd.DataFrame
    meta: dict[str, Any]


def build(
    table: pd.DataFrame,
    settings: IngestSettings,
    *,
    raw_dir: str,
    class_names: list[str] | None = None,
    group_disjoint: bool = False,
    dropped: list[dict[str, Any]] | None = None,
    notes: list[str] | None = None,
) -> Manifest:
    """A validated manifest: `table` with what `settings` and the table itself tell about it."""
    target: dict[str, Any] = {"name": settings.target.name, "unit": settings.target.unit}
    if settings.task == "regression":
        y = table.loc[table["split"] == "train", "target"].astype("float64")
        target |= {
            "mean": float(y.mean()),
            "std": float(y.std(ddof=0)),
            "min": float(y.min()),
            "max": float(y.max()),
        }
    meta = {
        "dataset": settings.dataset,
        "task": settings.task,
        "class_names": list(class_names or []),
        "target": target,
        "counts": _counts(table),
        "source": settings.source,
        "raw_dir": raw_dir,
        "columns": {modality: list(columns) for modality, columns in settings.columns.items()},
        "kinds": dict(settings.kinds),
        "group_disjoint": group_disjoint,
        "dropped": dropped or [],
        "notes": notes or [],
    }
    manifest = Manifest(table.reset_index(drop=True), meta)
    validate(manifest)
    return manifest


def validate(manifest: Manifest) -> None:
    """Raise DataError, naming rows (0-based, of the manifest) and values, unless all that a manifest promises
    holds."""
    table, meta = manifest.table.reset_index(drop=True), manifest.meta
    name = meta.get("dataset", "?")
    if missing := [key for key in KEYS if key not in meta]:
        raise data_error(f"The manifest's {META} of {name!r} lacks keys", missing, _REBUILD)
    wanted = ["sample_id", "split", "target", *(c for columns in meta["columns"].values() for c in columns)]
    if meta["group_disjoint"]:
        wanted.append("group")
    if double := sorted(
        {c for c in wanted if wanted.count(c) > 1} | set(table.columns[table.columns.duplicated()])
    ):
        raise data_error(f"The manifest of {name!r} has columns of the same name", double, "rename them.")
    if missing := [column for column in wanted if column not in table]:
        named = [f"{column!r}{nearest(column, list(map(str, table.columns)))}" for column in missing]
        raise data_error(f"The manifest of {name!r} lacks columns", named, _REBUILD)
    if not len(table):
        raise data_error(
            f"The manifest of {name!r} has no rows", [], "look at the raw folder: it holds no samples."
        )
    _check_ids_and_splits(table, name)
    if meta["counts"] != _counts(table):
        headline = f"The manifest of {name!r} has {_counts(table)} rows, its {META} says {meta['counts']}"
        raise data_error(headline, [], f"the two files are of different runs: {_REBUILD}")
    if meta["task"] == "classification":
        _check_classes(table, meta["class_names"], name)
    else:
        _check_numbers(table, name)
    if meta["group_disjoint"]:
        _check_groups(table, name)
    for modality, columns in meta["columns"].items():
        for column in columns:
            _check_column(table, column, name, meta["kinds"].get(modality, ""))


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Validate, then write `manifest.parquet` and `manifest.json` into `folder`; equal manifests give equal
    bytes."""
    validate(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest.meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(folder / TABLE, lambda path: manifest.table.to_parquet(path, index=False, engine="pyarrow"))
    _replace(folder / META, lambda path: path.write_bytes(text.encode()))


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, validated anew; DataError where it is absent, broken or of two different
    runs."""
    import pandas as pd

    for name in (TABLE, META):
        if not (folder / name).is_file():
            raise data_error(f"There is no {name} in {folder}", [], "run the ingest stage.")
    try:
        meta = json.loads((folder / META).read_bytes())
    except ValueError as error:
        raise data_error(f"{folder / META} is not JSON ({error})", [], _REBUILD) from None
    try:
        table = pd.read_parquet(folder / TABLE, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise data_error(f"{folder / TABLE} is not a parquet table ({error})", [], _REBUILD) from None
    if not isinstance(meta, dict):
        raise data_error(f"{folder / META} is not an object of keys", [], _REBUILD)
    manifest = Manifest(table, meta)
    validate(manifest)
    return manifest


_REBUILD = "make the manifest anew (`--params rebuild=true`)."


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """`write` to a temporary name beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _counts(table: pd.DataFrame) -> dict[str, int]:
    return {split: int((table["split"] == split).sum()) for split in SPLITS}


def _check_ids_and_splits(table: pd.DataFrame, name: str) -> None:
    split = table["split"]
    if (wrong := ~split.isin(SPLITS)).any():
        named = [f"row {i}: {split[i]!r}{nearest(str(split[i]), SPLITS)}" for i in table.index[wrong]]
        raise data_error(
            f"{name!r}: splits other than {', '.join(SPLITS)}", named, "correct the splits' names."
        )
    ids = table["sample_id"]
    if (empty := ids.isna() | (ids.astype(str) == "")).any():
        raise data_error(
            f"{name!r}: samples without an id", [f"row {i}" for i in table.index[empty]], "name them."
        )
    if (double := ids.duplicated(keep=False)).any():
        rows = ids[double].groupby(ids[double], sort=True).groups
        named = [f"{value!r} in rows {', '.join(map(str, index))}" for value, index in rows.items()]
        raise data_error(
            f"{name!r}: sample ids that are not unique", named, "remove or rename the repeated samples."
        )
    if empty_splits := [s for s, count in _counts(table).items() if count == 0]:
        raise data_error(
            f"{name!r}: splits without a sample", empty_splits, "all of train, val and test are needed."
        )


def _check_classes(table: pd.DataFrame, class_names: list[str], name: str) -> None:
    target = table["target"]
    if target.dtype.kind not in "iu":
        headline = f"{name!r}: the target of a classification is {target.dtype}, not int64"
        raise data_error(headline, [], "give whole class numbers, or set task to regression.")
    if (outside := (target < 0) | (target >= len(class_names))).any():
        named = [f"row {i}: {target[i]}" for i in table.index[outside]]
        raise data_error(
            f"{name!r}: labels outside 0 to {len(class_names) - 1}", named, "correct the labels."
        )
    present = set(target[table["split"] == "train"])
    if absent := [f"{i} ({c})" for i, c in enumerate(class_names) if i not in present]:
        raise data_error(f"{name!r}: classes without a sample in train", absent, "add such samples to train.")


def _check_numbers(table: pd.DataFrame, name: str) -> None:
    target = table["target"]
    if target.dtype.kind != "f":
        raise data_error(
            f"{name!r}: the target of a regression is {target.dtype}, not float64", [], "give numbers."
        )
    wrong = [f"row {i}: {value}" for i, value in target.items() if not math.isfinite(value)]
    if wrong:
        raise data_error(f"{name!r}: targets that are not finite", wrong, "correct or remove these rows.")
    train = target[table["split"] == "train"]
    if train.min() == train.max():
        headline = f"{name!r}: the target is {train.iloc[0]} in all {len(train)} rows of train"
        raise data_error(headline, [], "check the target's column: there is nothing to learn.")


def _check_groups(table: pd.DataFrame, name: str) -> None:
    if (blank := table["group"].isna()).any():
        raise data_error(
            f"{name!r}: samples without a group", [f"row {i}" for i in table.index[blank]], "fill it."
        )
    splits = table.groupby("group", sort=True)["split"].unique()
    if crossing := [
        f"{group!r} in {', '.join(sorted(found))}" for group, found in splits.items() if len(found) > 1
    ]:
        raise data_error(
            f"{name!r}: groups in more than one split", crossing, "keep each group within one split."
        )


def _check_column(table: pd.DataFrame, column: str, name: str, kind: str) -> None:
    values = table[column]
    numbers = values.dtype.kind in "fiub"
    if (numbers or kind == "tabular") and values[table["split"] == "train"].isna().all():
        headline = f"{name!r}: column {column!r} is blank in all of train"
        raise data_error(headline, [], "remove it from the modality's columns, or fill it.")
    if numbers:
        if values.dtype != "float64":
            raise data_error(f"{name!r}: column {column!r} is {values.dtype}, not float64", [], "convert it.")
        if (infinite := values.isin([math.inf, -math.inf])).any():
            rows = [f"row {i}" for i in table.index[infinite]]
            raise data_error(f"{name!r}: infinite values in column {column!r}", rows, "correct these cells.")
        return
    if kind == "tabular":
        if values.dtype.kind != "M":
            wrong = [
                f"row {i}: {value!r}" for i, value in values.dropna().items() if not isinstance(value, str)
            ]
            if wrong:
                raise data_error(
                    f"{name!r}: no category in column {column!r}", wrong, "give text, or leave it out."
                )
        return
    wrong = [
        f"row {i}: {value!r}"
        for i, value in values.items()
        if not isinstance(value, str) or not (value or kind == "text")
    ]
    if wrong:
        what = "text" if kind == "text" else "path"
        raise data_error(
            f"{name!r}: no {what} in column {column!r}", wrong, f"give a {what}, or drop the sample."
        )
