"""Writing a feature store: in chunks, over processes, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from g2d_pipeline import plugins
from g2d_pipeline.code import CodeGraph
from g2d_pipeline.compute import Pool
from g2d_pipeline.config import FeaturizeSettings, RunOptions
from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.features import files as disk
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.features.chunks import ChunkJournal
from g2d_pipeline.features.files import FORMAT, INDEX, META
from g2d_pipeline.features.finalize import Faults, finish, without
from g2d_pipeline.features.inputs import Inputs
from g2d_pipeline.features.kinds import ColumnKind, FileKind, Findings, kind_of
from g2d_pipeline.features.media import CHUNK, SCRATCH, Media, Names, decode, prepare
from g2d_pipeline.features.store import array_files, broken, find_faults, find_known, read_meta
from g2d_pipeline.files import atomic_write, content_hash

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Kinds = Mapping[str, FileKind | ColumnKind]
REBUILD = "make the manifest anew (`--params rebuild=true`)."
LIBRARIES = ("av", "numpy", "pillow", "soundfile", "tokenizers", "torch", "torchaudio", "torchvision")


class Manifest(Protocol):
    """What is needed of `sources.manifest.Manifest` (design.md §4)."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def meta(self) -> dict[str, Any]: ...


def write_store(
    folder: Path, manifest: Manifest, root: Path, settings: FeaturizeSettings, previous: Sequence[Path] = ()
) -> None:
    """Write the feature store of `manifest`, whose paths are relative to `root`, into `folder`.

    The folder is this call's own; renaming it into place is the caller's. What an earlier call with the same
    samples and settings left there is gone on from; anything else there is removed. Equal input gives equal
    bytes, for any number of workers, any interruptions and any `previous`: finished stores, the newest first,
    from which recordings, clips and images are copied whose name and content are known there (see `store`).
    Files: `<modality>.npy` `[N, …]` in the manifest's order (or its shards), `<modality>.cells.npy` where its
    cells can be copied, `index.parquet`, `meta.json`, and a tokenizer a modality of text. Equal cells are
    decoded once.

    Samples that can not be used are left out, and listed in `meta.json`, while their share is at most
    `settings.max_bad_fraction`. Raises DataError naming all bad files with their samples where there are
    more, or where the disk is full or must not be written; ConfigError for settings that can not work."""
    settings = _expand_columns(settings, manifest)
    kinds = {name: kind_of(features) for name, features in settings.modalities.items()}
    sample_ids = _check(manifest, kinds)
    columns, rows = manifest.meta["columns"], settings.options.storage.shard_rows
    media = {
        name: Media.from_column(name, kind, root, manifest.table[columns[name][0]], rows)
        for name, kind in kinds.items()
        if isinstance(kind, FileKind)
    }
    faults = Faults(media, sample_ids, settings.max_bad_fraction)
    _check_files(root, faults)
    for m in media.values():
        m.kind.check_spec(m.name, m.spec)
    with disk.writing_to(folder, _needed(folder, kinds, media, len(sample_ids))):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # by a process that was killed
            left.unlink()
        (folder / META).unlink(missing_ok=True)  # last written, first removed: who has it has a whole store
        journal = ChunkJournal(folder, _plan(settings, sample_ids, media))
        disk.check_space(folder, _needed(folder, kinds, media, len(sample_ids)))
        for m in media.values():
            prepare(folder, m, journal)
        decoded = _decode_all(folder, settings.options, journal, faults, previous)
        _finish_all(folder, manifest, settings, kinds, faults, decoded)
        for m in media.values():
            for part in SCRATCH:
                disk.remove(folder / m.file(part))
        journal.remove()


def _decode_all(
    folder: Path, options: RunOptions, journal: ChunkJournal, faults: Faults, previous: Sequence[Path]
) -> dict[str, Findings]:
    """Fill the arrays of all media. Raises DataError as soon as too many samples are bad."""
    decoded: dict[str, Findings] = {}
    if not faults.media:
        return decoded
    with Pool(options.compute) as pool:
        for name, m in faults.media.items():
            features = m.kind.settings.model_dump(mode="json")
            ours = type(m.kind).__module__.startswith("g2d_pipeline.")  # what `code_digest` knows of
            stores = previous if m.reusable and ours else ()
            known = find_known(stores, name, features, code_digest(), m.spec.dtype, m.spec.shape)
            decoded[name] = decode(folder, m, journal, pool, known, options.progress)
            faults.add(name, decoded[name].faults)
            faults.check()
    return decoded


