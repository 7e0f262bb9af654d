"""What a version keeps of its training data, so that later data can be compared with them.

`reference/` in a version's folder: `samples.parquet`, the manifest's columns; `contents.parquet`, hashes of
each row's content and what the model makes of the rows that it looked at; `features.<modality>.npy`, its
encoders' features of those; `reference.json`."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.cells import files_of, is_row, row_bytes
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.files import atomic_folder, load_npy
from g2d_pipeline.sources.hashing import content_hashes
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.config.retrain import GateSettings
    from g2d_pipeline.serving import Predictor

FOLDER, SAMPLES, CONTENTS, ABOUT = "reference", "samples.parquet", "contents.parquet", "reference.json"
VERSION = 1
BATCH = 256
RESIDUAL = 0.99  # of a regression, an error beyond this quantile of those at training time is a contradiction
LARGEST = float(np.finfo(np.float64).max)
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Reference:
    """`samples` and `contents`: a row a sample of the manifest; `features`: modality → `[n, D]` of the rows
    `usable`; `about`: `meta` (the manifest's), `types` (column → numbers, dates or text), `residual`."""

    samples: pd.DataFrame
    contents: pd.DataFrame
    features: dict[str, Floats]
    about: dict[str, Any]

    @cached_property
    def usable(self) -> Rows:
        """The rows that were looked at and could be read."""
        readable = self.contents["looked_at"] & (self.contents["fault"] == "")
        return np.flatnonzero(readable.to_numpy(bool))

    @cached_property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which rows `[N]` the model was trained on."""
        return (self.samples["split"] == "train").to_numpy(bool)


@dataclass(frozen=True)
class Seen:
    """What a model makes of n raw samples. `rows` `[n, …]`: `fault`, why a sample can not be used, or "";
    `predicted`, a class number or value; `sure`, the highest probability; of each modality `blank/<m>`,
    whether the sample holds nothing. `features`: modality → `[n, D]`."""

    rows: pd.DataFrame
    features: dict[str, Floats]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which samples can be used `[n]`."""
        return (self.rows["fault"] == "").to_numpy(bool)

    def contradicts(self, target: Floats, confidence: float, residual: float | None) -> npt.NDArray[np.bool_]:
        """Which labels `[n]` the model contradicts: another class with at least this `confidence`; of a
        regression, an error beyond `residual`. None of unusable samples, and of targets NaN."""
        predicted = self.rows["predicted"].to_numpy()
        if residual is None:
            wrong = (predicted != target) & (self.rows["sure"].to_numpy() >= confidence)
        else:
            wrong = np.abs(predicted - target) > residual
        return np.asarray(wrong & self.good & ~np.isnan(target))


def write_reference(
    folder: Path, manifest: Manifest, root: Path, settings: GateSettings, *, hashes: Path | None = None
) -> None:
    """Write `reference/` into the `folder` of a version, which holds its model. `root`: where the manifest's
    paths start; `hashes`: the cache of content hashes.

    The model runs on at most `settings.samples` rows of train, and as many of val and test. Raises DataError
    if it can not be read."""
    from g2d_pipeline.serving import load_model

    table, predictor = manifest.table, load_model(folder)
    is_train = (table["split"] == "train").to_numpy(bool)
    drawn = [draw(np.flatnonzero(mask), settings.samples) for mask in (is_train, ~is_train)]
    rows = np.sort(np.concatenate(drawn))
    seen = look_at(predictor, table.iloc[rows], root)
    target, residual = table["target"].to_numpy(np.float64)[rows], None
    if manifest.meta["task"] == "regression":
        errors = np.abs(seen.rows["predicted"] - target)[seen.good & ~is_train[rows]]
        residual = float(np.quantile(errors, RESIDUAL, method="higher")) if len(errors) else LARGEST
    wrong = seen.contradicts(target, settings.confidence, residual)
    marks = seen.rows.filter(like="blank/")
    marks = pd.DataFrame({"looked_at": True, "contradicted": wrong}, index=marks.index).join(marks)
    contents = content_keys(manifest, manifest.meta["columns"], root, hashes)
    contents["fault"] = seen.rows["fault"].set_axis(rows).reindex(contents.index, fill_value="")
    contents = contents.join(marks.set_axis(rows).reindex(contents.index, fill_value=False))
    types = column_types(manifest)
    columns = ["sample_id", "split", "target", *(["group"] if "group" in table else []), *types]
    about = {"version": VERSION, "modalities": predictor.modalities, "types": types}
    about |= {"residual": residual, "meta": manifest.meta}
    text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_folder(folder / FOLDER) as new:
        table[list(dict.fromkeys(columns))].to_parquet(new / SAMPLES, index=False)
        contents.to_parquet(new / CONTENTS, index=False)
        for m, values in seen.features.items():
            np.save(new / f"features.{m}.npy", values[seen.good])
        (new / ABOUT).write_text(text, encoding="utf-8")


def read_reference(folder: Path) -> Reference | None:
    """The `reference/` of a version's folder; None if there is none. Raises DataError if it is damaged."""
    path = folder / FOLDER
    if not path.is_dir():
        return None
    try:
        about = json.loads((path / ABOUT).read_bytes())
        if about["version"] != VERSION:
            raise ValueError(f"it is of version {about['version']}, this program reads {VERSION}")
        samples, contents = (pd.read_parquet(path / name) for name in (SAMPLES, CONTENTS))
        features = {m: load_npy(path / f"features.{m}.npy") for m in about["modalities"]}
        reference = Reference(samples, contents, features, about)
        if len(samples) != len(contents) or {len(reference.usable)} != {*map(len, features.values())}:
            raise ValueError("its files are of different lengths")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        remedy = "copy the version's folder again, or promote another version."
        raise DataError(f"{path} is damaged ({reason}): {remedy}") from None
    return reference


def column_types(manifest: Manifest) -> dict[str, str]:
    """Column → what it holds: numbers, dates or text."""
    types = {"f": "numbers", "i": "numbers", "u": "numbers", "b": "numbers", "M": "dates"}
    columns = (c for names in manifest.meta["columns"].values() for c in names)
    return {c: types.get(manifest.table[c].dtype.kind, "text") for c in columns}


def draw(rows: Rows, most: int) -> Rows:
    """At most `most` of the rows, in order; the same ones each time."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


# --------------------------------------------------------------------------------------------- equal contents
def content_keys(
    manifest: Manifest, columns: dict[str, list[str]], root: Path, hashes: Path | None = None
) -> pd.DataFrame:
    """Hashes of each sample's content in these `columns` (modality → its columns), whatever its id, split and
    place are: `content`, of all and the target; `key/<m>` of each modality that is no table."""
    table, meta, types = manifest.table, manifest.meta, column_types(manifest)
    names = dict(enumerate(meta["class_names"]))
    parts = {"target": table["target"].map(names) if names else table["target"]}
    keys = {}
    for m, names_of_modality in columns.items():
        kind = meta["kinds"].get(m)
        for c in names_of_modality:
            is_path = types[c] == "text" and kind not in ("tabular", "text")
            parts[f"{m}/{c}"] = _media_keys(table[c], root, hashes) if is_path else table[c]
        if kind != "tabular":
            keys[f"key/{m}"] = _hashes(parts, [f"{m}/{c}" for c in names_of_modality])
    return pd.DataFrame({"content": _hashes(parts, list(parts)), **keys})


def _hashes(parts: dict[str, pd.Series[Any]], names: list[str]) -> list[str]:
    keys = pd.util.hash_pandas_object(pd.DataFrame({name: parts[name] for name in names}), index=False)
    return [f"{key:016x}" for key in keys]


def _media_keys(cells: pd.Series[Any], root: Path, hashes: Path | None) -> pd.Series[Any]:
    """A hash of what each cell points to; the same one of all that can not be read."""
    cells, files = cells.astype(str), dict[str, list[Path]]()
    for cell in cells.unique():
        files[cell] = []
        with suppress(OSError):
            files[cell] = [f for f in files_of(cell, root) if f.is_file() and os.access(f, os.R_OK)]
    named = {file for cell, paths in files.items() if not is_row(cell) for file in paths}
    known = content_hashes(sorted(named), hashes)
    digests = {}
    for cell, paths in files.items():
        content = b""
        with suppress(MediaError, OSError):
            content = row_bytes(cell, root) if is_row(cell) else repr([known.get(f) for f in paths]).encode()
        digests[cell] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return cells.map(digests)


def new_rows(manifest: Manifest, keys: pd.Series[str], reference: Reference) -> tuple[Rows, int]:
    """(the rows of a manifest that a reference lacks, how many of the reference's are gone).

    Equal contents are counted: of five equal rows, three of which the reference had, two are new, if possible
    ones with new ids."""
    current = pd.MultiIndex.from_arrays([manifest.table["sample_id"].astype(str), keys])
    before = reference.contents["content"]
    is_known = current.isin(pd.MultiIndex.from_arrays([reference.samples["sample_id"].astype(str), before]))
    contents = keys.iloc[np.argsort(~is_known, kind="stable")]
    is_new = contents.groupby(contents).cumcount() >= contents.map(before.value_counts()).fillna(0)
    rows = np.sort(contents.index[is_new].to_numpy(np.int64))
    return rows, len(before) - (len(keys) - len(rows))


# ---------------------------------------------------------------------------------------------- raw samples
def look_at(predictor: Predictor, table: pd.DataFrame, root: Path) -> Seen:
    """Decode the samples of a manifest's rows once, and run the model on them."""
    starts = range(0, max(len(table), 1), BATCH)
    parts = [_look_at(predictor, table.iloc[k : k + BATCH].reset_index(drop=True), root) for k in starts]
    features = {m: np.concatenate([part.features[m] for part in parts]) for m in predictor.modalities}
    return Seen(pd.concat([part.rows for part in parts], ignore_index=True), features)


def _look_at(predictor: Predictor, table: pd.DataFrame, root: Path) -> Seen:
    import torch

    from g2d_pipeline.serving.samples import Batch

    modalities, n = predictor.modalities, len(table)
    batch = Batch(table, root, {m: np.ones(n, bool) for m in modalities})
    blank: dict[str, set[int]] = {m: set() for m in modalities}
    inputs = predictor.encode(batch, blank)
    with torch.inference_mode():
        output = predictor.model({m: x.to(predictor.device) for m, x in inputs.items()})
        logits = output.logits.float().cpu()
        features = {m: x.float().flatten(1).cpu().numpy() for m, x in output.features.items()}
        predicted = predictor.task.predict(logits).numpy().astype(np.float64)
        sure = logits.softmax(dim=1).amax(dim=1).numpy()
    finite = np.isfinite(np.hstack([logits.numpy(), *features.values()])).all(axis=1)
    faults = ["" if is_finite else "gives features that are not finite" for is_finite in finite]
    for i, reasons in batch.faults.items():
        m, reason = next(iter(reasons.items()))
        faults[i] = f"{m}: {reason}"
    rows: dict[str, Any] = {"fault": pd.Series(faults, dtype="str"), "predicted": predicted, "sure": sure}
    for m in modalities:
        rows[f"blank/{m}"] = np.isin(np.arange(n), list(blank[m]))
        if predictor.inputs.about["modalities"][m]["kind"] == "text":  # without a token
            rows[f"blank/{m}"] |= ~inputs[m].numpy().any(axis=1)
    return Seen(pd.DataFrame(rows), features)
