"""Which clip is in which split of CREMA-D: the field's two lists, or a draw of actors (datasets.md §1.2)."""

import contextlib
import csv
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from g2d_pipeline.config import Split
from g2d_pipeline.errors import data_error, did_you_mean, media_fault
from g2d_pipeline.sources.crema_d.clips import EMOTIONS, FORM, Clip
from g2d_pipeline.sources.faults import BadRow

LISTS: dict[str, Split] = {"train.csv": "train", "test.csv": "test"}
CLASSES = "stat.csv"
SHIPPED = Path(__file__).with_name("split.csv")
# `digest` of the field's 744 test clips
PUBLISHED = "2a5837cebb2d83802e4b9272ec67c5f4d72291abb9bbcb93e56b05c7535585e6"
DIGEST = "SHA-256 of the sorted test clips"
TEST_ACTORS = 0.1


class Row(NamedTuple):
    """A clip's place in a list: `file` and `row` (from 1) for messages; no row: our own list."""

    clip: Clip
    split: Split
    file: str = SHIPPED.name
    row: int | None = None

    def bad(self, reason: str) -> BadRow:
        if self.row is None:
            return BadRow(self.clip.name, None, f"{reason} ({self.split})")
        return BadRow(self.file, self.row, reason)


@dataclass
class Lists:
    """Every clip of the splits, in the order of their names, and the rows that can not be used."""

    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def published(root: Path, files: Sequence[str], val_fraction: float, seed: int) -> Lists:
    """The split of train.csv and test.csv below `root`, else of our own list; val is drawn from train.

    The draw is stratified by class and depends on the list and `seed` alone: clips that turn out to be
    missing change it no more than the order of the rows. Rows whose name or label is wrong are in `bad`.
    Raises DataError for files that are no such lists, clips listed twice, and classes too small to split."""
    tables = _find_tables(files, root)
    lists = _read(root, tables)
    _check_repeats(lists.rows)
    lists.rows.sort()
    train = [row.clip for row in lists.rows if row.split == "train"]
    val = _draw_val(train, val_fraction, seed)
    lists.rows = [row._replace(split="val") if row.clip in val else row for row in lists.rows]
    test = [row.clip.name for row in lists.rows if row.split == "test"]
    what, key = "the field's published split", digest(test)
    what = what if key == PUBLISHED else f"NOT {what} (other test clips)"
    where = " and ".join(tables) or "the list that comes with g2d_pipeline"
    lists.notes.append(
        f"Split: {what}, from {where}: {len(train):,} train clips, of which {len(val):,} are held out as val "
        f"(stratified), and {len(test):,} test clips; every actor may be in all of them. {DIGEST}: {key}."
    )
    for file in [f for f in files if f.rpartition("/")[2] == CLASSES][:1]:
        listed: list[str] = []
        with contextlib.suppress(UnicodeDecodeError):
            listed = (root / file).read_text(encoding="utf-8-sig").split()
        if tuple(listed) != EMOTIONS:  # numbers of classes must not be taken from it
            order, classes = ", ".join(listed[:10]) or "nothing that can be read", ", ".join(EMOTIONS)
            lists.notes.append(f"{file} lists {order}; the classes here are {classes}, in this order.")
    return lists


def speakers(clips: Iterable[Clip], val_fraction: float, seed: int, what: str) -> Lists:
    """Whole actors drawn into val (the share `val_fraction`), test (a tenth) and train, at least one each.

    Raises DataError where there are fewer than three actors; `what`: where the clips are, for messages."""
    import numpy as np

    clips = sorted(clips)
    actors = sorted({clip.actor for clip in clips})
    if len(actors) < 3:
        held = f"{what} holds {len(clips)} clips of {len(actors)}"
        remedy = "add clips of other actors, or set split=published."
        raise data_error(f"split=speakers needs three actors at least; {held}", actors, remedy)
    mixed = [actors[i] for i in np.random.default_rng([seed, 1]).permutation(len(actors))]
    test = max(1, round(TEST_ACTORS * len(actors)))
    val = min(max(1, round(val_fraction * len(actors))), len(actors) - test - 1)
    splits: dict[str, Split] = dict.fromkeys(mixed, "train")
    splits |= dict.fromkeys(mixed[:test], "test") | dict.fromkeys(mixed[test : test + val], "val")
    key = digest([clip.name for clip in clips if splits[clip.actor] == "test"])
    note = (
        f"Split: no actor in two splits ({len(actors) - val - test} / {val} / {test} actors); harder than "
        f"the published one and not comparable with it. {DIGEST}: {key}."
    )
    return Lists([Row(clip, splits[clip.actor]) for clip in clips], notes=[note])


def digest(clips: Collection[str]) -> str:
    """SHA-256 of the sorted names, one a line: what tells two test sets of the same size apart (§1.2)."""
    return hashlib.sha256("\n".join(sorted(clips)).encode()).hexdigest()


