"""What a cell of the manifest points to: a file, or `file#row` = one row of an array file (`.npy`, or gzipped IDX)."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.features.faults import MediaError, check_file

ARRAY_ROW = re.compile(r"(?P<file>.+\.(?:npy|gz))#(?P<row>[0-9]+)")


def split_cell(cell: str) -> tuple[str, int | None]:
    """The file of a cell and the row in it; None: the cell is a whole file, even one with a `#` in its name."""
    match = ARRAY_ROW.fullmatch(cell)
    return (match["file"], int(match["row"])) if match else (cell, None)


def read_row(path: Path, row: int) -> npt.NDArray[Any]:
    """A copy of row `row` (from 0) of an array file `[N, …]`; an IDX file is decompressed once per process.

    Raises MediaError where the file is not such an array (missing, truncated, pickled objects, …) or has no such row.
    """
    try:
        stat = path.stat()
    except OSError:
        check_file(path)
        raise
    array = _open_array(path, stat.st_size, stat.st_mtime_ns)
    if array.ndim == 0 or row >= len(array):
        raise MediaError(path, f"has no row {row}: its shape is {list(array.shape)}")
    return np.array(array[row])


@lru_cache(maxsize=4)
def _open_array(path: Path, size: int, mtime_ns: int) -> npt.NDArray[Any]:
    """The array of a file; size and time are there so that a file that has changed is opened anew."""
    check_file(path)
    return _open_npy(path, size) if path.suffix == ".npy" else _read_idx(path)


def _open_npy(path: Path, size: int) -> npt.NDArray[Any]:
    """Memory-mapped, after a comparison of the file's size with its header, which numpy only does with bad words."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            promised = file.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise MediaError(path, "holds pickled Python objects, which are never loaded: save plain numbers")
        if promised > size:
            raise MediaError(path, f"is truncated: its header {shape} promises {promised} bytes, it holds {size}")
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise MediaError(path, f"is not a .npy array ({error})") from error
    return array


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The format of MNIST: two zero bytes, the type (8: bytes), the number of dimensions, their big-endian sizes."""
    try:
        with gzip.open(path) as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not head[3]:
                raise MediaError(path, f"is no IDX array of bytes: it starts with {head.hex(' ') or 'nothing'}")
            shape = tuple(int(n) for n in np.frombuffer(file.read(4 * head[3]), ">u4"))
            content = file.read(math.prod(shape))
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise MediaError(path, f"is truncated or not gzip ({error})") from error
    if len(shape) != head[3] or len(content) != math.prod(shape):
        raise MediaError(path, f"is truncated: its header {shape} promises more than its {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape)
