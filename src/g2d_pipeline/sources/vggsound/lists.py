"""VGGSound's lists: `vggsound.csv` (id, start, label, split); `train.csv`, `test.csv` (name, label)."""

import csv
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from g2d_pipeline.errors import data_error, did_you_mean, media_fault
from g2d_pipeline.sources.faults import BadRow

LIST = re.compile(r"(?:.*/)?(?P<name>vggsound[^/]*|train|test)\.csv", re.IGNORECASE)
VIDEO = r"[A-Za-z0-9_-]{11}"  # a YouTube id: its fixed length is what makes names with underscores readable
FILE = re.compile(rf"(?P<video>{VIDEO})_(?P<start>[0-9]+)(?:\.[A-Za-z0-9]+)?")
WHOLE = re.compile(r"[0-9]+(?:\.0+)?")
SPLITS = ("train", "test")
COPY_AGAIN = (
    "copy the list again from github.com/hche11/VGGSound, folder data; do not save it from a spreadsheet."
)


class Clip(NamedTuple):
    """A row of a list: ten seconds of a video. `row`: the line in `file`, from 1."""

    video: str
    start: int
    label: str
    split: str
    file: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.video}_{self.start:06d}"


class Lists(NamedTuple):
    """The clips in the lists' order, each once, rows that can not be used, and notes for the manifest."""

    clips: list[Clip]
    bad: list[BadRow]
    notes: list[str]


@lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """The 309 published names, sorted: a class's number never depends on what is missing on a disk (§3.2)."""
    return tuple(Path(__file__).with_name("classes.txt").read_text(encoding="utf-8").splitlines())


def find_lists(files: Sequence[str]) -> list[str]:
    """Those of `files` (sorted) that are lists, in the folder nearest to the root that holds any."""
    lists = [file for file in files if LIST.fullmatch(file)]
    folders = [file.rpartition("/")[0] for file in lists]
    nearest = min(folders, key=lambda folder: (folder.count("/"), folder), default="")
    return [file for file, folder in zip(lists, folders, strict=True) if folder == nearest]


def read_lists(root: Path, files: Sequence[str]) -> Lists:
    """All rows of the lists `files`; a clip that several rows agree on is one clip.

    Rows whose id, start, label or split can not be read, or that contradict an earlier one, are `bad`. Raises
    DataError where a list can not be read at all."""
    clips: dict[str, Clip] = {}
    lists, repeated = Lists([], [], []), 0
    for file in files:
        rows = _rows(root / file)
        split = Path(file).stem.lower()
        file_split = split if split in SPLITS and rows and len(rows[0][1]) == 2 else None
        if rows and _is_header(rows[0][1], file_split is not None):
            lists.notes.append(f"{file}: its first line is a header ({', '.join(rows.pop(0)[1])}).")
        for number, cells in rows:
            try:
                clip = _clip(cells, file_split, file, number)
                known = clips.setdefault(clip.name, clip)
                if (known.label, known.split) != (clip.label, clip.split):
                    earlier = f"{known.file}, row {known.row} has it as {known.label!r} in {known.split}"
                    raise ValueError(f"{clip.name} is {clip.label!r} in {clip.split}; {earlier}")
                repeated += known is not clip
            except ValueError as error:
                lists.bad.append(BadRow(file, number, str(error)))
    lists.clips.extend(clips.values())
    if repeated:
        lists.notes.append(f"{repeated} rows of the lists repeat an earlier one.")
    return lists


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of each line that is not blank."""
    if fault := media_fault(path):
        raise data_error(f"{path} {fault}", [], COPY_AGAIN)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise data_error(f"{path} is no CSV text in UTF-8 ({error})", [], COPY_AGAIN) from None
    return [(line, cells) for line, cells in rows if any(cells)]


def _is_header(cells: Sequence[str], has_file_names: bool) -> bool:
    if has_file_names:
        return not FILE.fullmatch(cells[0]) and cells[1] not in class_names()
    return len(cells) == 4 and not WHOLE.fullmatch(cells[1]) and cells[3].lower() not in SPLITS


def _clip(cells: Sequence[str], file_split: str | None, file: str, row: int) -> Clip:
    """The clip of a row; where the file has a split, `file_split`, it has only name and label. ValueError."""
    width, form = (4, "id, start, label, split") if file_split is None else (2, "file name, label")
    changed = " (a spreadsheet program may have changed it)"
    if len(cells) != width:
        advice = "a label with a comma stands in quotes, and commas part cells"
        raise ValueError(f"has {len(cells)} cells, not {width} ({form}): {advice}")
    if file_split is not None:
        if (match := FILE.fullmatch(cells[0])) is None:
            raise ValueError(f"{cells[0]!r} is not <id of 11 characters>_<start>.mp4{changed}")
        cells = [*match.group("video", "start"), cells[1], file_split]
    video, start, label, split = cells
    if not re.fullmatch(VIDEO, video):
        raise ValueError(f"id {video!r} is not 11 letters, digits, - and _{changed}")
    if not WHOLE.fullmatch(start):
        raise ValueError(f"start {start!r} is no whole number of seconds")
    if fault := _label_fault(label):
        raise ValueError(fault)
    if split.lower() not in SPLITS:
        raise ValueError(f"split {split!r} is neither train nor test.{did_you_mean(split, SPLITS)}")
    return Clip(video, int(start.partition(".")[0]), label, split.lower(), file, row)


@lru_cache(maxsize=1024)
def _label_fault(label: str) -> str | None:
    names = class_names()
    if label in names:
        return None
    cut = [f" It is cut at its comma: {name!r}." for name in names if label and name.startswith(f"{label},")]
    hint = cut[0] if cut else did_you_mean(label, names)
    return f"label {label!r} is not one of the {len(names)}.{hint}"
