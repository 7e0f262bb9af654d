"""The files of a raw folder, and what is wrong with a row or a file of it."""

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from g2d_pipeline.errors import SHOWN, DataError

LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}
# What is known of a folder or file this young is not remembered: it may change again within a clock's tick.
RACY_NS = 2_000_000_000
KEPT_LISTINGS = 8
FEW_FOLDERS = 1000  # that are looked into for a message

Stamp = tuple[int, int, int]  # of a folder: mtime_ns, device, inode
_listings: dict[tuple[str, tuple[str, ...]], tuple[dict[str, Stamp | None], list[str]]] = {}


@dataclass(frozen=True)
class BadRow:
    """A row that can not be used, an entry of the manifest's `dropped`: `row` as the user counts (a header is
    row 1), or None for a file."""

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{place}: {self.reason}"


def few(items: Sequence[object], more: str = "") -> str:
    """The first items, for a note that says how many there are; then `more` where there are others."""
    return ", ".join(map(str, items[:SHOWN])) + (more if len(items) > SHOWN else "")


def is_litter(name: str) -> bool:
    """Whether it is a hidden file or folder, or litter of macOS or Windows."""
    return name.startswith((".", "~$")) or name in LITTER


def list_files(root: Path, skip: Collection[str] = (), at_most: int | None = None) -> list[str]:
    """Every file below `root` as a sorted relative posix path; no hidden files, no litter (`is_litter`).

    `skip`: folders directly below `root` that are left out. `at_most`: folders that are looked into. Links
    are followed, but for one to a folder that it lies in. A `root` that is absent has no files. A listing is
    used again as long as no folder in it has changed: the raw tree is listed once a run. Raises DataError
    for a folder that cannot be read."""
    key = os.path.abspath(root), tuple(sorted(skip))  # noqa: PTH100
    if key in _listings:
        folders, files = _listings.pop(key)
        if all(_stamp(folder) == stamp for folder, stamp in folders.items()):
            _listings[key] = folders, files
            return list(files)
    folders, files, stack = {}, list[str](), [("", frozenset[tuple[int, int]]())]
    started = time.time_ns()
    while stack and (at_most is None or len(folders) < at_most):
        folder, above = stack.pop()
        path = os.path.join(key[0], folder)  # noqa: PTH118
        folders[path] = stamp = _stamp(path)
        here = above | ({stamp[1:]} if stamp else set())
        if here == above and stamp:
            continue
        try:
            entries = list(os.scandir(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{root / folder} can not be read ({error.strerror}).") from None
        for entry in entries:
            name = entry.name
            if is_litter(name) or (not folder and name in skip):
                continue
            if entry.is_dir():
                stack.append((f"{folder}{name}/", here))
            else:
                files.append(f"{folder}{name}")
    files.sort()
    if not stack and all(stamp is not None and stamp[0] < started - RACY_NS for stamp in folders.values()):
        _listings[key] = folders, files
        if len(_listings) > KEPT_LISTINGS:
            del _listings[next(iter(_listings))]
    return list(files)


def _stamp(folder: str) -> Stamp | None:
    try:
        stat = os.stat(folder)  # noqa: PTH116 - a copy may have thousands of folders
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_dev, stat.st_ino
