"""One chunk of one modality: decode, transform, write to the memory-mapped array. This is what a worker does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, ImageFeatures, SequenceFeatures, VectorFeatures, VideoFeatures
from g2d_pipeline.features.cells import open_cell, split_cell
from g2d_pipeline.features.faults import MediaError

AT_ONCE = 32  # recordings in one STFT: bounds its memory

FileSettings = AudioFeatures | ImageFeatures | VideoFeatures | SequenceFeatures | VectorFeatures
Cells = tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """The array that `run` fills: the shape of one sample, and the type of its numbers."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Job:
    """`cells[k]` of modality settings → every row `rows[i]` of the array file with `source[i] == k`."""

    number: int
    settings: FileSettings
    root: Path
    cells: Cells
    array: Path
    rows: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    form: Form


@dataclass
class Findings:
    """Position in the cells of a chunk → what was found there.

    `faults`: what is wrong. `constant`: 1 for silence, a picture of one colour, features that are all 0. `replaced`:
    how many values were not finite and are 0 now. `shortened`: how many steps at the end were left out.
    """

    faults: dict[int, str] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
    replaced: dict[int, int] = field(default_factory=dict)
    shortened: dict[int, int] = field(default_factory=dict)

    @property
    def notes(self) -> dict[str, dict[int, int]]:
        return {"constant": self.constant, "replaced": self.replaced, "shortened": self.shortened}


@dataclass(frozen=True)
class Done:
    """A chunk that is on disk, unless `faults`: position in `cells` → what is wrong. `notes`: as `Findings.notes`."""

    number: int
    faults: dict[int, str]
    notes: dict[str, dict[int, int]]


def run(job: Job) -> Done:
    """Compute a chunk and write it; nothing is written where a cell of it is bad.

    On one thread, so that the bytes are the same in any process.
    """
    with one_thread():
        if isinstance(job.settings, AudioFeatures):
            values, found = spectrograms(job.cells, job.root, job.settings, job.form)
        elif isinstance(job.settings, ImageFeatures):
            values, found = pictures(job.cells, job.root, job.settings, job.form)
        elif isinstance(job.settings, VideoFeatures):
            values, found = clips(job.cells, job.root, job.settings, job.form)
        else:
            values, found = arrays(job.cells, job.root, job.settings, job.form)
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for k in np.flatnonzero(~finite).tolist():
            found.faults.setdefault(k, "is not finite after the transform: its values are too large")
    if not found.faults:
        array = np.load(job.array, mmap_mode="r+", allow_pickle=False)
        for start in range(0, len(job.rows), len(job.cells)):  # a cell may have many rows: no copy larger than `values`
            part = slice(start, start + len(job.cells))
            array[job.rows[part]] = values[job.source[part]]
        array.flush()
    return Done(job.number, found.faults, found.notes)


def load(settings: FileSettings) -> None:
    """Import what `run` needs, which takes seconds and is not to be taken for work."""
    module = "sequence" if settings.kind == "vector" else settings.kind
    importlib.import_module(f"g2d_pipeline.features.{module}")


def form_of(settings: FileSettings, cells: Sequence[str], root: Path) -> Form:
    """What the modality's array is like, as far as its settings and its first usable cell tell."""
    if isinstance(settings, AudioFeatures):
        from g2d_pipeline.features import audio

        return Form(audio.shape(settings), "float32")
    if isinstance(settings, ImageFeatures):
        dtype = "float32" if _holds_floats(cells, root) else "uint8"
        return Form((settings.channels, *settings.height_width), dtype)
    if isinstance(settings, VideoFeatures):
        return Form((3, settings.frames, *settings.height_width), "uint8")
    from g2d_pipeline.features import sequence

    if isinstance(settings, SequenceFeatures):
        return Form((sequence.width(cells, root, 2) + 1, settings.steps), "float32")
    return Form((sequence.width(cells, root, 1),), "float32")


