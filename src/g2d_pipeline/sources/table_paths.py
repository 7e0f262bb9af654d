"""Paths in a user's table: which file a cell means, below one folder, and what is wrong with it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from g2d_pipeline.errors import SHOWN, media_fault
from g2d_pipeline.features.cells import split_cell
from g2d_pipeline.sources.faults import nearest

FIELD = re.compile(r"\{([^{}]+)\}")


def fields(template: str) -> list[str]:
    """The names in braces of a template: columns, `row` and `index`."""
    return FIELD.findall(template)


def fill(
    template: str, columns: Mapping[str, Sequence[str]], index: Sequence[int], blanks: bool = False
) -> list[str]:
    """The template for each row: `{index}` is the row's of `index`, `{row}` one more, other names are
    columns.

    "" where a column that the template needs is blank in the row; with `blanks` where all of them are.
    """
    parts = FIELD.split(template)  # text, name, text, name, … text
    names = parts[1::2]
    filled = []
    for i, number in enumerate(index):
        values = {
            name: columns[name][i] if name in columns else str(number + (name == "row")) for name in names
        }
        full = (any if blanks else all)(values.values())
        filled.append("".join(values[p] if k % 2 else p for k, p in enumerate(parts)) if full else "")
    return filled


class Files:
    """The files below `root`, each folder listed once and each file looked at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real = os.path.realpath(root)
        self.folders: dict[str, dict[str, bool] | str] = {}
        self.known: dict[str, tuple[str, str | None]] = {}
        self.hints = 0

    def check(self, cell: str) -> tuple[str, str | None]:
        """The cell with its path in plain form, and what is wrong with it; None: it can be read, as far as
        one sees."""
        file, row = split_cell(cell)
        if file not in self.known:
            self.known[file] = self._check(file)
        path, fault = self.known[file]
        return path if row is None else f"{path}#{row}", fault

    def _check(self, file: str) -> tuple[str, str | None]:
        if "://" in file:
            return file, f"{file!r} is an address: download the file, and name it"
        if PurePosixPath(file).is_absolute() or PureWindowsPath(file).is_absolute():
            return (
                file,
                f"{file!r} is an absolute path: write it relative to {self.root}{self._relative(file)}",
            )
        path = posixpath.normpath(file)
        if path == ".." or path.startswith("../"):
            return file, f"{file!r} leads out of {self.root}: set `root` to the folder where paths start"
        folder, _, name = path.rpartition("/")
        listing = self._listing(folder)
        if isinstance(listing, str):
            return file, listing
        if name not in listing and ";" in path:
            return file, f"{file!r} names several files: give each a column and a modality of its own"
        if name not in listing:
            return file, f"{file!r} is missing{self._spelling(path)}"
        if listing[name] and not self._inside(path):
            return (
                file,
                f"{file!r} is a symbolic link that leads out of {self.root}: copy the file, or set `root`",
            )
        fault = media_fault(self.root / path)
        if fault and (self.root / path).is_dir():  # a folder of pictures is a video
            inside = self._listing(path)
            fault = None if inside and not isinstance(inside, str) else "is an empty folder"
        return path, fault and f"{file!r} {fault}"

    def _listing(self, folder: str) -> dict[str, bool] | str:
        """What is in a folder, each with whether it is a symbolic link; empty: there is none; a text: out of
        bounds."""
        if folder not in self.folders:
            if not self._inside(folder):
                self.folders[folder] = (
                    f"folder {folder!r} is a symbolic link that leads out of {self.root}: copy it, or set `root`"
                )
            else:
                try:
                    with os.scandir(self.root / folder) as entries:
                        found = {e.name: e.is_symlink() for e in entries if not e.name.startswith("._")}
                except (FileNotFoundError, NotADirectoryError):
                    found = {}
                except OSError as error:
                    self.folders[folder] = f"folder {folder!r} can not be read ({error.strerror})"
                    return self.folders[folder]
                self.folders[folder] = {n: link for n, link in found.items() if n != ".DS_Store"}
        return self.folders[folder]

    def _inside(self, path: str) -> bool:
        real = os.path.realpath(self.root / path)
        return real == self.real or real.startswith(self.real.rstrip(os.sep) + os.sep)

    def _relative(self, file: str) -> str:
        real = os.path.realpath(file)
        inside = real.startswith(self.real.rstrip(os.sep) + os.sep)
        return f", here {PurePosixPath(os.path.relpath(real, self.real))}" if inside else ", or set `root`"

    def _spelling(self, path: str) -> str:
        """The right spelling of a missing path, where one is near; the first few only."""
        self.hints += 1
        if self.hints > SHOWN:
            return ""
        if "\\" in path and self._is_there(slashed := path.replace("\\", "/")):
            return f"; it is there as {slashed!r} (slashes differ)"
        right: list[str] = []
        for part in path.replace("\\", "/").split("/"):
            listing = self._listing("/".join(right))
            names = [] if isinstance(listing, str) else list(listing)
            plain = {n.strip().casefold(): n for n in names}
            stems = {PurePosixPath(n).stem.casefold(): n for n in names}
            like = part if part in names else plain.get(part.strip().casefold())
            if like is None and (like := stems.get(PurePosixPath(part).stem.casefold())) is not None:
                return f"; it is there as {'/'.join([*right, like])!r} (the ending differs)"
            if like is None:  # of numbered files any other is near: only folders are suggested
                return nearest(part, names) if len(right) < path.count("/") else ""
            right.append(like)
        return f"; it is there as {'/'.join(right)!r} (case or blanks differ)"

    def _is_there(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self._listing(folder)
