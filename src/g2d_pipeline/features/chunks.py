"""One chunk of one modality: decode, transform, write to the memory-mapped array. This is what a worker does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, ImageFeatures, SequenceFeatures, VectorFeatures, VideoFeatures
from g2d_pipeline.features.cells import let_go, open_cell, split_cell
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.files import mapped
from g2d_pipeline.features.float16 import OVERFLOW, to_half
from g2d_pipeline.features.jobs import ArraySpec, Cells, Done, FileSettings, Findings, Job
from g2d_pipeline.features.reuse import RECORD, content_key

AT_ONCE = 32  # recordings in one STFT: bounds its memory


def run(job: Job) -> Done:
    """Compute a chunk and write it; the rows of cells that are bad stay as they are.

    On one thread, so that the bytes are the same in any process.
    """
    count = len(job.cells)
    records = np.zeros(count, RECORD)
    contents: dict[str, bytes] = {}
    if job.records is not None:
        sounds = isinstance(job.settings, AudioFeatures)
        records["key"] = [content_key(cell, job.root, contents if sounds else None) for cell in job.cells]
    copied = np.empty(0, np.int64)
    if job.known is not None:
        copied, cells = job.known.find(records["key"].tolist())
        for name in RECORD.names or ():
            records[name][copied] = cells[name]
    fresh = np.setdiff1d(np.arange(count), copied).tolist()
    values, errors, found = _compute(job, tuple(job.cells[k] for k in fresh), contents)
    found = found.at(fresh)
    records["constant"][list(found.constant)] = 1
    if errors is not None and job.records is not None:
        records["worst"][fresh], records["squares"][fresh] = errors[:, 0, 0], errors[:, 1, 0]
    if len(copied) and job.known is not None:
        both = np.empty((count, *job.form.shape), job.form.dtype)
        both[fresh], both[copied] = values, mapped(job.known.array)[cells["row"]]
        values = both
        found.constant |= dict.fromkeys(copied[cells["constant"] == 1].tolist(), 1)
    records["key"][list(found.faults)] = b""
    _write(job, values, records, errors, found)
    let_go(job.cells, job.root)
    return Done(job.number, found.faults, found.notes, len(copied))


def _compute(
    job: Job, cells: Cells, contents: Mapping[str, bytes]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None, Findings]:
    """(what is stored of the cells, its rounding errors `[n, 2, C]` where it is rounded, what was found).

    `contents`: cell → the bytes of its file, of those that have been read for their keys and are short.
    """
    if not cells:
        return np.empty((0, *job.form.shape), job.form.dtype), None, Findings()
    with one_thread():
        if isinstance(job.settings, AudioFeatures):
            values, found = spectrograms(cells, job.root, job.settings, job.form, contents)
        elif isinstance(job.settings, ImageFeatures):
            values, found = pictures(cells, job.root, job.settings, job.form)
        elif isinstance(job.settings, VideoFeatures):
            values, found = clips(cells, job.root, job.settings, job.form)
        else:
            values, found = arrays(cells, job.root, job.settings, job.form)
    if values.dtype.kind != "f":
        return values, None, found
    rows = values.reshape(len(values), -1)
    for k in np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
        found.faults.setdefault(k, "is not finite after the transform: its values are too large")
    if job.form.dtype != "float16":
        return values, None, found
    half, errors = to_half(values)
    for k in np.flatnonzero(~np.isfinite(half).reshape(len(half), -1).all(axis=1)).tolist():
        found.faults.setdefault(k, OVERFLOW)
    errors[list(found.faults)] = 0
    return half, errors, found


def _write(
    job: Job,
    values: npt.NDArray[Any],
    records: npt.NDArray[Any],
    errors: npt.NDArray[np.float64] | None,
    found: Findings,
) -> None:
    array = mapped(job.array, "r+")
    rows, source = job.rows, job.source
    if found.faults:
        good = ~np.isin(source, list(found.faults))
        rows, source = rows[good], source[good]
    if len(source) == len(values) and (np.diff(rows) == 1).all() and (np.diff(source) == 1).all():
        array[rows[0] : rows[-1] + 1] = values  # a row a cell, in order: nothing is gathered
        rows = rows[:0]
    for start in range(
        0, len(rows), len(job.cells)
    ):  # a cell may have many rows: no copy larger than `values`
        part = slice(start, start + len(job.cells))
        array[rows[part]] = values[source[part]]
    array.flush()
    if job.records is not None:
        kept = mapped(job.records, "r+")
        kept[job.first : job.first + len(records)] = records
        kept.flush()
    if job.rounding is not None and errors is not None:
        summed = mapped(job.rounding, "r+")
        summed[job.number] = errors[:, 0].max(axis=0), errors[:, 1].sum(axis=0)
        summed.flush()


def load(settings: FileSettings) -> None:
    """Import what `run` needs, which takes seconds and is not to be taken for work."""
    module = "sequence" if settings.kind == "vector" else settings.kind
    importlib.import_module(f"g2d_pipeline.features.{module}")


def form_of(settings: FileSettings, cells: Sequence[str], root: Path) -> ArraySpec:
    """What the modality's array is like, as far as its settings and its first usable cell tell."""
    if isinstance(settings, AudioFeatures):
        from g2d_pipeline.features import audio

        return ArraySpec(audio.shape(settings), settings.dtype)
    if isinstance(settings, ImageFeatures):
        dtype = "uint8"
        if _holds_floats(cells, root):
            dtype = (
                settings.dtype if settings.pca_energy is None else "float32"
            )  # rounded after the components
        return ArraySpec((settings.channels, *settings.height_width), dtype)
    if isinstance(settings, VideoFeatures):
        return ArraySpec((3, settings.frames, *settings.height_width), "uint8")
    from g2d_pipeline.features import sequence

    if isinstance(settings, SequenceFeatures):
        return ArraySpec((sequence.width(cells, root, 2) + 1, settings.steps), settings.dtype)
    return ArraySpec((sequence.width(cells, root, 1),), settings.dtype)


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


