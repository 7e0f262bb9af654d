"""The last steps of a store's modalities: tables, principal components, normalisers, and what is worth a
note."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import (
    SPLITS,
    ImageFeatures,
    SequenceFeatures,
    TabularFeatures,
    VectorFeatures,
    VideoFeatures,
)
from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.features.files import create, file_digest, mapped, release
from g2d_pipeline.features.float16 import OVERFLOW, Rounding, to_half
from g2d_pipeline.features.media import CHUNK, Media
from g2d_pipeline.features.reuse import write_cells
from g2d_pipeline.features.statistics import channel_statistics, feature_statistics

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REBUILD = "make the manifest anew (`--params rebuild=true`)."
CONSTANT = {"audio": "silent", "image": "of one colour", "video": "of one colour"}

Array = npt.NDArray[Any]


def finish(
    folder: Path,
    media: Media,
    kept: npt.NDArray[np.int64] | None,
    train: npt.NDArray[np.int64],
    sample_ids: Sequence[str],
    faults: Mapping[int, str],
) -> dict[str, Any]:
    """From decoded to stored: principal components where asked for, the normaliser; what `meta.json` says of
    it.

    `kept`: the decoded rows that are stored; None: all. `train` and `sample_ids` are of the stored rows.
    `faults`: the positions of the cells that could not be decoded."""
    decoded = mapped(folder / media.file)
    path, of = folder / f"{media.name}.npy", media.settings
    statistics: dict[str, Any] = {}
    rounding: Rounding | None = None
    if isinstance(of, ImageFeatures) and of.pca_energy is not None:
        array, statistics, rounding = _write_low_energy(path, decoded, of, kept, train, sample_ids)
    else:
        rounding = _rounding(folder, media, decoded, kept, len(media.cells) - len(faults))
        array = decoded if kept is None else _move(folder / f"{media.name}.kept.npy", path, decoded, kept)
    scale = 1 / 255 if array.dtype == np.uint8 else 1.0
    if isinstance(of, ImageFeatures | VideoFeatures) and of.mean is not None and of.std is not None:
        mean, std = list(of.mean), list(of.std)
    elif isinstance(of, SequenceFeatures | VectorFeatures):
        mean, std, statistics["constant"] = feature_statistics(array, train, isinstance(of, SequenceFeatures))
    else:
        mean, std = channel_statistics(array, train, scale)
    release(array)
    about = {
        "shape": list(array.shape[1:]),
        "dtype": str(array.dtype),
        "normaliser": {"scale": scale, "mean": mean, "std": std},
        "statistics": statistics | {"distinct": len(_present(media, kept)[0])},
    }
    if rounding is not None:
        about["rounding"] = rounding.measured(std)
    if (folder / f"{media.name}.records.npy").exists():
        present, rows = _present(media, kept)
        name = f"{media.name}.cells.npy"
        write_cells(folder / name, mapped(folder / f"{media.name}.records.npy")[present], rows)
        about["cells"] = {"file": name, "checksum": file_digest(folder / name)}
    return about


def _present(
    media: Media, kept: npt.NDArray[np.int64] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(the positions of the cells that the stored rows have, a stored row of each)."""
    present, rows = np.unique(media.code if kept is None else media.code[kept], return_index=True)
    return present.astype(np.int64), rows.astype(np.int64)


def _rounding(
    folder: Path, media: Media, decoded: Array, kept: npt.NDArray[np.int64] | None, cells: int
) -> Rounding | None:
    """How much decoding has rounded; None: nothing is rounded."""
    if decoded.dtype != np.float16:
        return None
    numbers = int(np.prod(decoded.shape[2:]))
    if (folder / f"{media.name}.rounding.npy").exists():
        return Rounding.of(mapped(folder / f"{media.name}.rounding.npy"), cells * numbers)
    present, _ = _present(media, kept)
    records = mapped(folder / f"{media.name}.records.npy")[present]
    errors = np.stack([records["worst"], records["squares"]], axis=1)[:, :, None]
    return Rounding.of(errors, len(present) * numbers)


def _move(temporary: Path, path: Path, decoded: Array, kept: npt.NDArray[np.int64]) -> Array:
    """The rows `kept` of a decoded array alone, in its place."""
    array = create(temporary, decoded.dtype, (len(kept), *decoded.shape[1:]))
    for start in range(0, len(kept), CHUNK):
        array[start : start + CHUNK] = decoded[kept[start : start + CHUNK]]
        release(decoded)
        release(array)
    array.flush()
    temporary.replace(path)
    return array


