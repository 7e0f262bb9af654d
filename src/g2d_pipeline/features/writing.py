"""Writing a feature store: in chunks, over processes, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, ImageFeatures, TabularFeatures
from g2d_pipeline.errors import SHOWN, DataError, data_error
from g2d_pipeline.features import chunks
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.features.faults import MediaError, check_file
from g2d_pipeline.features.ledger import Ledger
from g2d_pipeline.features.media import CHUNK, Media, Workers, decode
from g2d_pipeline.features.statistics import channel_statistics

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FORMAT = 1  # of the store; raise it where old stores can no longer be read
INDEX, META = "index.parquet", "meta.json"
REBUILD = "make the manifest anew (`--params rebuild=true`)."

Array = npt.NDArray[Any]


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
    _check_space(folder, settings, len(sample_ids))

    notes: list[str] = []
    modalities: dict[str, dict[str, Any]] = {}
    machine = settings.machine
    with Workers(machine.workers) as workers:
        for name, of in settings.modalities.items():
            if isinstance(of, TabularFeatures):
                about = _write_table(folder, name, of, manifest, train, sample_ids, notes)
            else:
                constant = decode(folder, media[name], root, ledger, workers, sample_ids, machine.progress)
                _note_constant(media[name], constant, sample_ids, notes)
                about = _finish_media(folder, media[name], train)
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
                check_file(root / file)
            except MediaError as error:
                faulty[file] = error.reason
        if faulty:
            reasons = ((k, faulty.get(split_cell(cell)[0])) for k, cell in enumerate(m.cells))
            raise m.tell({k: reason for k, reason in reasons if reason is not None}, sample_ids)


def _check_space(folder: Path, settings: FeaturizeSettings, samples: int) -> None:
    """Running out of space while writing to a memory map ends the process without a word: look before."""
    needed = 0
    for name, of in settings.modalities.items():
        size = 4 * len(of.columns) if isinstance(of, TabularFeatures) else int(np.prod(chunks.sample_shape(of)))
        bytes_each = 4 * size if isinstance(of, AudioFeatures) else size
        if isinstance(of, ImageFeatures) and of.pca_energy is not None:
            bytes_each = 5 * size
        there = sum(_allocated(folder / file) for file in (f"{name}.npy", f"{name}.pixels.npy"))
        needed += max(0, samples * bytes_each - there)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(
            f"The feature store {folder} needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free. "
            f"Make room, or make the features smaller (size, seconds, n_mels)."
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
        version(library) for library in ("numpy", "pillow", "soundfile", "torch", "torchaudio", "torchvision")
    ]


def _finish_media(folder: Path, media: Media, train: npt.NDArray[np.int64]) -> dict[str, Any]:
    """From decoded to stored: principal components where asked for, and the normaliser."""
    decoded = np.load(folder / media.file, mmap_mode="r", allow_pickle=False)
    of = media.settings
    statistics: dict[str, Any] = {}
    array: Array = decoded
    if isinstance(of, ImageFeatures) and of.pca_energy is not None:
        array, statistics = _write_low_energy(folder / f"{media.name}.npy", decoded, of.pca_energy, train)
    scale = 1 / 255 if array.dtype == np.uint8 else 1.0
    if isinstance(of, ImageFeatures) and of.mean is not None and of.std is not None:
        mean, std = list(of.mean), list(of.std)
    else:
        mean, std = channel_statistics(array, train, scale)
    return {
        "shape": list(array.shape[1:]),
        "dtype": str(array.dtype),
        "normaliser": {"scale": scale, "mean": mean, "std": std},
        "statistics": statistics | {"distinct": len(media.cells)},
    }


def _write_low_energy(
    path: Path, pixels: Array, energy: float, train: npt.NDArray[np.int64]
) -> tuple[Array, dict[str, Any]]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from g2d_pipeline.features.image import LowEnergy

    components = LowEnergy.fit(pixels[train].reshape(len(train), -1) / 255, energy)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(np.float32), shape=pixels.shape)
    with threadpool_limits(1):
        for start in range(0, len(pixels), CHUNK):
            part = pixels[start : start + CHUNK]
            array[start : start + CHUNK] = components.apply(part.reshape(len(part), -1) / 255).reshape(part.shape)
    array.flush()
    return array, {"components": len(components.components), "energy": components.energy}


def _write_table(
    folder: Path,
    name: str,
    settings: TabularFeatures,
    manifest: Manifest,
    train: npt.NDArray[np.int64],
    sample_ids: Sequence[str],
    notes: list[str],
) -> dict[str, Any]:
    from g2d_pipeline.features.tabular import standardise

    table = manifest.table[list(settings.columns)]
    if wrong := [f"{c!r} is {table[c].dtype}" for c in table if table[c].dtype.kind not in "fiub"]:
        raise data_error(f"Table columns of modality {name!r} do not hold numbers", wrong, REBUILD)
    values, statistics = standardise(table.to_numpy(np.float64), train, settings.columns, sample_ids)
    array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=values.dtype, shape=values.shape)
    array[:] = values
    array.flush()
    if statistics["constant"]:
        notes.append(f"{name}: constant in train: {', '.join(statistics['constant'])}.")
    width = values.shape[1]
    return {
        "shape": [width],
        "dtype": str(values.dtype),
        "normaliser": {"scale": 1.0, "mean": [0.0] * width, "std": [1.0] * width},
        "statistics": statistics,
    }


def _note_constant(media: Media, constant: Sequence[int], sample_ids: Sequence[str], notes: list[str]) -> None:
    if not constant:
        return
    rows = np.sort(np.concatenate([media.rows(k, k + 1) for k in constant]))
    named = ", ".join(sample_ids[row] for row in rows[:SHOWN])
    what = "silent" if media.what == "recordings" else "of one colour"
    more = ", …" if len(rows) > SHOWN else ""
    note = f"{media.name}: {len(rows)} of {len(sample_ids)} samples have {media.what} that are {what}: {named}{more}"
    logger.warning(note)
    notes.append(note)


def _write_index(path: Path, manifest: Manifest) -> None:
    import pandas as pd

    table = manifest.table
    columns = {key: table[key].astype(str) for key in ("sample_id", "split")} | {"target": table["target"]}
    pd.DataFrame(columns).reset_index(drop=True).to_parquet(path, index=False, engine="pyarrow")
