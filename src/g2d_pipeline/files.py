"""Files that are whole or absent, hashes of their content, and memory-mapped pages that are let go."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import DataError

RESIDENT = 8 * 2**20  # bytes of an array whose pages may stay resident


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the block writes there replaces `path` when the block succeeds.

    The temporary file is removed if the block raises. Raises whatever the block raises, and OSError where
    the rename fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def content_hash(file: Path, digest_size: int = 16) -> str:
    """The blake2b hash of a file's content in hexadecimal. Raises DataError where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=digest_size)).hexdigest()
    except OSError as error:
        raise DataError(f"{file} can not be read ({error.strerror}).") from None


def release_pages(array: Any, resident: int = RESIDENT) -> None:
    """Release the pages of a memory-mapped numpy array of more than `resident` bytes, so that memory does not
    grow with the samples; the system's cache keeps them as long as there is room."""
    memory = getattr(array, "_mmap", None)
    if memory is not None and array.nbytes > resident and hasattr(memory, "madvise"):  # not on Windows
        memory.madvise(mmap.MADV_DONTNEED)
