"""Files that are whole or absent, hashes of their content, and memory-mapped pages that are let go."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import DataError

RESIDENT = 8 * 2**20  # bytes of an array whose pages may stay resident


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the block writes there replaces `path` when it succeeds.

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


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it replaces `path` when the block succeeds, else it is removed.

    Leftovers of killed processes, an hour old, are removed. Raises what the block raises, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(".unfinished-*"):
        if leftover.is_dir() and time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
    workshop = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=path.parent))
    try:
        new = workshop / "new"
        new.mkdir()
        yield new
        if path.exists():
            path.replace(workshop / "old")
        new.replace(path)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def content_hash(file: Path, digest_size: int = 16) -> str:
    """The blake2b hash of a file's content in hexadecimal. Raises DataError where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=digest_size)).hexdigest()
    except OSError as error:
        raise DataError(f"{file} can not be read ({error.strerror}).") from None


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits of plain data (as canonical JSON)."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def release_pages(array: Any, resident: int = RESIDENT) -> None:
    """Release the pages of a memory-mapped numpy array of more than `resident` bytes, so that memory does not
    grow with the samples; the system's cache keeps them as long as there is room."""
    memory = getattr(array, "_mmap", None)
    if memory is not None and array.nbytes > resident and hasattr(memory, "madvise"):  # not on Windows
        memory.madvise(mmap.MADV_DONTNEED)