def spectrograms(
    cells: Cells,
    root: Path,
    settings: AudioFeatures,
    form: ArraySpec,
    contents: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[npt.NDArray[Any], Findings]:
    """Recordings → float32 `[len(cells), 1, F, frames]`."""
    import torch

    from g2d_pipeline.features import audio

    values = torch.empty(len(cells), *form.shape)
    found = Findings()
    for first in range(0, len(cells), AT_ONCE):
        part = cells[first : first + AT_ONCE]
        waves = torch.zeros(len(part), audio.length(settings))
        rows = waves.numpy()
        for k, cell in enumerate(part):
            try:
                wave, rate = audio.read_recording(cell, root, settings, contents.get(cell))
                if audio.is_silent(wave, rate, settings):
                    found.constant[first + k] = 1
                audio.put(wave, rate, settings, cell, rows[k])
            except MediaError as error:
                found.faults[first + k] = error.reason
        values[first : first + len(part)] = audio.spectrogram(audio.finish(waves, settings, part), settings)
    return values.numpy(), found


def pictures(
    cells: Cells, root: Path, settings: ImageFeatures, form: ArraySpec
) -> tuple[npt.NDArray[Any], Findings]:
    """Pictures → uint8 (or float32, of rows of floats) `[len(cells), C, H, W]`."""
    from g2d_pipeline.features import image

    read = image.read_floats if form.exact == "float32" else image.read_image
    values = np.zeros((len(cells), *form.shape), form.exact)
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


def clips(
    cells: Cells, root: Path, settings: VideoFeatures, form: ArraySpec
) -> tuple[npt.NDArray[Any], Findings]:
    """Clips → uint8 `[len(cells), 3, frames, H, W]`."""
    from g2d_pipeline.features import image, video

    values = np.zeros((len(cells), *form.shape), form.exact)
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
    cells: Cells, root: Path, settings: SequenceFeatures | VectorFeatures, form: ArraySpec
) -> tuple[npt.NDArray[Any], Findings]:
    """Arrays of features → float32 `[len(cells), F + 1, steps]`, or `[len(cells), F]` of vectors."""
    from g2d_pipeline.features import sequence

    values = np.zeros((len(cells), *form.shape), form.exact)
    found = Findings()
    for k, cell in enumerate(cells):
        try:
            if isinstance(settings, SequenceFeatures):
                values[k], replaced, left_out = sequence.read_sequence(
                    cell, root, settings, form.shape[0] - 1
                )
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
