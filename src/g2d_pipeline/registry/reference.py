"""What a version keeps of the data it was trained on, so that later data can be compared with them.

`reference/` in a version's folder: `samples.parquet`, the manifest's columns of what was trained on;
`contents.parquet`, hashes of each row's content and what the model makes of the rows that it looked at;
`features.<modality>.npy`, its encoders' features of those; `reference.json`."""

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

    @property
    def held_out(self) -> Rows:
        """The usable rows that the model was not trained on."""
        return self.usable[~self.trained[self.usable]]


@dataclass(frozen=True)
class Seen:
    """What a model makes of n raw samples. `faults`: row → why it can not be used; `blank`: modality → which
    samples hold nothing `[n]`; `features`: modality → `[n, D]`; `predicted` `[n]`: class numbers or values;
    `sure` `[n]`: their probabilities."""

    faults: dict[int, str]
    blank: dict[str, npt.NDArray[np.bool_]]
    features: dict[str, Floats]
    predicted: Floats
    sure: Floats

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which samples can be used `[n]`."""
        return ~np.isin(np.arange(len(self.predicted)), list(self.faults))


def write_reference(
    folder: Path, manifest: Manifest, root: Path, settings: GateSettings, *, hashes: Path | None = None
) -> None:
    """Write `reference/` into the `folder` of a version, which holds its model. `root`: where the manifest's
    paths start; `hashes`: the cache of content hashes.

    The model runs on at most `settings.samples` rows of train, and as many of val and test. Raises DataError
    where it can not be read."""
    from g2d_pipeline.serving import load_model

    table, predictor = manifest.table, load_model(folder)
    is_train = (table["split"] == "train").to_numpy(bool)
    rows = np.concatenate([draw(np.flatnonzero(mask), settings.samples) for mask in (is_train, ~is_train)])
    rows = np.sort(rows)
    seen = look_at(predictor, table.iloc[rows], root)
    contents = content_keys(manifest, manifest.meta["columns"], root, hashes).assign(
        fault="", looked_at=False
    )
    contents.loc[rows, "looked_at"] = True
    contents.loc[rows, "fault"] = [seen.faults.get(i, "") for i in range(len(rows))]
    target, residual = table["target"].to_numpy(np.float64)[rows], None
    if manifest.meta["task"] == "regression":
        errors = np.abs(seen.predicted - target)[seen.good & ~is_train[rows]]
        residual = float(np.quantile(errors, RESIDUAL, method="higher")) if len(errors) else LARGEST
    wrong = contradicted(seen, target, settings.confidence, residual)
    blank = {f"blank/{m}": rows for m, rows in seen.blank.items()}
    for name, marked in {"contradicted": wrong, **blank}.items():
        contents[name] = False
        contents.loc[rows, name] = marked
    kept = ["sample_id", "split", "target", *(["group"] if "group" in table else []), *column_types(manifest)]
    about = {"version": VERSION, "modalities": predictor.modalities, "types": column_types(manifest)}
    about |= {"residual": residual, "meta": manifest.meta}
    text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_folder(folder / FOLDER) as new:
        table[list(dict.fromkeys(kept))].to_parquet(new / SAMPLES, index=False)
        contents.to_parquet(new / CONTENTS, index=False)
        for m, values in seen.features.items():
            np.save(new / f"features.{m}.npy", values[seen.good])
        (new / ABOUT).write_text(text, encoding="utf-8")


def read_reference(folder: Path) -> Reference | None:
    """The `reference/` of a version's folder; None where there is none. Raises DataError if it is damaged."""
    place = folder / FOLDER
    if not place.is_dir():
        return None
    try:
        about = json.loads((place / ABOUT).read_bytes())
        if about["version"] != VERSION:
            raise ValueError(f"it is of version {about['version']}, this program reads {VERSION}")
        samples, contents = (pd.read_parquet(place / name) for name in (SAMPLES, CONTENTS))
        features = {m: load_npy(place / f"features.{m}.npy") for m in about["modalities"]}
        reference = Reference(samples, contents, features, about)
        lengths = {len(values) for values in reference.features.values()}
        if len(samples) != len(contents) or lengths != {len(reference.usable)}:
            raise ValueError("its files are of different lengths")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        words = " ".join(str(error).split())
        remedy = "copy the version's folder again, or promote another version."
        raise DataError(f"{place} is damaged ({type(error).__name__}: {words}): {remedy}") from None
    return reference


def column_types(manifest: Manifest) -> dict[str, str]:
    """Column → what it holds: numbers, dates or text."""
    words = {"f": "numbers", "i": "numbers", "u": "numbers", "b": "numbers", "M": "dates"}
    columns = (c for names in manifest.meta["columns"].values() for c in names)
    return {c: words.get(manifest.table[c].dtype.kind, "text") for c in columns}


