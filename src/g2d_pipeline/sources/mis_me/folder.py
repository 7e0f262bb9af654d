"""Where things are in a MIS-ME folder, and faults of names in its tables (datasets.md §5.1, §5.5)."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from g2d_pipeline.config import SPLITS, Split
from g2d_pipeline.errors import data_error, did_you_mean, media_fault

IMAGE_FOLDER = "Dataset_Conf_0.5/all_three_stations/images"
LABEL_FOLDER = "labels/classification"
WEATHER = (
    "air_temperature", "relative_humidity", "precipitation", "solar_flux_density", "wind_speed",
    "barometric_pressure", "tilt_north_south", "tilt_west_east",
)  # fmt: skip
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
STATION = re.compile(r"(?P<station>.+)_only_test_set\.xlsx")


def find_labels(files: Sequence[str], root: Path, expected: str) -> tuple[dict[Split, str], dict[str, str]]:
    """(split → its table, station → its test table), found by `*_train_set.xlsx` anywhere below `root`.

    `files`: everything in it. DataError: there is none, more than one, or one of three is missing."""
    tables = [f for f in files if f.endswith("_train_set.xlsx")]
    tables = [f for f in tables if PurePosixPath(f).name.startswith("combined")] or tables
    if not tables:
        others = [f for f in files if f.lower().endswith((".xlsx", ".xls", ".csv"))]
        headline = f"There is no *_train_set.xlsx below {root}" + ("; the tables there" if others else "")
        raise data_error(headline, others, expected)
    if len(tables) > 1:
        raise data_error(f"Several train sets below {root}", tables, "keep one copy, or set raw_dir deeper.")
    stem = tables[0].removesuffix("train_set.xlsx")
    splits = {split: f"{stem}{split}_set.xlsx" for split in SPLITS}
    if missing := [f"{f}.{did_you_mean(f, files)}" for f in splits.values() if f not in files]:
        raise data_error(f"Label files are missing in {root}", missing, expected)
    folder = tables[0].rpartition("/")[0]
    beside = [f for f in files if f.rpartition("/")[0] == folder and f not in splits.values()]
    matches = ((f, STATION.fullmatch(f.rpartition("/")[2])) for f in beside)
    return splits, {match["station"]: f for f, match in matches if match}


def images_in(files: Sequence[str]) -> list[str]:
    """Those of `files` that lie in the image folder, wherever that is."""
    return [f for f in files if f"/{IMAGE_FOLDER}/" in f"/{f}"]


class Images:
    """The flat folder of images: `names` in it, and what is wrong with a name that a table gives."""

    def __init__(self, root: Path, folder: str, names: Sequence[str]) -> None:
        self.root, self.folder, self.names = root, folder, set(names)
        self.plain = {_plain(name): name for name in names}

    def fault(self, name: str, hints: bool) -> str | None:
        """None: the image is there, and its first bytes are in order. `hints`: name the nearest (slow)."""
        if name in self.names:
            fault = media_fault(self.root / self.folder / name)
            return fault and f"picture {name!r}: {fault}"
        fault = f"picture {name!r} is not in the folder"
        if hints and (near := self.plain.get(_plain(name))) is not None:
            return f"{fault}; it is there as {near!r} ({_difference(name, near)})"
        return f"{fault}.{did_you_mean(name, self.names)}" if hints else fault


def find_images(files: Sequence[str], root: Path, expected: str) -> Images:
    """The one image folder. Raises DataError naming the folders that hold images where it is not one."""
    inside = images_in(files)
    folders = sorted({f[: f"/{f}".index(f"/{IMAGE_FOLDER}/") + len(IMAGE_FOLDER)] for f in inside})
    if len(folders) > 1:
        raise data_error(f"Several picture folders below {root}", folders, "keep one, or set raw_dir deeper.")
    if not folders:
        others = sorted({f.rpartition("/")[0] or "." for f in files if f.lower().endswith(IMAGES)})
        what = "; pictures are in" if others else ", and no picture anywhere else"
        raise data_error(f"There is no picture in {root / IMAGE_FOLDER}{what}", others, expected)
    return Images(root, folders[0], [f.removeprefix(f"{folders[0]}/") for f in inside])


def _plain(name: str) -> str:
    """A name without folder, ending, blanks and case."""
    return re.sub(r"\s+", "", PurePosixPath(name.replace("\\", "/")).stem).casefold()


def _difference(name: str, near: str) -> str:
    if "/" in name or "\\" in name:
        return "the table has a folder before the name"
    if name.casefold() == near.casefold():
        return "upper and lower case differ"
    return "blanks differ" if re.sub(r"\s+", "", name) == re.sub(r"\s+", "", near) else "the ending differs"
