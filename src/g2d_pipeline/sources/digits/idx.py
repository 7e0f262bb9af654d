"""The IDX format of MNIST: gzip, a header of big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error, media_fault

AGAIN = "copy or download the file again"


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in a gzipped IDX file of unsigned bytes, e.g. images [N, H, W] or labels [N].

    Raises DataError naming the file where it is missing, empty, truncated, of another kind or without a row.
    """
    if fault := media_fault(path):
        raise data_error(f"{path}: {fault}", [], f"{AGAIN}.")
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, OSError, zlib.error) as error:
        raise data_error(f"{path} is truncated or not gzip ({error})", [], f"{AGAIN}.") from None
    magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if len(content) < start or content[:4] != magic:
        start_bytes = content[:4].hex(" ") or "nothing"
        headline = (
            f"{path} is no IDX file of {dimensions}-D bytes: it starts with {start_bytes}, not "
            f"{magic.hex(' ')}"
        )
        raise data_error(headline, [], f"{AGAIN}; check that images and labels are not exchanged.")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        headline = f"{path} holds {len(content)} bytes; its header {shape} promises {expected}"
        raise data_error(headline, [], f"it is truncated or damaged: {AGAIN}.")
    if 0 in shape:
        raise data_error(f"{path} is empty: its header says {shape}", [], f"{AGAIN}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
