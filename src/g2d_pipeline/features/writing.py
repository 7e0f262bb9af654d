"""Writing a feature store: in chunks, over processes, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import (
    AudioFeatures,
    FeaturizeSettings,
    ImageFeatures,
    TabularFeatures,
    TextFeatures,
    VideoFeatures,
)
from g2d_pipeline.errors import ConfigError, data_error
from g2d_pipeline.features import bad_samples
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.features.chunk_journal import ChunkJournal
from g2d_pipeline.features.faults import MediaError, check_file
from g2d_pipeline.features.files import (
    FORMAT,
    INDEX,
    META,
    allocated,
    check_space,
    file_digest,
    replace_bytes,
    writing_to,
)
from g2d_pipeline.features.finalize import REBUILD, count_found, finish, note, note_rounding, write_table
from g2d_pipeline.features.jobs import ArraySpec
from g2d_pipeline.features.media import CHUNK, Decoded, Media, Workers, decode, prepare
from g2d_pipeline.features.names import Names
from g2d_pipeline.features.reuse import find_known
from g2d_pipeline.features.text import check_texts, tokenizer_file, write_texts

if TYPE_CHECKING:
    import pandas as pd

INLINE = TabularFeatures | TextFeatures  # what stands in the manifest itself, not in files


class Manifest(Protocol):
    """What is needed of `sources.manifest.Manifest` (design.md §4)."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def meta(self) -> dict[str, Any]: ...


def write_store(
    folder: Path, manifest: Manifest, root: Path, settings: FeaturizeSettings, previous: Sequence[Path] = ()
) -> None:
    """Write the feature store of `manifest`, whose paths are relative to `root`, into `folder` (made if need
    be).

    The folder is this call's own; renaming it into place is the caller's. What an earlier call with the same
    samples and settings left there is gone on from; anything else there is removed. Equal input gives equal
    bytes, for any number of workers, any interruptions and any `previous`: finished stores, the newest first,
    from which recordings, clips and pictures are copied whose name and content are known there (see `reuse`).
    Files: `<modality>.npy` `[N, …]` in the manifest's order, `<modality>.cells.npy` where its cells can be
    copied, `index.parquet`, `meta.json`, and a tokenizer a modality of text; equal cells (a recording of
    several samples) are decoded once.

    Samples that can not be used are left out, and listed in `meta.json`, while their share is at most
    `settings.max_bad_fraction`. Raises DataError naming all bad files with their samples where there are
    more, or where the disk is full or must not be written; ConfigError for settings that can not work."""
    sample_ids, train = _check(manifest, settings)
    media = {
        name: Media.of(name, of, manifest.table[manifest.meta["columns"][name][0]])
        for name, of in settings.modalities.items()
        if not isinstance(of, INLINE)
    }
    faults = bad_samples.Faults(media, sample_ids, settings.max_bad_fraction)
    _check_files(root, faults)
    forms = {name: _form(m, root) for name, m in media.items()}
    needed = _needed(folder, settings, forms, len(sample_ids))
    with writing_to(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META).unlink(missing_ok=True)  # last written, first removed: who has it has a whole store
        files = [f"{name}{end}.npy" for name in settings.modalities for end in ("", ".cells")]
        files += [name for m in media.values() for name in m.scratch]
        files += [
            tokenizer_file(name) for name, of in settings.modalities.items() if isinstance(of, TextFeatures)
        ]
        ledger = ChunkJournal(folder, _plan(settings, sample_ids, media.values()), sorted(set(files)))
        check_space(folder, _needed(folder, settings, forms, len(sample_ids)))
        for m in media.values():
            prepare(folder, m, root, ledger)
        decoded = _decode_all(folder, settings, root, ledger, faults, forms, previous)
        _finish_all(folder, manifest, settings, faults, decoded, train)
        for m in media.values():
            for name in m.scratch:
                (folder / name).unlink(missing_ok=True)
        ledger.remove()


