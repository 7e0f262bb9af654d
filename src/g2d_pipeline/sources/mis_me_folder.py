"""Where things are in a MIS-ME folder, and what is wrong with names that its tables give (datasets.md §5.1,
5.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import nearest

if TYPE_CHECKING:
    from g2d_pipeline.config import Split

IMAGE_FOLDER = "Dataset_Conf_0.5/all_three_stations/images"
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
STATION = re.compile(r"(?P<station>.+)_only_test_set\.xlsx")


@dataclass(frozen=True)
class LabelFiles:
    """Relative paths: of each split's table, and of the test tables of single stations."""

    splits: dict[Split, str]
    stations: dict[str, str]


def find_labels(files: Sequence[str], root: Path, expected: str) -> LabelFiles:
    """split → file and station → file, found by `*_train_set.xlsx` anywhere below the raw folder `root`.

    `files`: everything in it (`list_files`). Raises DataError where there is none, more than one, or one of
    three is missing."""
    found = [f for f in files if f.endswith("_train_set.xlsx")]
    combined = [f for f in found if PurePosixPath(f).name.startswith("combined")] or found
    if not combined:
        tables = [f for f in files if f.lower().endswith((".xlsx", ".xls", ".csv"))]
        headline = f"There is no *_train_set.xlsx below {root}" + ("; the tables there" if tables else "")
        raise data_error(headline, tables, expected)
    if len(combined) > 1:
        raise data_error(
            f"Several train sets below {root}", combined, "keep one copy, or set raw_dir deeper."
        )
    train = combined[0]
    stem = train.removesuffix("train_set.xlsx")
    splits: dict[Split, str] = {"train": train, "val": f"{stem}val_set.xlsx", "test": f"{stem}test_set.xlsx"}
    if missing := [f"{f}{nearest(f, files)}" for f in splits.values() if f not in files]:
        raise data_error(f"Label files are missing in {root}", missing, expected)
    folder = train.rpartition("/")[0]
    stations: dict[str, str] = {}
    for f in files:
        parent, _, name = f.rpartition("/")
        match = STATION.fullmatch(name)
        if match and parent == folder and f not in splits.values():
            stations[match["station"]] = f
    return LabelFiles(splits, stations)


def pictures_in(files: Sequence[str]) -> list[str]:
    """Those of `files` that lie in the picture folder, wherever that is."""
    return [f for f in files if f"/{IMAGE_FOLDER}/" in f"/{f}"]


class Pictures:
    """The flat folder of pictures: `names` in it, and what is wrong with a name that a table gives."""

    def __init__(self, root: Path, folder: str, names: Sequence[str]) -> None:
        self.root, self.folder, self.names = root, folder, set(names)
        self.plain = {_plain(name): name for name in names}

    def fault(self, name: str, hints: bool) -> str | None:
        """None: the picture is there and looks whole. `hints`: name the nearest one (slow)."""
        if name in self.names:
            fault = media_fault(self.root / self.folder / name)
            return fault and f"picture {name!r}: {fault}"
        if not hints:
            return f"picture {name!r} is not in the folder"
        if (like := self.plain.get(_plain(name))) is not None:
            return f"picture {name!r} is not in the folder; it is there as {like!r}{_difference(name, like)}"
        return f"picture {name!r} is not in the folder{nearest(name, self.names)}"


def find_pictures(files: Sequence[str], root: Path, expected: str) -> Pictures:
    """The one picture folder among `files`; DataError naming the folders that hold pictures where it is not
    one."""
    inside = pictures_in(files)
    folders = sorted({f[: f"/{f}".index(f"/{IMAGE_FOLDER}/") + len(IMAGE_FOLDER)] for f in inside})
    if len(folders) > 1:
        raise data_error(f"Several picture folders below {root}", folders, "keep one, or set raw_dir deeper.")
    if not folders:
        others = sorted({f.rpartition("/")[0] or "." for f in files if f.lower().endswith(PICTURES)})
        what = "; pictures are in" if others else ", and no picture anywhere else"
        raise data_error(f"There is no picture in {root / IMAGE_FOLDER}{what}", others, expected)
    return Pictures(root, folders[0], [f.removeprefix(f"{folders[0]}/") for f in inside])


def _plain(name: str) -> str:
    """A name without folder, ending, blanks and case."""
    return re.sub(r"\s+", "", PurePosixPath(name.replace("\\", "/")).stem).casefold()


def _difference(name: str, like: str) -> str:
    if "/" in name or "\\" in name:
        return " (the table has a folder before the name)"
    if name.casefold() == like.casefold():
        return " (upper and lower case differ)"
    if re.sub(r"\s+", "", name) == re.sub(r"\s+", "", like):
        return " (blanks differ)"
    return " (the ending differs)"
