"""The content signature of a raw folder: an unchanged folder costs only stat calls."""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from g2d_pipeline.errors import DataError
from g2d_pipeline.files import atomic_write, content_hash
from g2d_pipeline.remote import version_of
from g2d_pipeline.sources.faults import RACY_NS

logger = logging.getLogger(__name__)

VERSION = 2
Entry = tuple[int, int, int, int, str]  # size, mtime_ns, ctime_ns, inode, hash


def hash_files(files: Sequence[Path], root: Path, header: str, cache: Path | None) -> str:
    """blake2b (32 hex digits) over `header` and, in order, each file's path relative to `root` and content.

    `cache`: a JSON file of hashes keyed by absolute path, valid while size, times and inode are the same (a
    copy can set mtime, but not ctime). A broken cache is rebuilt, one that can not be written is done
    without; either is logged. DataError where a file can not be read."""
    known = _read(cache)
    # strings rather than paths: thousands of files in milliseconds
    base = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118
    mine: dict[str, Entry] = {}
    total = hashlib.blake2b(header.encode(), digest_size=16)
    now = time.time_ns()
    changed = False
    for path in files:
        key = os.path.abspath(path)  # noqa: PTH100
        entry = _entry(path, key, known.get(key))
        changed = changed or entry is not known.get(key)
        if now - entry[1] > RACY_NS:
            mine[key] = entry
        total.update(f"\0{key.removeprefix(base)}\0{entry[-1]}".encode(errors="surrogateescape"))
    others = {key: entry for key, entry in known.items() if not key.startswith(base) and key not in mine}
    if cache is not None and (changed or len(mine) + len(others) != len(known)):
        _write(cache, {"version": VERSION, "files": others | mine})
    return total.hexdigest()


def cache_file(project: Path, dataset: str) -> Path:
    """Where a dataset's hashes are remembered."""
    return project / "data" / "02_intermediate" / dataset / "raw_hashes.json"


def content_hashes(files: Iterable[Path], cache: Path | None) -> dict[Path, tuple[int, str]]:
    """File → (bytes, blake2b of its content in 32 hex digits).

    What `cache` knows of unchanged files is not read again; it is not written. DataError as `hash_files`."""
    known = _read(cache)
    keys = ((path, os.path.abspath(path)) for path in files)  # noqa: PTH100
    entries = ((path, _entry(path, key, known.get(key))) for path, key in keys)
    return {path: (entry[0], entry[-1]) for path, entry in entries}


def remembered(file: Path | None, key: str, make: Callable[[], list[str] | None]) -> list[str]:
    """What `make` returns, or what `file` keeps of it for the same `key`; nothing is kept where it raises."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads(file.read_bytes()) if file is not None else {}
        if content["key"] == key:
            return list(content["names"])
    names = make() or []
    if file is not None:
        _write(file, {"key": key, "names": names})
    return names


def _entry(path: Path, key: str, known: Entry | None) -> Entry:
    """What is `known` of an unchanged file, else its state and hash (behind a URL: its version) now."""
    if (remote := version_of(key)) is not None:
        size, version = remote
        return size, 0, 0, 0, version
    try:
        stat = os.stat(key)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{path} can not be read ({error.strerror}).") from None
    state = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return known if known is not None and known[:-1] == state else (*state, content_hash(path))


def _read(cache: Path | None) -> dict[str, Entry]:
    try:
        content = json.loads(cache.read_bytes()) if cache is not None else {"version": None}
        files = content["files"] if content["version"] == VERSION else {}
        return TypeAdapter(dict[str, Entry]).validate_python(files)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError):
        logger.warning("The cache of file hashes %s is broken; it is made anew.", cache)
        return {}


def _write(cache: Path, content: dict[str, Any]) -> None:
    try:
        for leftover in cache.parent.glob(f".{cache.name}.*.tmp"):  # by a process that was killed
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink(missing_ok=True)
        with atomic_write(cache) as path:
            path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        logger.warning("The cache %s can not be written: %s.", cache, error.strerror)