def _decode_all(
    folder: Path,
    settings: FeaturizeSettings,
    root: Path,
    ledger: ChunkJournal,
    faults: bad_samples.Faults,
    forms: Mapping[str, ArraySpec],
    previous: Sequence[Path],
) -> dict[str, Decoded]:
    """Fill the arrays of all media. Raises DataError as soon as too many samples are bad."""
    found: dict[str, Decoded] = {}
    machine = settings.options
    with Workers(machine.workers) as workers:
        for name, m in faults.media.items():
            known = None
            if previous and m.reusable(forms[name]):
                of, form = m.settings.model_dump(mode="json"), forms[name]
                known = find_known(previous, name, of, code_digest(), form.dtype, form.shape)
            found[name] = decode(folder, m, root, ledger, workers, machine.progress, known)
            faults.add(name, found[name].faults)
            faults.check()
    return found


def _finish_all(
    folder: Path,
    manifest: Manifest,
    settings: FeaturizeSettings,
    faults: bad_samples.Faults,
    decoded: Mapping[str, Decoded],
    train: npt.NDArray[np.int64],
) -> None:
    """From decoded arrays to a whole store, without the samples that can not be used; `meta.json` comes last."""
    sample_ids: Sequence[str] = faults.sample_ids
    table, counts = manifest.table, manifest.meta["counts"]
    target, kept = manifest.meta["target"], None
    dropped = faults.dropped()
    if dropped:
        bad = faults.bad_rows()
        kept = np.flatnonzero(~bad).astype(np.int64)
        table = bad_samples.without(table, manifest.meta, bad).reset_index(drop=True)
        sample_ids = Names(faults.sample_ids[row] for row in kept.tolist())
        train = np.flatnonzero((table["split"] == "train").to_numpy()).astype(np.int64)
        counts = {split: int((table["split"] == split).sum()) for split in counts}
        target = bad_samples.target_of(table, manifest.meta)

    notes = bad_samples.note_dropped(dropped, len(faults.sample_ids))
    modalities: dict[str, dict[str, Any]] = {}
    for name, of in settings.modalities.items():
        if isinstance(of, TabularFeatures):
            about = write_table(folder, name, of, table, train, sample_ids, notes)
        elif isinstance(of, TextFeatures):
            texts = table[manifest.meta["columns"][name][0]]
            about = write_texts(folder, name, of, texts, train, sample_ids, notes)
        else:
            m = faults.media[name]
            notes += note(m, decoded[name].notes, faults.sample_ids, kept)
            about = finish(folder, m, kept, train, sample_ids, decoded[name].faults)
            notes += note_rounding(name, about)
            split = manifest.table["split"].to_numpy(object)
            about["found"] = count_found(m, decoded[name].notes, faults.sample_ids, split, kept)
        file = f"{name}.npy"
        modalities[name] = {"kind": of.kind, **about, "file": file, "checksum": file_digest(folder / file)}
        modalities[name]["settings"] = of.model_dump(mode="json")
    _write_index(folder / INDEX, table)
    meta = {
        "format": FORMAT,
        "code": code_digest(),
        **{key: manifest.meta[key] for key in ("dataset", "task", "class_names", "source")},
        "target": target,
        "counts": counts,
        "dropped": dropped,
        "index": {"rows": len(sample_ids), "checksum": file_digest(folder / INDEX)},
        "modalities": modalities,
        "notes": notes,
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_bytes(folder / META, text.encode())


def _form(media: Media, root: Path) -> ArraySpec:
    form, of = media.form(root), media.settings
    if (
        isinstance(of, ImageFeatures)
        and of.dtype != "float32"
        and of.pca_energy is None
        and form.dtype == "uint8"
    ):
        raise ConfigError(
            f"modalities.{media.name}.dtype={of.dtype}: its pictures are bytes, which take less room still. Leave "
            "dtype out; it is for floats (spectrograms, sequences, vectors, principal components)."
        )
    return form


def _check(manifest: Manifest, settings: FeaturizeSettings) -> tuple[Names, npt.NDArray[np.int64]]:
    """Whether manifest and settings fit each other; (sample ids, rows of train)."""
    columns = manifest.meta["columns"]
    sample_ids = Names(manifest.table["sample_id"].astype(str))
    for name, of in settings.modalities.items():
        wanted = of.all_columns if isinstance(of, TabularFeatures) else None
        found = columns.get(name)
        if found is None or (wanted is None and len(found) != 1) or (wanted is not None and found != wanted):
            headline = f"Modality {name!r} has the columns {found} in the manifest, {wanted or 'one'} in the settings"
            raise data_error(headline, [], REBUILD)
        if missing := [c for c in found if c not in manifest.table]:
            raise data_error(f"The manifest's table lacks columns of modality {name!r}", missing, REBUILD)
        if isinstance(of, AudioFeatures):
            from g2d_pipeline.features.audio import check_settings

            check_settings(of, name)
        elif isinstance(of, TextFeatures):
            check_texts(name, manifest.table[found[0]], sample_ids)
    train = np.flatnonzero((manifest.table["split"] == "train").to_numpy()).astype(np.int64)
    if not len(train):
        raise data_error("The manifest has no sample in train, so nothing can be measured on it", [], REBUILD)
    return sample_ids, train


def _check_files(root: Path, faults: bad_samples.Faults) -> None:
    """All missing, empty and fake files at once, before any work is done."""
    for name, m in faults.media.items():
        faulty: dict[str, str] = {}
        for file in {split_cell(cell)[0] for cell in m.cells}:
            try:
                if not (isinstance(m.settings, VideoFeatures) and (root / file).is_dir()):
                    check_file(
                        f"{root}/{file}"
                    )  # a string: joining paths takes longer than looking at a file
            except MediaError as error:
                faulty[file] = error.reason
        if faulty:
            reasons = ((k, faulty.get(split_cell(cell)[0])) for k, cell in enumerate(m.cells))
            faults.add(name, {k: reason for k, reason in reasons if reason is not None})
    faults.check()


def _needed(folder: Path, settings: FeaturizeSettings, forms: Mapping[str, ArraySpec], samples: int) -> int:
    """Bytes that the arrays will take beyond what of them is there."""
    needed = 0
    for name, of in settings.modalities.items():
        if isinstance(of, TabularFeatures):
            bytes_each = 4 * (len(of.columns) + 3 * len(of.dates))  # and the categories, which are few
        elif isinstance(of, TextFeatures):
            bytes_each = 4 * of.length
        else:
            form = forms[name]
            bytes_each = form.bytes
            if isinstance(of, ImageFeatures) and of.pca_energy is not None:
                bytes_each += np.dtype(of.dtype).itemsize * int(np.prod(form.shape))
        there = sum(allocated(folder / file) for file in (f"{name}.npy", f"{name}.pixels.npy"))
        needed += max(0, samples * bytes_each - there)
    return needed


def _plan(settings: FeaturizeSettings, sample_ids: Names, media: Iterable[Media]) -> str:
    """A digest of what fixes the rows of the arrays: code, settings, samples, and which cell each sample has."""
    of = {name: m.model_dump(mode="json") for name, m in settings.modalities.items()}
    plan = hashlib.blake2b(json.dumps([_code(), CHUNK, of]).encode(), digest_size=16)
    sample_ids.digest_into(plan)
    for m in media:
        plan.update(m.name.encode())
        m.cells.digest_into(plan)
        plan.update(m.code.tobytes())
    return plan.hexdigest()


def code_digest() -> str:
    """Of what computes the arrays, 32 hex digits."""
    return hashlib.blake2b(json.dumps(_code()).encode(), digest_size=16).hexdigest()


@cache
def _code() -> list[str]:
    """What computes the arrays: this room's files (as they are when first asked for), and the versions of the
    libraries that decode and transform."""
    sources = [file_digest(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
    return sources + [
        version(library)
        for library in (
            "av",
            "numpy",
            "pillow",
            "soundfile",
            "tokenizers",
            "torch",
            "torchaudio",
            "torchvision",
        )
    ]


def _write_index(path: Path, table: pd.DataFrame) -> None:
    import pandas as pd

    columns = {key: table[key].astype(str) for key in ("sample_id", "split")} | {"target": table["target"]}
    pd.DataFrame(columns).reset_index(drop=True).to_parquet(path, index=False, engine="pyarrow")
