"""Writing a feature store: in chunks, over processes, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, ImageFeatures, TabularFeatures, VideoFeatures
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.features.faults import MediaError, check_file
from g2d_pipeline.features.finishing import REBUILD, finish, note, write_table
from g2d_pipeline.features.ledger import Ledger
from g2d_pipeline.features.media import CHUNK, Media, Workers, decode

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of the store; raise it where old stores can no longer be read
INDEX, META = "index.parquet", "meta.json"


class Manifest(Protocol):
    """What is needed of `sources.manifest.Manifest` (design.md §4)."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def meta(self) -> dict[str, Any]: ...


def write_store(folder: Path, manifest: Manifest, root: Path, settings: FeaturizeSettings) -> None:
    """Write the feature store of `manifest`, whose paths are relative to `root`, into `folder` (made if need be).

    The folder is this call's own; renaming it into place is the caller's. What an earlier call with the same samples
    and settings left there is gone on from; anything else there is removed. Equal input gives equal bytes, for any
    number of workers and any interruptions. Files: `<modality>.npy` `[N, …]` in the manifest's order, `index.parquet`,
    `meta.json`; equal cells (a recording of several samples) are decoded once.

    Raises DataError naming all bad files with their samples, and ConfigError for settings that can not work.
    """
    sample_ids, train = _check(manifest, settings)
    media = {
        name: Media.of(name, of, manifest.table[manifest.meta["columns"][name][0]])
        for name, of in settings.modalities.items()
        if not isinstance(of, TabularFeatures)
    }
    _check_files(media.values(), root, sample_ids)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META).unlink(missing_ok=True)  # last written, first removed: who has it has a whole store
    files = [f"{name}.npy" for name in settings.modalities] + [m.file for m in media.values()]
    ledger = Ledger(folder, _plan(settings, sample_ids, media.values()), sorted(set(files)))
    _check_space(folder, settings, media, root, len(sample_ids))

    notes: list[str] = []
    modalities: dict[str, dict[str, Any]] = {}
    machine = settings.machine
    with Workers(machine.workers) as workers:
        for name, of in settings.modalities.items():
            if isinstance(of, TabularFeatures):
                about = write_table(folder, name, of, manifest.table, train, sample_ids, notes)
            else:
                found = decode(folder, media[name], root, ledger, workers, sample_ids, machine.progress)
                notes += note(media[name], found, sample_ids)
                about = finish(folder, media[name], train)
            file = f"{name}.npy"
            modalities[name] = {"kind": of.kind, **about, "file": file, "checksum": file_digest(folder / file)}
            modalities[name]["settings"] = of.model_dump(mode="json")
    _write_index(folder / INDEX, manifest)
    meta = {
        "format": FORMAT,
        **{key: manifest.meta[key] for key in ("dataset", "task", "class_names", "target", "source", "counts")},
        "index": {"rows": len(sample_ids), "checksum": file_digest(folder / INDEX)},
        "modalities": modalities,
        "notes": notes,
    }
    (folder / META).write_bytes((json.dumps(meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    for m in media.values():
        if m.file != f"{m.name}.npy":
            (folder / m.file).unlink()
    ledger.remove()


def file_digest(path: Path) -> str:
    """blake2b of a file's bytes, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _check(manifest: Manifest, settings: FeaturizeSettings) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Whether manifest and settings fit each other; (sample ids, rows of train)."""
    columns = manifest.meta["columns"]
    for name, of in settings.modalities.items():
        wanted = list(of.columns) if isinstance(of, TabularFeatures) else None
        found = columns.get(name)
        if found is None or (wanted is None and len(found) != 1) or (wanted is not None and found != wanted):
            headline = f"Modality {name!r} has the columns {found} in the manifest, {wanted or 'one'} in the settings"
            raise data_error(headline, [], REBUILD)
        if missing := [c for c in found if c not in manifest.table]:
            raise data_error(f"The manifest's table lacks columns of modality {name!r}", missing, REBUILD)
        if isinstance(of, AudioFeatures):
            from g2d_pipeline.features.audio import check_settings

            check_settings(of, name)
    sample_ids = manifest.table["sample_id"].astype(str).tolist()
    train = np.flatnonzero((manifest.table["split"] == "train").to_numpy()).astype(np.int64)
    if not len(train):
        raise data_error("The manifest has no sample in train, so nothing can be measured on it", [], REBUILD)
    return sample_ids, train


def _check_files(media: Iterable[Media], root: Path, sample_ids: Sequence[str]) -> None:
    """All missing, empty and fake files at once, before any work is done."""
    for m in media:
        faulty: dict[str, str] = {}
        for file in {split_cell(cell)[0] for cell in m.cells}:
            try:
                if not (isinstance(m.settings, VideoFeatures) and (root / file).is_dir()):
                    check_file(root / file)
            except MediaError as error:
                faulty[file] = error.reason
        if faulty:
            reasons = ((k, faulty.get(split_cell(cell)[0])) for k, cell in enumerate(m.cells))
            raise m.tell({k: reason for k, reason in reasons if reason is not None}, sample_ids)


def _check_space(folder: Path, settings: FeaturizeSettings, media: dict[str, Media], root: Path, samples: int) -> None:
    """Running out of space while writing to a memory map ends the process without a word: look before."""
    needed = 0
    for name, of in settings.modalities.items():
        if isinstance(of, TabularFeatures):
            bytes_each = 4 * len(of.columns)
        else:
            form = media[name].form(root)
            bytes_each = form.bytes
            if isinstance(of, ImageFeatures) and of.pca_energy is not None:
                bytes_each += 4 * int(np.prod(form.shape))
        there = sum(_allocated(folder / file) for file in (f"{name}.npy", f"{name}.pixels.npy"))
        needed += max(0, samples * bytes_each - there)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(
            f"The feature store {folder} needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free. "
            f"Make room, or make the features smaller (size, frames, seconds, n_mels, steps)."
        )


def _allocated(path: Path) -> int:
    """Bytes on disk; an array that is not yet filled has fewer than its size."""
    if not path.exists():
        return 0
    stat = path.stat()
    return int(getattr(stat, "st_blocks", stat.st_size / 512) * 512)


def _plan(settings: FeaturizeSettings, sample_ids: Sequence[str], media: Iterable[Media]) -> str:
    """A digest of what fixes the rows of the arrays: code, settings, samples, and which cell each sample has."""
    of = {name: m.model_dump(mode="json") for name, m in settings.modalities.items()}
    plan = hashlib.blake2b(json.dumps([_code(), CHUNK, of, list(sample_ids)]).encode(), digest_size=16)
    for m in media:
        plan.update(json.dumps([m.name, list(m.cells)]).encode())
        plan.update(m.code.tobytes())
    return plan.hexdigest()


def _code() -> list[str]:
    """What computes the arrays: this room's files, and the versions of the libraries that decode and transform."""
    sources = [file_digest(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    return sources + [
        version(library) for library in ("av", "numpy", "pillow", "soundfile", "torch", "torchaudio", "torchvision")
    ]


def _write_index(path: Path, manifest: Manifest) -> None:
    import pandas as pd

    table = manifest.table
    columns = {key: table[key].astype(str) for key in ("sample_id", "split")} | {"target": table["target"]}
    pd.DataFrame(columns).reset_index(drop=True).to_parquet(path, index=False, engine="pyarrow")
