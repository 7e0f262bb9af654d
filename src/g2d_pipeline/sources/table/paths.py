"""Paths in a user's table: which file a cell names, below one folder, and what is wrong with it."""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from g2d_pipeline.errors import SHOWN, data_error, did_you_mean, media_fault
from g2d_pipeline.features.cells import open_cell, split_cell
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.sources.table.frame import RawTable

FIELD = re.compile(r"\{([^{}]+)\}")


def needed_columns(source: str) -> list[str]:
    """The columns of the table that a column or template (`photos/{name}_{row}.jpg`) needs."""
    return [f for f in FIELD.findall(source) if f not in ("row", "index")] if "{" in source else [source]


def fill(
    source: str, columns: Mapping[str, Sequence[str]], table: RawTable, blanks: bool = False
) -> list[str]:
    """A column, or a template, for each row of `table`: `{index}` is the row's, `{row}` one more, other names
    are of `columns`. "" where a column that the template needs is blank; with `blanks` where all of them are.
    """
    if "{" not in source:
        return list(columns[source])
    form, names = FIELD.sub("%s", source.replace("%", "%%")), FIELD.findall(source)
    index, is_full = table.places["index"].tolist(), any if blanks else all
    cells = {"index": [str(i) for i in index], "row": [str(i + 1) for i in index], **columns}
    rows = zip(index, *(cells[name] for name in names), strict=True)
    return [form % tuple(values) if is_full(values) else "" for _, *values in rows]


def read_paths(table: RawTable, source: str, start: str | None) -> list[str]:
    """The cells of a column, or a template filled; "" where there is nothing. `start`: the folder where paths
    start, below which each table's own folder comes first (None: it does not)."""
    paths = fill(source, {name: table.texts(name).tolist() for name in needed_columns(source)}, table)
    if start is None:
        return paths
    folders = {f: posixpath.relpath(posixpath.dirname(f) or ".", start or ".") for f in table.lengths}
    return [
        posixpath.join(folder, path) if path and folder != "." and "://" not in path else path
        for path, folder in zip(paths, table.places["file"].map(folders), strict=True)
    ]


def check_paths(table: RawTable, sources: Mapping[str, str], paths: dict[str, list[str]], base: Path) -> None:
    """Bring the `paths` of each modality into plain form, in place; rows without a file get a fault.
    DataError where there is no folder `base`, or an array has more rows than the table."""
    if paths and not base.is_dir():
        headline = f"There is no folder {os.fspath(base)!r} for the paths in {table.file}"
        raise data_error(headline, [], "set `root` under `raw`.")
    files = Files(base)
    for name, cells in paths.items():
        for i, cell in enumerate(cells):
            if cell:
                cells[i], fault = files.check(cell)
            else:
                fault = f"no file in column {sources[name]!r}"
            if fault:
                table.faults.setdefault(i, fault)
        if sources[name].endswith(".npy#{index}"):
            _check_lengths(table, cells, base)


def _check_lengths(table: RawTable, cells: Sequence[str], base: Path) -> None:
    """DataError where an array whose rows a template numbers (`features.npy#{index}`) is longer than the
    table: the rows would not be those of the samples."""
    pairs = zip(cells, table.places["file"], strict=True)
    rows = {split_cell(cell)[0]: table.lengths[file] for cell, file in pairs}
    for file, count in rows.items():
        try:
            array = open_cell(file, base)
        except MediaError:  # reported with its samples when it is decoded
            continue
        if array.ndim and len(array) > count:
            numbers = f"{file} has {len(array):,} rows, and {table.file} has {count:,}"
            remedy = "cut the array, or name its rows in a column (`features.npy#12`)."
            raise data_error(f"{numbers}: they are of different data", [], remedy)


def path_ids(table: RawTable, paths: Sequence[str] | None) -> list[str]:
    """The paths without ending, with the row's number where that repeats; without paths, the number alone.
    Where there are several tables, the table's name is before the number."""
    places = zip(table.places["file"], table.places["row"], strict=True)
    rows = [f"{file}:row{row}" if table.several else f"row{row}" for file, row in places]
    if paths is None:
        return rows
    stems = [str(path.with_suffix("")) if path.name else "" for path in map(PurePosixPath, paths)]
    counts = Counter(stems)
    return [s if s and counts[s] == 1 else f"{s}@{row}" for s, row in zip(stems, rows, strict=True)]