def _write_low_energy(
    path: Path,
    pixels: Array,
    settings: ImageFeatures,
    kept: npt.NDArray[np.int64] | None,
    train: npt.NDArray[np.int64],
    sample_ids: Sequence[str],
) -> tuple[Array, dict[str, Any], Rounding | None]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from g2d_pipeline.features.image import LowEnergy

    full = 255 if pixels.dtype == np.uint8 else 1
    rows = np.arange(len(pixels)) if kept is None else kept
    energy = settings.pca_energy or 1.0
    components = LowEnergy.fit(pixels[rows[train]].reshape(len(train), -1) / full, energy)
    array = create(path, settings.dtype, (len(rows), *pixels.shape[1:]))
    errors = []
    with threadpool_limits(1):
        for start in range(0, len(rows), CHUNK):
            part = pixels[rows[start : start + CHUNK]]
            values: Array = components.apply(part.reshape(len(part), -1) / full).reshape(part.shape)
            if settings.dtype == "float16":
                values, error = to_half(values)
                if len(over := np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))):
                    named = [f"sample {sample_ids[start + k]} {OVERFLOW}" for k in over.tolist()]
                    raise data_error(
                        f"Pictures of {path.stem!r} can not be stored", named, "set dtype to float32."
                    )
                errors.append(np.stack([error[:, 0].max(axis=0), error[:, 1].sum(axis=0)]))
            array[start : start + CHUNK] = values
            release(pixels)
            release(array)
    array.flush()
    rounding = Rounding.of(np.stack(errors), len(rows) * int(np.prod(pixels.shape[2:]))) if errors else None
    return array, {"components": len(components.components), "energy": components.energy}, rounding


def write_table(
    folder: Path,
    name: str,
    settings: TabularFeatures,
    table: pd.DataFrame,
    train: npt.NDArray[np.int64],
    sample_ids: Sequence[str],
    notes: list[str],
) -> dict[str, Any]:
    """Encode the columns of a modality and write them; what `meta.json` says of it. Notes constant columns."""
    from g2d_pipeline.features.tabular import encode

    values, statistics, found = encode(table, settings, train, sample_ids)
    notes += [f"{name}: {note}." for note in found]
    array = create(folder / f"{name}.npy", values.dtype, values.shape)
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


def note(
    media: Media,
    found: Mapping[str, Mapping[int, int]],
    sample_ids: Sequence[str],
    kept: npt.NDArray[np.int64] | None,
) -> list[str]:
    """Sentences for `meta.json` on what decoding found (`chunks.Findings.notes`); they are logged, too.

    `sample_ids` are of the decoded rows, `kept` those that are stored (None: all).
    """
    notes = []
    stored = np.ones(len(sample_ids), bool)
    if kept is not None:
        stored[:] = False
        stored[kept] = True
    for kind, counts in found.items():
        here = {k: rows[stored[rows]] for k in counts for rows in [media.rows(k, k + 1)]}
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *here.values()]))
        if not len(rows):
            continue
        named = ", ".join(sample_ids[row] for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
        total = sum(n * len(here[k]) for k, n in counts.items())
        what = {
            "constant": f"that are {CONSTANT.get(media.settings.kind, 'zero throughout')}",
            "replaced": f"with values that are not finite, stored as 0 ({total} in all)",
            "shortened": f"longer than `steps`, whose end is left out ({total} steps in all)",
        }[kind]
        notes.append(
            f"{media.name}: {len(rows)} of {int(stored.sum())} samples have {media.what} {what}: {named}"
        )
        logger.warning(notes[-1])
    return notes


def count_found(
    media: Media,
    found: Mapping[str, Mapping[int, int]],
    sample_ids: Sequence[str],
    split: Array,
    kept: npt.NDArray[np.int64] | None,
) -> dict[str, dict[str, Any]]:
    """What decoding found, for the data report: kind → how many `samples` of each split, and the `first`
    five.

    `found`, `sample_ids`, `kept`: as in `note`; `split` `[N]` of the decoded rows.
    """
    stored = np.arange(len(sample_ids)) if kept is None else kept
    result: dict[str, dict[str, Any]] = {}
    for kind, counts in found.items():
        rows = np.concatenate([np.empty(0, np.int64), *(media.rows(k, k + 1) for k in counts)])
        rows = np.intersect1d(rows, stored)
        if len(rows):
            per_split = {name: int((split[rows] == name).sum()) for name in SPLITS}
            result[kind] = {"samples": per_split, "first": [sample_ids[row] for row in rows[:SHOWN]]}
    return result


def note_rounding(name: str, about: Mapping[str, Any]) -> list[str]:
    """What storing in half precision costs; it is logged, too."""
    if "rounding" not in about:
        return []
    error = about["rounding"]
    note = (
        f"{name}: stored as float16, which rounds by at most {error['max']:.2g}, and by {error['rms']:.2g} in the root "
        "mean square, in standard deviations of train."
    )
    logger.info(note)
    return [note]
