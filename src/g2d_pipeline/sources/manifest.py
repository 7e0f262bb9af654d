"""The manifest: one table of samples that every later stage reads, and its side file (design.md §4)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.config import SPLITS, IngestSettings
from g2d_pipeline.errors import data_error, did_you_mean
from g2d_pipeline.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

TABLE, META = "manifest.parquet", "manifest.json"
KEYS = (
    "dataset", "task", "class_names", "target", "counts", "source", "raw_dir", "columns", "kinds",
    "group_disjoint", "dropped", "notes",
)  # fmt: skip
INFINITE = (math.inf, -math.inf)
REBUILD = "make the manifest anew (`--params rebuild=true`)."
Fault = tuple[str, list[str] | None, str]  # headline, offenders ([]: no fault; None: not listed), remedy


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
    reason}], `notes` [str].

    `validated`: `build` has checked it, and it is not checked again when it is written."""

    table: pd.DataFrame
    meta: dict[str, Any]
    validated: bool = False


def build(
    table: pd.DataFrame,
    settings: IngestSettings,
    *,
    raw_dir: str,
    class_names: Sequence[str] = (),
    group_disjoint: bool = False,
    dropped: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Manifest:
    """A validated manifest: `table` with what `settings` and the table itself tell about it."""
    _check_columns(settings.dataset, table, settings.columns, group_disjoint)
    target: dict[str, Any] = {"name": settings.target.name, "unit": settings.target.unit}
    if settings.task == "regression":
        y = table.loc[table["split"] == "train", "target"].astype("float64")
        statistics = {"mean": y.mean(), "std": y.std(ddof=0), "min": y.min(), "max": y.max()}
        target |= {name: float(value) for name, value in statistics.items()}
    meta = {
        "dataset": settings.dataset,
        "task": settings.task,
        "class_names": list(class_names),
        "target": target,
        "counts": _counts(table),
        "source": settings.source,
        "raw_dir": raw_dir,
        "columns": {modality: list(columns) for modality, columns in settings.columns.items()},
        "kinds": dict(settings.kinds),
        "group_disjoint": group_disjoint,
        "dropped": list(dropped),
        "notes": list(notes),
    }
    validate(manifest := Manifest(table.reset_index(drop=True), meta, validated=True))
    return manifest


def _check_columns(name: str, table: pd.DataFrame, columns: Mapping[str, list[str]], group: bool) -> None:
    """Raise DataError for a table without rows or with other columns. `columns`: those of each modality."""
    names = ["sample_id", "split", "target", *(c for each in columns.values() for c in each)]
    names += ["group"] if group else []
    double = {c for c, count in Counter(names).items() if count > 1}
    if double := double | set(table.columns[table.columns.duplicated()]):
        headline = f"The manifest of {name!r} has columns of the same name"
        raise data_error(headline, sorted(double), "rename them.")
    known = list(map(str, table.columns))
    if table.empty:
        headline = f"The manifest of {name!r} has no rows"
        raise data_error(headline, [], "check the raw folder: it holds no samples.")
    if missing := [f"{column!r}.{did_you_mean(column, known)}" for column in names if column not in table]:
        remedy = f"in a layout of your own name them so in read_samples; else {REBUILD}"
        raise data_error(f"The manifest of {name!r} lacks columns", missing, remedy)


def validate(manifest: Manifest) -> None:
    """Raise DataError, naming rows (0-based) and values, unless all that a manifest promises holds."""
    table, meta = manifest.table.reset_index(drop=True), manifest.meta
    name = meta.get("dataset", "?")
    if missing := [key for key in KEYS if key not in meta]:
        raise data_error(f"The manifest's {META} of {name!r} lacks keys", missing, REBUILD)
    _check_columns(name, table, meta["columns"], meta["group_disjoint"])
    for headline, offenders, remedy in _faults(table, meta):
        if offenders is None or offenders:
            raise data_error(f"{name!r}: {headline}", offenders or [], remedy)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.parquet` and `manifest.json` into `folder`; equal manifests give equal bytes. Raises
    DataError as `validate` does, where `build` has not made it."""
    if not manifest.validated:
        validate(manifest)
    text = json.dumps(manifest.meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(folder / TABLE) as path:
        manifest.table.to_parquet(path, index=False, engine="pyarrow")
    with atomic_write(folder / META) as path:
        path.write_bytes(text.encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, validated anew; DataError where it is absent, broken or of two runs."""
    import pandas as pd

    for name in (TABLE, META):
        if not (folder / name).is_file():
            raise data_error(f"There is no {name} in {folder}", [], "run the ingest stage.")
    try:
        meta = json.loads((folder / META).read_bytes())
    except ValueError as error:
        raise data_error(f"{folder / META} is not JSON ({error})", [], REBUILD) from None
    try:
        table = pd.read_parquet(folder / TABLE, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise data_error(f"{folder / TABLE} is not a parquet table ({error})", [], REBUILD) from None
    if not isinstance(meta, dict):
        raise data_error(f"{folder / META} is not an object of keys", [], REBUILD)
    validate(manifest := Manifest(table, meta, validated=True))
    return manifest


def _counts(table: pd.DataFrame) -> dict[str, int]:
    return {split: int((table["split"] == split).sum()) for split in SPLITS}


def _rows(values: pd.Series[Any], wrong: Any) -> list[str]:
    return [f"row {i}: {value!r}" for i, value in values[wrong].items()]


def _faults(table: pd.DataFrame, meta: Mapping[str, Any]) -> Iterator[Fault]:
    """What may be wrong, one after the other: what follows holds only where all before is right."""
    import numpy as np

    yield from _faults_of_ids_and_splits(table)
    if meta["counts"] != _counts(table):
        headline = f"The manifest of {meta['dataset']!r} has {_counts(table)} rows, its {META} says"
        remedy = f"the two files are of different runs: {REBUILD}"
        raise data_error(f"{headline} {meta['counts']}", [], remedy)
    if meta["task"] == "classification":
        yield from _faults_of_classes(table, meta["class_names"])
    else:
        yield from _faults_of_numbers(table["target"], table["split"] == "train")
    if meta["group_disjoint"]:
        yield from _faults_of_groups(table)
    numbers = table.select_dtypes("float64")  # all at once: there may be thousands of columns
    values = numbers.to_numpy()
    blank = np.isnan(values[(table["split"] == "train").to_numpy()]).all(axis=0)
    whole = {*numbers.columns[~(np.isinf(values).any(axis=0) | blank)]}
    for modality, columns in meta["columns"].items():
        for column in (column for column in columns if column not in whole):
            yield from _faults_of_column(table[column], table["split"], meta["kinds"].get(modality, ""))


def _faults_of_ids_and_splits(table: pd.DataFrame) -> Iterator[Fault]:
    split, ids = table["split"], table["sample_id"]
    wrong = split[~split.isin(SPLITS)]
    rows = [f"row {i}: {s!r}.{did_you_mean(str(s), SPLITS)}" for i, s in wrong.items()]
    yield f"splits other than {', '.join(SPLITS)}", rows, "correct the splits' names."
    empty = table.index[ids.isna() | (ids.astype(str) == "")]
    yield "samples without an id", [f"row {i}" for i in empty], "name them."
    double = ids[ids.duplicated(keep=False)]
    groups = double.groupby(double, sort=True).groups
    rows = [f"{value!r} in rows {', '.join(map(str, index))}" for value, index in groups.items()]
    yield "sample ids that are not unique", rows, "remove or rename the repeated samples."
    absent = [s for s, count in _counts(table).items() if count == 0]
    yield "splits without a sample", absent, "all of train, val and test are needed."


def _faults_of_classes(table: pd.DataFrame, class_names: list[str]) -> Iterator[Fault]:
    target = table["target"]
    if target.dtype.kind not in "iu":
        remedy = "give whole class numbers, or set task to regression."
        yield f"the target of a classification is {target.dtype}, not int64", None, remedy
    outside = (target < 0) | (target >= len(class_names))
    yield f"labels outside 0 to {len(class_names) - 1}", _rows(target, outside), "correct the labels."
    present = set(target[table["split"] == "train"])
    absent = [f"{i} ({c})" for i, c in enumerate(class_names) if i not in present]
    yield "classes without a sample in train", absent, "add such samples to train."


def _faults_of_numbers(target: pd.Series[Any], in_train: pd.Series[bool]) -> Iterator[Fault]:
    if target.dtype.kind != "f":
        yield f"the target of a regression is {target.dtype}, not float64", None, "give numbers."
    rows = _rows(target, target.isna() | target.isin(INFINITE))
    yield "targets that are not finite", rows, "correct or remove these rows."
    train = target[in_train]
    if train.min() == train.max():
        headline = f"the target is {train.iloc[0]} in all {len(train)} rows of train"
        yield headline, None, "check the target's column: there is nothing to learn."


def _faults_of_groups(table: pd.DataFrame) -> Iterator[Fault]:
    blank = table.index[table["group"].isna()]
    yield "samples without a group", [f"row {i}" for i in blank], "fill it."
    splits = table.groupby("group", sort=True)["split"].unique()
    crossing = [f"{group!r} in {', '.join(sorted(s))}" for group, s in splits.items() if len(s) > 1]
    yield "groups in more than one split", crossing, "keep each group within one split."


def _faults_of_column(values: pd.Series[Any], split: pd.Series[str], kind: str) -> Iterator[Fault]:
    column = f"column {values.name!r}"
    is_number = values.dtype.kind in "fiub"
    if (is_number or kind == "tabular") and values[split == "train"].isna().all():
        yield f"{column} is blank in all of train", None, "remove it from the modality's columns, or fill it."
    if is_number:
        if values.dtype != "float64":
            yield f"{column} is {values.dtype}, not float64", None, "convert it."
        infinite = values.index[values.isin(INFINITE)]
        yield f"infinite values in {column}", [f"row {i}" for i in infinite], "correct these cells."
    elif values.dtype.kind != "M" or kind != "tabular":
        no_text = ~values.map(lambda value: isinstance(value, str)).astype(bool)
        what, wrong, remedy = "path", no_text | (values == ""), "give a path, or drop the sample."
        if kind == "tabular":
            what, wrong, remedy = "category", no_text & values.notna(), "give text, or leave it out."
        elif kind == "text":
            what, wrong, remedy = "text", no_text, "give a text, or drop the sample."
        yield f"no {what} in {column}", _rows(values, wrong), remedy