class Files:
    """The files below `root`, each folder listed once and each file opened once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        starts = (os.path.abspath(root), os.path.realpath(root))  # noqa: PTH100
        self.starts = dict.fromkeys(f"{start.rstrip('/')}/" for start in starts)
        self.folders: dict[str, dict[str, None]] = {}
        self.unreadable: dict[str, str] = {}  # folder → why
        self.checked: dict[str, tuple[str, str | None]] = {}
        self.hints = 0

    def check(self, cell: str) -> tuple[str, str | None]:
        """The cell with its path in plain form, and what is wrong with it, as far as its start tells."""
        file, row = split_cell(cell)
        if file not in self.checked:
            self.checked[file] = self._check(file)
        path, fault = self.checked[file]
        return path if row is None else f"{path}#{row}", fault

    def plain(self, file: str) -> tuple[str, str | None]:
        """A path relative to `root` in plain form, and why it is none: only what is declared is read.

        Absolute paths into `root` are made relative. Symbolic links are followed wherever they lead: who put
        them there has declared them."""
        if "://" in file:
            return file, f"{file!r} is an address: download the file, and name it"
        path = posixpath.normpath(file)
        if path.startswith("/"):
            folder, name = posixpath.split(path)
            path = self._inside(path) or self._inside(f"{os.path.realpath(folder)}/{name}") or path
        absolute = path.startswith("/") or PureWindowsPath(path).is_absolute()
        if absolute or path == ".." or path.startswith("../"):
            leads = "is an absolute path that leads" if absolute else "leads"
            return file, f"{file!r} {leads} out of {self.root}: set `root` to the folder where paths start"
        if path == ".":
            return file, f"{file!r} names no file"
        return path if path.isascii() else self._spell(path), None

    def _inside(self, path: str) -> str | None:
        """An absolute path relative to `root`; None: it is not below it."""
        return next((path.removeprefix(start) for start in self.starts if path.startswith(start)), None)

    def _check(self, file: str) -> tuple[str, str | None]:
        path, fault = self.plain(file)
        if fault:
            return path, fault
        folder, _, name = path.rpartition("/")
        names = self._names(folder)
        if folder in self.unreadable:
            return file, f"folder {folder!r} can not be read ({self.unreadable[folder]})"
        if name not in names and ";" in path:
            return file, f"{file!r} names several files: give each a column and a modality of its own"
        if name not in names:
            return file, f"{file!r} is missing{self._spelling(path)}"
        fault = media_fault(self.root / path)
        if fault and (self.root / path).is_dir():  # a folder of images is a video
            fault = None if self._names(path) else "is an empty folder"
        return path, fault and f"{file!r} {fault}"

    def _names(self, folder: str) -> Collection[str]:
        """The names in a folder, sorted; none where it is absent or `unreadable`."""
        if folder not in self.folders:
            names: list[str] = []
            try:
                names = sorted(os.listdir(self.root / folder))  # noqa: PTH208
            except OSError as error:
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self.unreadable[folder] = str(error.strerror)
            self.folders[folder] = {n: None for n in names if not n.startswith("._") and n != ".DS_Store"}
        return self.folders[folder]

    def _spell(self, path: str) -> str:
        """The path as the disk spells it: letters may be composed there, or not (Unicode NFC and NFD)."""
        right: list[str] = []
        for part in path.split("/"):
            names = self._names("/".join(right))
            forms = {unicodedata.normalize("NFC", name): name for name in names}
            right.append(part if part in names else forms.get(unicodedata.normalize("NFC", part), part))
        return "/".join(right)

    def _spelling(self, path: str) -> str:
        """The right spelling of a missing path, where one is near; the first few only."""
        self.hints += 1
        if self.hints > SHOWN:
            return ""
        slashed = path.replace("\\", "/")
        folder, _, base = slashed.rpartition("/")
        if slashed != path and base in self._names(folder):
            return f"; it is there as {slashed!r} (slashes differ)"
        right: list[str] = []
        for part in slashed.split("/"):
            names = self._names("/".join(right))
            by_name = {n.strip().casefold(): n for n in names}
            by_stem = {PurePosixPath(n).stem.casefold(): n for n in names}
            match = part if part in names else by_name.get(part.strip().casefold())
            if match is None and (match := by_stem.get(PurePosixPath(part).stem.casefold())) is not None:
                return f"; it is there as {'/'.join([*right, match])!r} (the ending differs)"
            if match is None:  # of numbered files any other is near: only folders are suggested
                return f".{did_you_mean(part, names)}".rstrip(".") if len(right) < path.count("/") else ""
            right.append(match)
        return f"; it is there as {'/'.join(right)!r} (case or blanks differ)"