def _find_tables(files: Sequence[str], root: Path) -> list[str]:
    """[train.csv, test.csv] among `files`, or nothing where there is neither. Raises DataError where one of
    them is missing, or where there are several pairs."""
    tables = [f for f in files if f.rpartition("/")[2] in LISTS]
    folders = {f.rpartition("/")[0] for f in tables}
    if len(folders) > 1:
        remedy = "keep one train.csv and one test.csv."
        raise data_error(f"Several lists of the split below {root}", tables, remedy)
    for folder in folders:
        names = [f.rpartition("/")[2] for f in files if f.rpartition("/")[0] == folder]
        missing = [f"{name} is missing.{did_you_mean(name, names)}" for name in LISTS if name not in names]
        if missing:
            remedy = (
                "put both files of one split there, or neither: the field's split is then taken from the "
                "list that comes with g2d_pipeline; or set split=speakers."
            )
            raise data_error(f"The split's lists in {root / folder} are incomplete", missing, remedy)
    return sorted(tables, reverse=True)


def _read(root: Path, tables: Sequence[str]) -> Lists:
    """The rows of `tables`, or of our own list where there are none."""
    lists = Lists()
    if not tables:
        lines = [line for line in SHIPPED.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
        for name, split in csv.reader(lines[1:]):
            if clip := Clip.parse(name):
                lists.rows.append(Row(clip, LISTS[f"{split}.csv"]))
    for file in tables:
        for number, (name, label) in _cells(root, file):
            clip = Clip.parse(name)
            if clip is not None and label == clip.emotion:
                lists.rows.append(Row(clip, LISTS[file.rpartition("/")[2]], file, number))
                continue
            if clip is None:
                reason = f"{name!r} is no clip's name ({FORM})"
            elif label in EMOTIONS:
                reason = f"{name}: the label {label!r} contradicts the name"
            else:
                near = did_you_mean(label, EMOTIONS)
                reason = f"{name}: the label {label!r} is none of {', '.join(EMOTIONS)}.{near}"
            lists.bad.append(BadRow(file, number, reason))
    return lists


def _cells(root: Path, file: str) -> list[tuple[int, list[str]]]:
    """(row from 1, its two cells) of every row that is not empty; CRLF and a byte-order mark do no harm."""
    path = root / file
    if fault := media_fault(path):
        remedy = "copy it again, or remove both lists: the field's split comes with us."
        raise data_error(f"{path} {fault}", [], remedy)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise data_error(f"{path} is not UTF-8 text ({error.reason})", [], "save it as UTF-8.") from None
    lines = [[cell.strip() for cell in cells] for cells in csv.reader(text.splitlines())]
    rows = [(i, cells) for i, cells in enumerate(lines, 1) if any(cells)]
    remedy = f"the list has no header, and a row a clip: clip,LABEL, e.g. 1001_DFA_ANG_XX,ANG (clip: {FORM})."
    if wrong := [f"{file}, row {i}: {','.join(cells)[:60]!r}" for i, cells in rows if len(cells) != 2]:
        raise data_error(f"{len(wrong)} of {len(rows)} rows do not have two cells", wrong, remedy)
    if not rows:
        raise data_error(f"{path} has no rows", [], remedy)
    return rows


def _check_repeats(rows: Sequence[Row]) -> None:
    same_clip: dict[str, list[Row]] = {}
    for row in rows:
        same_clip.setdefault(row.clip.name, []).append(row)
    if repeated := {name: same for name, same in same_clip.items() if len(same) > 1}:
        crossing = sum(len({r.split for r in same}) > 1 for same in repeated.values())
        places = {
            name: " and ".join(f"{r.file}, row {r.row}" for r in same) for name, same in repeated.items()
        }
        headline = f"{len(repeated)} clips are listed more than once, {crossing} of them in train and test"
        remedy = "keep one row a clip: what is tested must not be trained on."
        raise data_error(headline, [f"{name}: {place}" for name, place in places.items()], remedy)


def _draw_val(train: Sequence[Clip], fraction: float, seed: int) -> set[Clip]:
    """The clips held out: of each class the share `fraction`, at least one."""
    import numpy as np

    classes = {e: sorted(clip for clip in train if clip.emotion == e) for e in EMOTIONS}
    if short := [f"{e}: {len(clips)} clips" for e, clips in classes.items() if len(clips) < 2]:
        headline = "Classes with fewer than two clips in train can not be split"
        raise data_error(headline, short, "add clips to train.")
    val: set[Clip] = set()
    for k, clips in enumerate(classes.values()):
        count = min(max(1, round(fraction * len(clips))), len(clips) - 1)
        order = np.random.default_rng([seed, 0, k]).permutation(len(clips))
        val |= {clips[i] for i in order[:count]}
    return val
