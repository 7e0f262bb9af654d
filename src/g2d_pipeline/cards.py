"""Stage cards, and folders that are whole or absent."""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from g2d_pipeline.errors import DataError
from g2d_pipeline.files import atomic_write, content_hash, fingerprint

CARD = "stage.json"
LIBRARIES = ("kedro", "numpy", "pandas", "tokenizers", "torch", "torchaudio", "torchvision", "scikit-learn")


@dataclass(frozen=True)
class Clock:
    """Wall and CPU seconds since `start` (CPU time of child processes included)."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Self:
        return cls(time.monotonic(), sum(os.times()[:4]))

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": round(time.monotonic() - self.wall, 3),
            "cpu_seconds": round(sum(os.times()[:4]) - self.cpu, 3),
        }


def versions() -> dict[str, str]:
    """The versions of Python, of this library and of the libraries that shape its numbers."""
    installed = {"python": platform.python_version()}
    for name in ("g2d-pipeline", *LIBRARIES):
        installed[name] = "not installed"
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def read_card(folder: Path) -> dict[str, Any] | None:
    """The stage card of a folder; None where there is none, or a torn one: the artefact counts as absent."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return card if isinstance(card, dict) else None


def write_card(folder: Path, card: dict[str, Any], clock: Clock, content: str) -> None:
    """Write the stage card, with the hash of the artefact's content, its time, the versions in use and, where
    torch is imported, its number of threads, which decides the order of sums."""
    torch = sys.modules.get("torch")
    threads = {} if torch is None else {"threads": torch.get_num_threads()}
    card = card | {"content": content, **threads} | clock.read() | {"versions": versions()}
    text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with atomic_write(folder / CARD) as path:
        path.write_text(text, encoding="utf-8")


def folder_content(folder: Path) -> str:
    """The hash of every file below `folder`, by name and content, without the stage card."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / CARD)
    return fingerprint([(f.relative_to(folder).as_posix(), content_hash(f)) for f in files])


def is_fresh(folder: Path, expected: str) -> bool:
    """Whether the folder holds a whole artefact of this fingerprint."""
    card = read_card(folder)
    return card is not None and card.get("fingerprint") == expected


def require_fresh(folder: Path, expected: str, name: str) -> None:
    """Raise DataError unless the artefact is there and fresh: a stale one is never read."""
    if not is_fresh(folder, expected):
        remedy = "`kedro run` without --nodes and the like makes what is missing."
        raise DataError(f"{name}: {folder} does not hold the artefact {expected}. {remedy}")


def partial_folder(folder: Path) -> Path:
    """The folder in which the artefact `folder` is written before it is whole."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def whole_folder(
    folder: Path,
    card: dict[str, Any],
    clock: Clock,
    keep_partial: bool = False,
    content: Callable[[Path], str] = folder_content,
) -> Iterator[Path]:
    """Write an artefact so that it is there whole or not at all.

    Yields a private folder beside the final one; when the block succeeds, the stage card is added, with the
    hash of what `content` reads, and the folder renamed into place. `keep_partial`: the files of a killed run
    stay there, for a writer that resumes from them."""
    partial, old = partial_folder(folder), folder.with_name(folder.name + ".old")
    if not keep_partial:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
    except BaseException:
        if not keep_partial:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    write_card(partial, card, clock, content(partial))
    for file in partial.rglob("*"):
        _sync(file)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    partial.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
