"""The files of a store: their names, arrays on disk, and what a full or forbidden disk says."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.artefacts import reserve
from g2d_pipeline.errors import DataError

FORMAT = 2  # of the store; raise it where old stores can no longer be read
INDEX, META = "index.parquet", "meta.json"
FITTED = "components"  # the part of a modality's files that its transform has fitted
FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def create(path: Path, dtype: npt.DTypeLike, shape: Sequence[int]) -> np.memmap[Any, Any]:
    """A memory-mapped array of zeros, whose room on the disk is taken: writing to it can not fill it up.

    Raises OSError; then no file is left."""
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), tuple(shape))
        with path.open("r+b") as file:
            reserve(file, path.stat().st_size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return array


def mapped(path: Path, mode: Any = "r") -> np.memmap[Any, Any]:
    """The array of a file, memory-mapped. Raises OSError or ValueError."""
    array: np.memmap[Any, Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
    return array


def read_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type of a .npy file, and the bytes that its header promises. Raises OSError or ValueError."""
    form = np.lib.format
    with path.open("rb") as file:
        first = form.read_magic(file) == (1, 0)
        shape, _, dtype = (form.read_array_header_1_0 if first else form.read_array_header_2_0)(file)
        return shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize


def fits(path: Path, dtype: npt.DTypeLike, shape: Sequence[int]) -> bool:
    """Whether there is a whole array of this form."""
    try:
        array = mapped(path)
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == tuple(shape) and bool(array.dtype == dtype)


def allocated(path: Path) -> int:
    """Bytes on disk; an array that is not yet filled may have fewer than its size."""
    if not path.exists():
        return 0
    stat = path.stat()
    return int(getattr(stat, "st_blocks", stat.st_size / 512) * 512)


def check_space(folder: Path, needed: int) -> None:
    """Raise DataError where the disk has not `needed` bytes free."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(_full(folder, needed, free))


@contextmanager
def writing_to(folder: Path, needed: int) -> Iterator[None]:
    """A full disk, or one that must not be written, becomes a DataError that names it. `needed`: bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            existing = next(f for f in (folder, *folder.parents) if f.is_dir())
            raise DataError(_full(folder, needed, shutil.disk_usage(existing).free)) from error
        where = Path(str(error.filename)) if error.filename is not None else folder
        if error.errno in FORBIDDEN and (where.is_relative_to(folder) or folder.is_relative_to(where)):
            raise DataError(
                f"The feature store {folder} can not be written ({error.strerror}: {where}). "
                "Give yourself the right to write there, or run in a copy of the project that is yours."
            ) from error
        raise


def _full(folder: Path, needed: int, free: int) -> str:
    return (
        f"The feature store {folder} needs {_size(needed)}, the disk has {_size(free)} free. Make room, or "
        "make the features smaller (size, frames, seconds, n_mels, steps, dtype=float16); then run again: it "
        "goes on from the last whole chunk."
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
