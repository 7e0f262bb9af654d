"""What turns raw samples into a model's inputs: kept beside its weights, read without the feature store.

`inputs.json` has what `meta.json` of the store says of the target and of each modality: kind, settings,
shape, type, what was measured on train; `table`: how the samples stand in a user's table. Files that the
transforms read (a tokenizer, principal components) are copied beside it, with their checksums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from g2d_pipeline.config import Table
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features.chunks import decode_cells, one_thread, round_values
from g2d_pipeline.features.files import FITTED, Array
from g2d_pipeline.features.kinds import ArraySpec, ColumnKind, FileKind, stored_kind
from g2d_pipeline.features.statistics import infinite_rows
from g2d_pipeline.files import content_hash

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.features.store import FeatureStore

FILE, VERSION = "inputs.json", 1
ABOUT = ("dataset", "task", "class_names", "target", "source")
KEPT = ("kind", "settings", "shape", "dtype", "decoded", "statistics", "vocabulary", "tokenizer", FITTED)
REMEDY = "Train it again (`kedro run --pipeline distill`), or copy its whole folder."

Encoded = tuple[Array, dict[int, str]]  # `[n, …]` as stored; position → why a sample can not be used


def write_inputs(
    folder: Path, store: FeatureStore, modalities: Sequence[str], table: Table | None = None
) -> None:
    """Write `inputs.json` and the files it names into the model's `folder`. `table`: the settings of the
    layout of a user's table."""
    kept = {}
    for m in modalities:
        kept[m] = {key: value for key, value in store.meta["modalities"][m].items() if key in KEPT}
        for part in _files(kept[m]):
            shutil.copyfile(store.path / part["file"], folder / part["file"])
    about = {"version": VERSION, **{key: store.meta[key] for key in ABOUT}, "table": _placeless(table)}
    text = json.dumps(about | {"modalities": kept}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def _placeless(table: Table | None) -> dict[str, Any] | None:
    """The settings as JSON, without the folder and the splits of the training data."""
    if table is None:
        return None
    file = table.table if isinstance(table.table, str) else None
    plain = {"raw_dir": ".", "split": None, "group": None, "table": file}
    return table.model_copy(update=plain).model_dump(mode="json")


def _files(about: Mapping[str, Any]) -> list[dict[str, str]]:
    return [about[key] for key in ("tokenizer", FITTED) if key in about]


@dataclass(frozen=True)
class Inputs:
    """`folder`: of a model; make it with `read_inputs`. `about`: what `inputs.json` says."""

    folder: Path
    about: dict[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.about["modalities"])

    @cached_property
    def kinds(self) -> dict[str, FileKind | ColumnKind]:
        """Modality → its kind, with its settings."""
        return {
            m: stored_kind(about["kind"], about["settings"]) for m, about in self.about["modalities"].items()
        }

    def columns(self, modality: str) -> list[str]:
        """The columns of the manifest that it is made from."""
        return self.kinds[modality].columns or [modality]

    def shape(self, modality: str) -> tuple[int, ...]:
        return tuple(self.about["modalities"][modality]["shape"])

    def empty(self, modality: str, count: int) -> Array:
        """Zeros as stored `[count, …]`."""
        return np.zeros((count, *self.shape(modality)), self.about["modalities"][modality]["dtype"])

    def encode(
        self, modality: str, table: pd.DataFrame, root: Path, blank: set[int] | None = None
    ) -> Encoded:
        """The samples of the manifest's columns of a modality, as featurize would store them. Paths are
        relative to `root`; equal cells are decoded once. `blank` gets the rows whose files are silent, of one
        colour or zero throughout."""
        kind, about = self.kinds[modality], self.about["modalities"][modality]
        if not isinstance(kind, FileKind):
            values = kind.encode(table, about, self.folder)
            large = infinite_rows(values).tolist() if values.dtype.kind == "f" else []
            return values, dict.fromkeys(large, "holds values that are too large")
        cells = table.iloc[:, 0].astype(object).tolist()
        position = {cell: k for k, cell in enumerate(dict.fromkeys(cells))}
        decoded, findings = decode_cells(kind, list(position), root, kind.stored_spec(about))
        with one_thread():
            values = kind.encode(decoded, about, self.folder)
        values, _ = round_values(values, ArraySpec(values.shape[1:], about["dtype"]), findings)
        rows = [position[cell] for cell in cells]
        if blank is not None:
            blank.update(i for i, k in enumerate(rows) if k in findings.notes["constant"])
        faults = findings.faults
        return values[rows], {i: f"{cells[i]!r} {faults[k]}" for i, k in enumerate(rows) if k in faults}


def read_inputs(folder: Path) -> Inputs:
    """Read `inputs.json`. DataError: it, or a file it names, is missing, changed, of another version."""
    path = folder / FILE
    try:
        about = json.loads(path.read_bytes())
        if about["version"] != VERSION:
            raise DataError(
                f"{path} is of version {about['version']}, this program reads {VERSION}. {REMEDY}"
            )
        inputs = Inputs(folder, about)
        parts = [part for entry in about["modalities"].values() for part in _files(entry)]
        if outside := [p["file"] for p in parts if Path(p["file"]).name != p["file"]]:
            raise ValueError(f"{outside[0]!r} is no name of a file beside it")
        changed = [p["file"] for p in parts if content_hash(folder / p["file"]) != p["checksum"]]
        _ = inputs.kinds
    except FileNotFoundError:
        raise DataError(f"{path} is missing: without it no raw sample can be read. {REMEDY}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        words = " ".join(str(error).split())
        if isinstance(error, ConfigError):  # a kind that this installation has not
            raise DataError(f"{path}: {words}. Install the package that has it.") from None
        raise DataError(f"{path} is damaged ({type(error).__name__}: {words}). {REMEDY}") from None
    if changed:
        raise DataError(f"{folder}: {', '.join(changed)} changed since training. {REMEDY}")
    return inputs
