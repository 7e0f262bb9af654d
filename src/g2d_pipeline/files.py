"""Files that are whole or absent, and hashes of their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from g2d_pipeline.errors import DataError


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


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits of plain data (as canonical JSON)."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