def _holds_floats(cells: Sequence[str], root: Path) -> bool:
    """Whether the first picture that can be opened is a row of floats; a file is not."""
    for cell in cells:
        if split_cell(cell)[1] is None:
            return False
        try:
            return open_cell(cell, root).dtype.kind == "f"
        except MediaError:  # told with its sample when it is decoded
            continue
    return False


def spectrograms(cells: Cells, root: Path, settings: AudioFeatures, form: Form) -> tuple[npt.NDArray[Any], Findings]:
    """Recordings → float32 `[len(cells), 1, F, frames]`."""
    import torch

    from g2d_pipeline.features import audio

    waves = torch.zeros(len(cells), audio.length(settings))
    found = Findings()
    for k, cell in enumerate(cells):
        try:
            wave, rate = audio.read_recording(cell, root, settings)
            if audio.is_silent(wave, rate, settings):
                found.constant[k] = 1
            waves[k] = audio.prepare_wave(wave, rate, settings, cell)
        except MediaError as error:
            found.faults[k] = error.reason
    values = torch.cat([audio.spectrogram(part, settings) for part in waves.split(AT_ONCE)])
    return values.numpy(), found


def pictures(cells: Cells, root: Path, settings: ImageFeatures, form: Form) -> tuple[npt.NDArray[Any], Findings]:
    """Pictures → uint8 (or float32, of rows of floats) `[len(cells), C, H, W]`."""
    from g2d_pipeline.features import image

    read = image.read_floats if form.dtype == "float32" else image.read_image
    values = np.zeros((len(cells), *form.shape), form.dtype)
    found = Findings()
    for k, cell in enumerate(cells):
        try:
            pixels = read(cell, root, settings.channels, settings.height_width)
        except MediaError as error:
            found.faults[k] = error.reason
            continue
        values[k] = image.resize(pixels, settings.height_width).numpy()
        if _is_constant(values[k]):
            found.constant[k] = 1
    return values, found


def clips(cells: Cells, root: Path, settings: VideoFeatures, form: Form) -> tuple[npt.NDArray[Any], Findings]:
    """Clips → uint8 `[len(cells), 3, frames, H, W]`."""
    from g2d_pipeline.features import image, video

    values = np.zeros((len(cells), *form.shape), form.dtype)
    found = Findings()
    for k, cell in enumerate(cells):
        try:
            frames = video.read_frames(root / cell, settings.frames, settings.pick)
        except MediaError as error:
            found.faults[k] = error.reason
            continue
        values[k] = image.resize(frames, settings.height_width).permute(1, 0, 2, 3).numpy()
        if _is_constant(values[k]):
            found.constant[k] = 1
    return values, found


def arrays(
    cells: Cells, root: Path, settings: SequenceFeatures | VectorFeatures, form: Form
) -> tuple[npt.NDArray[Any], Findings]:
    """Arrays of features → float32 `[len(cells), F + 1, steps]`, or `[len(cells), F]` of vectors."""
    from g2d_pipeline.features import sequence

    values = np.zeros((len(cells), *form.shape), form.dtype)
    found = Findings()
    for k, cell in enumerate(cells):
        try:
            if isinstance(settings, SequenceFeatures):
                values[k], replaced, left_out = sequence.read_sequence(cell, root, settings, form.shape[0] - 1)
                found.replaced |= {k: replaced} if replaced else {}
                found.shortened |= {k: left_out} if left_out else {}
            else:
                values[k] = sequence.read_vector(cell, root, form.shape[0])
        except MediaError as error:
            found.faults[k] = error.reason
            continue
        features = values[k][:-1] if isinstance(settings, SequenceFeatures) else values[k]
        if not features.any():
            found.constant[k] = 1
    return values, found


def _is_constant(pixels: npt.NDArray[Any]) -> bool:
    """Whether each channel of `[C, …]` holds one value."""
    channels = pixels.reshape(len(pixels), -1)
    return bool((channels.min(axis=1) == channels.max(axis=1)).all())


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
