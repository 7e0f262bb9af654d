"""The last steps of a store's modalities: tables, principal components, normalisers, and what is worth a note."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import ImageFeatures, SequenceFeatures, TabularFeatures, VectorFeatures, VideoFeatures
from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.features.media import CHUNK, Media
from g2d_pipeline.features.statistics import channel_statistics, feature_statistics

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REBUILD = "make the manifest anew (`--params rebuild=true`)."
CONSTANT = {"audio": "silent", "image": "of one colour", "video": "of one colour"}

Array = npt.NDArray[Any]


def finish(folder: Path, media: Media, train: npt.NDArray[np.int64]) -> dict[str, Any]:
    """From decoded to stored: principal components where asked for, and the normaliser; what `meta.json` says of it."""
    decoded = np.load(folder / media.file, mmap_mode="r", allow_pickle=False)
    of = media.settings
    statistics: dict[str, Any] = {}
    array: Array = decoded
    if isinstance(of, ImageFeatures) and of.pca_energy is not None:
        array, statistics = _write_low_energy(folder / f"{media.name}.npy", decoded, of.pca_energy, train)
    scale = 1 / 255 if array.dtype == np.uint8 else 1.0
    if isinstance(of, ImageFeatures | VideoFeatures) and of.mean is not None and of.std is not None:
        mean, std = list(of.mean), list(of.std)
    elif isinstance(of, SequenceFeatures | VectorFeatures):
        mean, std, statistics["constant"] = feature_statistics(array, train, isinstance(of, SequenceFeatures))
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

    full = 255 if pixels.dtype == np.uint8 else 1
    components = LowEnergy.fit(pixels[train].reshape(len(train), -1) / full, energy)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(np.float32), shape=pixels.shape)
    with threadpool_limits(1):
        for start in range(0, len(pixels), CHUNK):
            part = pixels[start : start + CHUNK]
            array[start : start + CHUNK] = components.apply(part.reshape(len(part), -1) / full).reshape(part.shape)
    array.flush()
    return array, {"components": len(components.components), "energy": components.energy}


def write_table(
    folder: Path,
    name: str,
    settings: TabularFeatures,
    table: pd.DataFrame,
    train: npt.NDArray[np.int64],
    sample_ids: Sequence[str],
    notes: list[str],
) -> dict[str, Any]:
    """Standardise the columns of a modality and write them; what `meta.json` says of it. Notes constant columns."""
    from g2d_pipeline.features.tabular import standardise

    table = table[list(settings.columns)]
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


def note(media: Media, found: dict[str, dict[int, int]], sample_ids: Sequence[str]) -> list[str]:
    """Sentences for `meta.json` on what decoding found (`chunks.Findings.notes`); they are logged, too."""
    notes = []
    for kind, counts in found.items():
        if not counts:
            continue
        rows = np.sort(np.concatenate([media.rows(k, k + 1) for k in counts]))
        named = ", ".join(sample_ids[row] for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
        total = sum(n * len(media.rows(k, k + 1)) for k, n in counts.items())
        what = {
            "constant": f"that are {CONSTANT.get(media.settings.kind, 'zero throughout')}",
            "replaced": f"with values that are not finite, stored as 0 ({total} in all)",
            "shortened": f"longer than `steps`, whose end is left out ({total} steps in all)",
        }[kind]
        notes.append(f"{media.name}: {len(rows)} of {len(sample_ids)} samples have {media.what} {what}: {named}")
        logger.warning(notes[-1])
    return notes
