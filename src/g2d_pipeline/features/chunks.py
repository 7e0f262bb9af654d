"""One chunk of one modality: decode, transform, write to the memory-mapped array. This is what a worker does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, ImageFeatures
from g2d_pipeline.features.faults import MediaError

AT_ONCE = 32  # recordings in one STFT: bounds its memory


@dataclass(frozen=True)
class Job:
    """`cells[k]` of modality settings → every row `rows[i]` of the array file with `source[i] == k`."""

    number: int
    settings: AudioFeatures | ImageFeatures
    root: Path
    cells: tuple[str, ...]
    array: Path
    rows: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Done:
    """A chunk that is on disk, unless `faults`: position in `cells` → what is wrong. `constant`: silence, black."""

    number: int
    faults: dict[int, str]
    constant: tuple[int, ...]


def run(job: Job) -> Done:
    """Compute a chunk and write it; nothing is written where a cell of it is bad.

    On one thread, so that the bytes are the same in any process.
    """
    with one_thread():
        if isinstance(job.settings, AudioFeatures):
            values, faults, constant = spectrograms(job.cells, job.root, job.settings)
        else:
            values, faults, constant = pictures(job.cells, job.root, job.settings)
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for k in np.flatnonzero(~finite).tolist():
            faults.setdefault(k, "is not finite after the transform: its values are too large")
    if not faults:
        array = np.load(job.array, mmap_mode="r+", allow_pickle=False)
        for start in range(0, len(job.rows), len(job.cells)):  # a cell may have many rows: no copy larger than `values`
            part = slice(start, start + len(job.cells))
            array[job.rows[part]] = values[job.source[part]]
        array.flush()
    return Done(job.number, faults, tuple(constant))


def load(settings: AudioFeatures | ImageFeatures) -> None:
    """Import what `run` needs, which takes seconds and is not to be taken for work."""
    importlib.import_module(f"g2d_pipeline.features.{settings.kind}")


def sample_shape(settings: AudioFeatures | ImageFeatures) -> tuple[int, ...]:
    """The shape of one sample of the array that `run` fills."""
    if isinstance(settings, AudioFeatures):
        from g2d_pipeline.features import audio

        return audio.shape(settings)
    return settings.channels, *settings.height_width


def spectrograms(
    cells: tuple[str, ...], root: Path, settings: AudioFeatures
) -> tuple[npt.NDArray[Any], dict[int, str], list[int]]:
    """Recordings → (float32 `[len(cells), 1, F, frames]`, faults, which are silent)."""
    import torch

    from g2d_pipeline.features import audio

    waves = torch.zeros(len(cells), audio.length(settings))
    faults: dict[int, str] = {}
    constant: list[int] = []
    for k, cell in enumerate(cells):
        try:
            wave, rate = audio.read_recording(cell, root, settings)
            if audio.is_silent(wave, rate, settings):
                constant.append(k)
            waves[k] = audio.prepare_wave(wave, rate, settings, cell)
        except MediaError as error:
            faults[k] = error.reason
    values = torch.cat([audio.spectrogram(part, settings) for part in waves.split(AT_ONCE)])
    return values.numpy(), faults, constant


def pictures(
    cells: tuple[str, ...], root: Path, settings: ImageFeatures
) -> tuple[npt.NDArray[Any], dict[int, str], list[int]]:
    """Pictures → (uint8 `[len(cells), C, H, W]`, faults, which are of one colour)."""
    from g2d_pipeline.features import image

    values = np.zeros((len(cells), *sample_shape(settings)), np.uint8)
    faults: dict[int, str] = {}
    constant: list[int] = []
    for k, cell in enumerate(cells):
        try:
            pixels = image.resize(image.read_image(cell, root, settings.channels), settings.height_width)
        except MediaError as error:
            faults[k] = error.reason
            continue
        values[k] = pixels.numpy()
        if (values[k].min(axis=(1, 2)) == values[k].max(axis=(1, 2))).all():
            constant.append(k)
    return values, faults, constant


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
