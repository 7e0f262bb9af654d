"""VGGSound's lists: `vggsound.csv` (id, start, label, split) and `train.csv`, `test.csv` (file name, label)
(§3.1)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import BadRow, nearest

LIST = re.compile(r"(?:.*/)?(?P<name>vggsound[^/]*|train|test)\.csv", re.IGNORECASE)
VIDEO = r"[A-Za-z0-9_-]{11}"  # a YouTube id: its fixed length is what makes names with underscores readable
FILE = re.compile(rf"(?P<video>{VIDEO})_(?P<start>[0-9]+)(?:\.[A-Za-z0-9]+)?")
SPLITS = ("train", "test")
AGAIN = "copy the list again from github.com/hche11/VGGSound, folder data; do not save it from a spreadsheet program."


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


@dataclass(frozen=True)
class Lists:
    """The clips in the lists' order, each once; rows that can not be used; what is worth telling."""

    clips: list[Clip]
    bad: list[BadRow]
    notes: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """The 309 published names, sorted: a class's number never depends on what is missing on a disk (§3.2)."""
    path = Path(__file__).with_name("vggsound_classes.txt")
    return tuple(path.read_text(encoding="utf-8").splitlines())


def find_lists(files: Sequence[str]) -> list[str]:
    """Those of `files` (sorted) that are lists, in the folder nearest to the root that holds any."""
    found = [f for f in files if LIST.fullmatch(f)]
    if not found:
        return []
    nearest_folder = min(
        (f.rpartition("/")[0] for f in found), key=lambda folder: (folder.count("/"), folder)
    )
    return [f for f in found if f.rpartition("/")[0] == nearest_folder]


def read_lists(root: Path, files: Sequence[str]) -> Lists:
    """All rows of the lists `files`, parsed; a clip that several rows agree on is one clip.

    Rows whose id, start, label or split can not be read, or that contradict an earlier one, are `bad`. Raises
    DataError where a list can not be read at all."""
    clips: dict[str, Clip] = {}
    bad: list[BadRow] = []
    notes: list[str] = []
    repeated = 0
    for file in files:
        rows = _rows(root / file)
        of_split = file.rpartition("/")[2].rpartition(".")[0].lower()
        width = 2 if of_split in SPLITS and rows and len(rows[0][1]) == 2 else 4
        if rows and _is_header(rows[0][1], width):
            notes.append(f"{file}: its first line is a header ({', '.join(rows.pop(0)[1])}).")
        for number, cells in rows:
            clip = _clip([*cells, of_split] if width == 2 else cells, width, file, number)
            if isinstance(clip, str):
                bad.append(BadRow(file, number, clip))
                continue
            known = clips.setdefault(clip.name, clip)
            if known is clip:
                continue
            if (known.label, known.split) == (clip.label, clip.split):
                repeated += 1
            else:
                told = f"{known.file}, row {known.row} has it as {known.label!r} in {known.split}"
                bad.append(BadRow(file, number, f"{clip.name} is {clip.label!r} in {clip.split}; {told}"))
    if repeated:
        notes.append(f"{repeated} rows of the lists repeat an earlier one.")
    return Lists(list(clips.values()), bad, notes)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of each line that is not blank."""
    if fault := media_fault(path):
        raise data_error(f"{path} {fault}", [], AGAIN)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            return [
                (reader.line_num, [c.strip() for c in cells])
                for cells in reader
                if any(map(str.strip, cells))
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise data_error(f"{path} is no CSV text in UTF-8 ({error})", [], AGAIN) from None


def _is_header(cells: Sequence[str], width: int) -> bool:
    if len(cells) != width:
        return False
    if width == 2:
        return not FILE.fullmatch(cells[0]) and cells[1] not in class_names()
    return _whole(cells[1]) is None and cells[3].lower() not in SPLITS


def _clip(cells: Sequence[str], width: int, file: str, number: int) -> Clip | str:
    """The clip of a row, `[id, start, label, split]` or `[file name, label, split]`, or why there is none."""
    if len(cells) != (4 if width == 4 else 3):
        form = "id, start, label, split" if width == 4 else "file name, label"
        count = len(cells) - (width == 2)
        return f"has {count} cells, not {width} ({form}): a label with a comma stands in quotes, and commas part cells"
    *where, label, split = cells
    if width == 2:
        match = FILE.fullmatch(where[0])
        if match is None:
            return f"{where[0]!r} is not <id of 11 characters>_<start>.mp4{_CHANGED}"
        video, start = match["video"], int(match["start"])
    else:
        video, second = where
        if not re.fullmatch(VIDEO, video):
            return f"id {video!r} is not 11 letters, digits, - and _{_CHANGED}"
        whole = _whole(second)
        if whole is None:
            return f"start {second!r} is no whole number of seconds"
        start = whole
    if (fault := _label_fault(label)) is not None:
        return fault
    if split.lower() not in SPLITS:
        return f"split {split!r} is neither train nor test{nearest(split, SPLITS)}"
    return Clip(video, start, label, split.lower(), file, number)


_CHANGED = " (a spreadsheet program may have changed it)"


def _whole(text: str) -> int | None:
    return int(text.partition(".")[0]) if re.fullmatch(r"[0-9]+(?:\.0+)?", text) else None


@lru_cache(maxsize=1024)
def _label_fault(label: str) -> str | None:
    names = class_names()
    if label in names:
        return None
    whole = next(
        (f" (cut at its comma: {name!r})" for name in names if label and name.startswith(f"{label},")), None
    )
    return f"label {label!r} is not one of the {len(names)}{whole or nearest(label, names)}"