def draw(rows: Rows, most: int) -> Rows:
    """At most so many of the rows, in order; the same ones each time."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


# --------------------------------------------------------------------------------------------- equal contents
def content_keys(
    manifest: Manifest, columns: dict[str, list[str]], root: Path, hashes: Path | None = None
) -> pd.DataFrame:
    """Hashes of each sample's content in these `columns` (modality → its own), whatever its id, split and
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
    distinct = [str(cell) for cell in cells.unique()]
    files: dict[str, list[Path]] = {}
    for cell in distinct:
        with suppress(OSError):
            files[cell] = [f for f in files_of(cell, root) if f.is_file() and os.access(f, os.R_OK)]
    named = {file for cell, paths in files.items() if not is_row(cell) for file in paths}
    known = content_hashes(sorted(named), hashes)
    digests = {}
    for cell in distinct:
        content = b""
        with suppress(MediaError, OSError):
            digests_of_files = [known.get(file) for file in files.get(cell, ())]
            content = row_bytes(cell, root) if is_row(cell) else repr(digests_of_files).encode()
        digests[cell] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return cells.astype(str).map(digests)


def new_rows(manifest: Manifest, keys: pd.Series[str], reference: Reference) -> tuple[Rows, int]:
    """(the rows of a manifest that a reference has not, how many of the reference's are gone).

    Equal contents are counted: of five rows that are alike, where the reference had three, two are new, if
    possible such with new ids."""
    current = pd.DataFrame({"id": manifest.table["sample_id"].astype(str), "content": keys.to_numpy()})
    ids = zip(reference.samples["sample_id"].astype(str), reference.contents["content"], strict=True)
    known = set(ids)
    current["fresh"] = [pair not in known for pair in zip(current["id"], current["content"], strict=True)]
    order = current.sort_values("fresh", kind="stable")
    had = order["content"].map(reference.contents["content"].value_counts()).fillna(0)
    new = order.groupby("content").cumcount() >= had
    rows = np.sort(order.index[new].to_numpy(np.int64))
    return rows, len(reference.contents) - (len(current) - len(rows))


# ---------------------------------------------------------------------------------------------- raw samples
def look_at(predictor: Predictor, table: pd.DataFrame, root: Path) -> Seen:
    """Decode the samples of a manifest's rows once, and run the model on them."""
    starts = range(0, max(len(table), 1), BATCH)
    parts = [_look_at(predictor, table.iloc[k : k + BATCH].reset_index(drop=True), root) for k in starts]
    faults = {k + i: why for k, part in zip(starts, parts, strict=True) for i, why in part.faults.items()}
    whole: dict[str, dict[str, Any]] = {}
    for name in ("blank", "features"):
        arrays = [getattr(part, name) for part in parts]
        whole[name] = {m: np.concatenate([array[m] for array in arrays]) for m in predictor.modalities}
    predicted, sure = (np.concatenate([getattr(p, name) for p in parts]) for name in ("predicted", "sure"))
    return Seen(faults, whole["blank"], whole["features"], predicted, sure)


def _look_at(predictor: Predictor, table: pd.DataFrame, root: Path) -> Seen:
    import torch

    stored, blank = {}, {m: np.zeros(len(table), bool) for m in predictor.modalities}
    reasons: dict[int, str] = {}
    for m in predictor.modalities:
        values = predictor.inputs.empty(m, len(table))
        empty: set[int] = set()
        if len(table):
            columns = table[predictor.inputs.columns(m)]
            values, faults = predictor.inputs.encode(m, columns, root, empty)
            reasons = {i: f"{m}: {why}" for i, why in faults.items()} | reasons
            if predictor.inputs.about["modalities"][m]["kind"] == "text":  # without a token
                empty.update(np.flatnonzero(~values.any(axis=1)).tolist())
        blank[m][sorted(empty)] = True
        values[[i for i in reasons if i < len(values)]] = 0
        stored[m] = torch.from_numpy(values)
    with torch.inference_mode():
        moved = {m: x.to(predictor.device) for m, x in predictor.windows(stored).items()}
        output = predictor.model(moved)
        logits = output.logits.float().cpu()
        features = {m: x.float().flatten(1).cpu().numpy() for m, x in output.features.items()}
        predicted = predictor.task.predict(logits).numpy().astype(np.float64)
        sure = logits.softmax(dim=1).amax(dim=1).numpy()
    finite = np.isfinite(logits.numpy()).all(axis=1)
    for values in features.values():
        finite &= np.isfinite(values).all(axis=1)
    broken = dict.fromkeys(np.flatnonzero(~finite).tolist(), "gives features that are not finite")
    return Seen(broken | reasons, blank, features, predicted, sure)


def contradicted(
    seen: Seen, target: Floats, confidence: float, residual: float | None
) -> npt.NDArray[np.bool_]:
    """Which labels `[n]` the model contradicts: another class with at least this `confidence`; of a
    regression, an error beyond `residual`. Of samples that can not be used, and of targets NaN, none."""
    if residual is None:
        wrong = (seen.predicted != target) & (seen.sure >= confidence)
    else:
        wrong = np.abs(seen.predicted - target) > residual
    return np.asarray(wrong & seen.good & ~np.isnan(target))
