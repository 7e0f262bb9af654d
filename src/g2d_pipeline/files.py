"""Files that are whole or absent, locks, hashes of content, and the pages of memory maps."""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import time
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from g2d_pipeline.errors import DataError, LockedError

logger = logging.getLogger(__name__)

RESIDENT = 8 * 2**20  # bytes of an array whose pages may stay resident


def load_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> Any:
    """A .npy array without pickles, `[…]`. Raises OSError, EOFError, or ValueError, for a damaged header too:
    numpy parses it as Python, and lets the tokenizer's error pass."""
    import numpy as np

    from g2d_pipeline.remote import fetch

    fetch([path])
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (tokenize.TokenError, SyntaxError) as error:
        raise ValueError(f"damaged header: {error.args[0]}") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the block writes there replaces `path` when it succeeds.

    The temporary file is removed if the block raises. Raises what the block raises, and OSError."""
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

    Leftovers of killed processes, an hour old, are removed. Raises what the block raises, and OSError."""
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


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `path`, which is being made: a file beside it, valid while its process lives.

    Where another process has it, log which one and `wait` for its end, or raise LockedError. Raises DataError
    where the folder cannot be written."""
    from filelock import FileLock, Timeout  # not at the top: too slow for a run with nothing to do

    file = path.with_name(f"{path.name}.lock")
    lock = FileLock(file, poll_interval=0.2)
    shown = relative(path, Path.cwd())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = "of an unknown process"
            with contextlib.suppress(OSError, UnicodeDecodeError):
                holder = file.read_text("utf-8") or holder
            holder = f"Another run ({holder}) is making {shown}"
            if not wait:
                remedy = "Say --params wait=true to wait for it and use what it makes."
                raise LockedError(f"{holder}. {remedy}") from None
            logger.warning("%s: waiting for it to end …", holder)
            lock.acquire()
        with contextlib.suppress(PermissionError):  # Windows: a locked file is not written
            file.write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}", "utf-8")
    except OSError as error:
        raise DataError(f"The folder {shown.parent} cannot be written: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who waits then opens a new one
            file.unlink()
        lock.release()


def relative(path: Path, folder: Path) -> Path:
    """`path` relative to `folder`; unchanged where it lies elsewhere."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def evaluation_set_file(project: Path, dataset: str) -> Path:
    """The file of a data set's fixed evaluation set, if it has one (see `sources.evaluation_set`)."""
    return project / "data" / "09_registry" / dataset / "evaluation_set.json"


def start_file(project: Path, dataset: str) -> Path:
    """The file of the champion's weights that students start from with `init_from: champion`."""
    return project / "data" / "09_registry" / dataset / "start.safetensors"


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
    """Release the resident pages of a memory-mapped array (or of its `parts`, the shards) of more than
    `resident` bytes; they stay in the system's page cache."""
    for part in getattr(array, "parts", (array,)) if array.nbytes > resident else ():
        memory = getattr(part, "_mmap", None)
        if memory is not None and hasattr(memory, "madvise"):  # not on Windows
            memory.madvise(mmap.MADV_DONTNEED)