def _finish_all(
    folder: Path,
    manifest: Manifest,
    settings: FeaturizeSettings,
    kinds: Kinds,
    faults: Faults,
    decoded: Mapping[str, Findings],
) -> None:
    """From decoded arrays to a whole store, without the samples that can not be used; `meta.json` last."""
    dropped, split = faults.dropped(), manifest.table["split"].to_numpy(object)
    kept = np.setdiff1d(np.arange(len(split)), list(dropped))
    sample_ids = Names(faults.sample_ids[row] for row in kept.tolist())
    table, target, notes = without(manifest.table, manifest.meta, dropped)
    train = np.flatnonzero((table["split"] == "train").to_numpy()).astype(np.int64)
    modalities: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        if isinstance(kind, ColumnKind):
            columns = table[manifest.meta["columns"][name]]
            about = kind.write(folder, name, columns, train, sample_ids, notes)
        else:
            m = faults.media[name]
            about = finish(folder, m, decoded[name], kept, train, faults.sample_ids, split, notes)
        features = settings.modalities[name]
        modalities[name] = {
            "kind": features.kind,
            **about,
            "file": f"{name}.npy",
            **disk.checksums(folder / f"{name}.npy"),
            "settings": features.model_dump(mode="json"),
        }
    _write_index(folder / INDEX, table)
    meta = {
        "format": FORMAT,
        "code": code_digest(),
        **{key: manifest.meta[key] for key in ("dataset", "task", "class_names", "source")},
        "target": target,
        "counts": {name: int((split[kept] == name).sum()) for name in manifest.meta["counts"]},
        "dropped": [*dropped.values()],
        "index": {"rows": len(sample_ids), "checksum": content_hash(folder / INDEX)},
        "modalities": modalities,
        "notes": notes,
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(folder / META) as temporary:
        temporary.write_bytes(text.encode())


def _expand_columns(settings: FeaturizeSettings, manifest: Manifest) -> FeaturizeSettings:
    """The settings with the columns that the manifest has for patterns."""
    expanded = {}
    for name, features in settings.modalities.items():
        columns = [c for c in manifest.meta["columns"].get(name, []) if c in manifest.table]
        expanded[name] = kind_of(features).expand_columns(manifest.table, columns)
    return settings.model_copy(update={"modalities": expanded})


def _check(manifest: Manifest, kinds: Kinds) -> Names:
    """The sample ids. Raises DataError or ConfigError where manifest and settings do not fit each other."""
    sample_ids = Names(manifest.table["sample_id"].astype(str))
    for name, kind in kinds.items():
        expected, columns = kind.columns, manifest.meta["columns"].get(name)
        if columns is None or (len(columns) != 1 if expected is None else columns != expected):
            where = f"{columns} in the manifest, {expected or 'one'} in the settings"
            headline = f"Modality {name!r} has the columns {where}"
            raise data_error(headline, [], REBUILD)
        if missing := [c for c in columns if c not in manifest.table]:
            raise data_error(f"The manifest's table lacks columns of modality {name!r}", missing, REBUILD)
        kind.check(name, manifest.table[columns], sample_ids)
    if not (manifest.table["split"] == "train").any():
        raise data_error("The manifest has no sample in train, so nothing can be measured on it", [], REBUILD)
    return sample_ids


def _check_files(root: Path, faults: Faults) -> None:
    """Report all missing, empty and fake files at once, before any work is done."""
    for name, m in faults.media.items():
        faulty: dict[str, str] = {}
        for file in {split_cell(cell)[0] for cell in m.cells}:
            if not (m.kind.folders and (root / file).is_dir()):
                reason = media_fault(f"{root}/{file}")  # a string: joining paths takes longer than opening it
                faulty |= {file: reason} if reason else {}
        if faulty:
            reasons = ((k, faulty.get(split_cell(cell)[0])) for k, cell in enumerate(m.cells))
            faults.add(name, {k: reason for k, reason in reasons if reason is not None})
    faults.check()


def _needed(folder: Path, kinds: Kinds, media: Mapping[str, Media], samples: int) -> int:
    """Bytes that the arrays will take beyond what of them is on the disk."""
    needed = 0
    for name, kind in kinds.items():
        bytes_each = kind.bytes_each if isinstance(kind, ColumnKind) else kind.bytes_each(media[name].spec)
        present = sum(disk.allocated(folder / file) for file in (f"{name}.npy", f"{name}.pixels.npy"))
        needed += max(0, samples * bytes_each - present)
    return needed


def _plan(settings: FeaturizeSettings, sample_ids: Names, media: Mapping[str, Media]) -> str:
    """A digest of what fixes the rows of the arrays: code, settings, samples, and their cells."""
    modalities = {name: m.model_dump(mode="json") for name, m in settings.modalities.items()}
    plan = hashlib.blake2b(json.dumps([_code(), CHUNK, modalities]).encode(), digest_size=16)
    sample_ids.digest_into(plan)
    for m in media.values():
        plan.update(m.name.encode())
        m.cells.digest_into(plan)
        plan.update(m.code.tobytes())
    return plan.hexdigest()


def code_digest() -> str:
    """Of what computes the arrays, 32 hex digits."""
    return hashlib.blake2b(json.dumps(_code()).encode(), digest_size=16).hexdigest()


@cache
def _code() -> list[str]:
    """What computes the arrays: the code of the engine and of all kinds (as it is when first asked for; see
    `code.py`), and the versions of the libraries that decode and transform."""
    kinds = [f"features.kinds.{name}" for name in plugins.files("g2d_pipeline.features.kinds")]
    graph = CodeGraph(Path(__file__).parents[1])
    engine = graph.fingerprint(["features.chunks", "features.media", "features.finalize", *kinds])
    return [engine, *map(version, LIBRARIES)]


def _write_index(path: Path, table: pd.DataFrame) -> None:
    index = table[["sample_id", "split", "target"]].astype({"sample_id": str, "split": str})
    index.reset_index(drop=True).to_parquet(path, index=False, engine="pyarrow")


def repair_store(folder: Path, manifest: Manifest, root: Path) -> list[str]:
    """Make the damaged files of a store's arrays (shards, or whole ones) again from the raw files below
    `root`; returns their names. Each replaces the old one once it has the checksum that it had.

    Raises DataError where a file of another sort is damaged, a raw file can not be read, or what is made
    differs: then the store has to be made anew."""
    meta = read_meta(folder)
    faults, inputs = find_faults(folder, meta), Inputs(folder, meta)
    gone = {one["sample_id"] for one in meta["dropped"]}
    table = manifest.table[~manifest.table["sample_id"].astype(str).isin(gone)]
    made, unmended = [], "broken and can not be repaired"
    for name, about in meta["modalities"].items():
        columns, start = table[manifest.meta["columns"][name]], 0
        for file, (shape, checksum) in array_files(about, len(table)).items():
            if file in faults:
                logger.warning("%s: %s %s: it is made again.", folder.name, file, faults[file])
                shard = columns.iloc[start : start + shape[0]]
                with disk.writing_to(folder, 0), atomic_write(folder / file) as temporary:
                    array = disk.create(temporary, about["dtype"], shape)
                    for first in range(0, shape[0], CHUNK):
                        part = shard.iloc[first : first + CHUNK]
                        array[first : first + CHUNK], bad = inputs.encode(name, part, root)
                        if bad:
                            raise broken(folder, bad.values(), unmended)
                    array.flush()
                    if content_hash(temporary) != checksum:
                        raise broken(folder, [f"{file}: raw files or the code have changed"], unmended)
                made.append(file)
            start += shape[0]
    if others := [f"{file} {fault}" for file, fault in faults.items() if file not in made]:
        raise broken(folder, others, unmended)
    return made
