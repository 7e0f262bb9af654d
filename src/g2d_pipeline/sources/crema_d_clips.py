"""The names of CREMA-D's clips, where their files lie, and what is wrong with them (datasets.md §1.1, §1.5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from g2d_pipeline.errors import SHOWN, data_error, media_fault

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # the order of the classes in most of the field (§1.2)
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
NAME = re.compile(
    rf"(?P<actor>1[0-9]{{3}})_(?P<sentence>{'|'.join(SENTENCES)})_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<level>LO|MD|HI|XX)"
)
FORM = "{actor}_{sentence}_{emotion}_{level}, such as 1001_DFA_ANG_XX"
OLD_NAMES = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # of copies made before October 2022
AUDIO, VIDEO, PICTURES = "AudioWAV", "VideoFlash", "Image-01-FPS"
OTHER_RATE = re.compile(r"image-(?!01-)[0-9]+-fps")
ENDINGS = {AUDIO: (".wav",), VIDEO: (".flv", ".mp4"), PICTURES: (".jpg", ".jpeg", ".png")}
SOURCE = "github.com/CheyneyComputerScience/CREMA-D (media by Git LFS) or its GitLab mirror"
BROKEN_VIDEO = {
    "1076_MTI_SAD_XX": "the video is an error picture",
    "1076_MTI_NEU_XX": "the video is cut short",
    "1064_TIE_SAD_XX": "the video has no duration",
    "1064_IEO_DIS_MD": "the video is a minute long and shows all emotions one after another",
}
SILENT = "1076_MTI_SAD_XX"


@dataclass(frozen=True)
class Clip:
    """What a name tells: `target` is the position of the intended emotion in EMOTIONS."""

    name: str
    actor: str
    sentence: str
    level: str
    target: int

    @classmethod
    def of(cls, name: str) -> Clip | None:
        """None where the name is no clip's; an old name is read as today's."""
        name = OLD_NAMES.get(name, name)
        match = NAME.fullmatch(name)
        if match is None:
            return None
        return cls(name, match["actor"], match["sentence"], match["level"], EMOTIONS.index(match["emotion"]))


@dataclass(frozen=True)
class Media:
    """The files of one modality, as paths relative to the raw root.

    `files`: clip → its file, or its pictures; `others`: files whose names are no clip's; `old`: those of
    OLD_NAMES."""

    folder: str
    files: Mapping[str, Sequence[str]]
    others: Sequence[str]
    old: Sequence[str]
    pictures: bool = False

    def cell(self, clip: str) -> str:
        """What the manifest says: the file, or the folder of pictures."""
        return self.files[clip][0].rpartition("/")[0] if self.pictures else self.files[clip][0]

    def place(self, clip: str, ending: str) -> str:
        """Where the clip is, or would be expected."""
        if clip in self.files:
            return self.cell(clip)
        return f"{self.folder}/{clip}" + ("" if self.pictures else ending)

    def fault(self, root: Path, clip: str) -> str | None:
        """What is wrong with the files of a clip; None: nothing, as far as their first bytes tell."""
        if clip in self.files:
            faults = ((f, media_fault(root / f)) for f in self.files[clip])
            told = [
                f"{PurePosixPath(f).name} {fault}" if self.pictures else fault for f, fault in faults if fault
            ]
            return told[0] if told else None
        if self.pictures and (root / self.folder / clip).is_dir():
            return "is a folder without a picture"
        return "is missing"


def is_media(file: str, folder: str) -> bool:
    """Whether a file lies directly in a folder AUDIO or VIDEO, and has its ending; upper and lower case are
    one."""
    return _parent(file).casefold() == folder.casefold() and file.lower().endswith(ENDINGS[folder])


def is_picture(file: str) -> bool:
    """Whether a file is Image-01-FPS/<clip>/<picture>."""
    return _parent(_above(file, 1)).casefold() == PICTURES.casefold() and file.lower().endswith(
        ENDINGS[PICTURES]
    )


def find_audio(files: Sequence[str], root: Path) -> Media | None:
    """The WAV files of the one folder AudioWAV at any depth among `files` (`list_files`); None where there is
    no such file.

    Raises DataError where there are several such folders, or several files of one clip.
    """
    return _flat(files, root, AUDIO)


def find_visual(files: Sequence[str], root: Path, notes: list[str]) -> Media | None:
    """The pictures of Image-01-FPS/<clip>/ where there are any, else the films of VideoFlash; None: neither.

    Pictures at other rates are noted, and never used: which one is picked would change (§1.5). Raises
    DataError as `find_audio`, and where there are pictures at another rate alone."""
    pictures = [f for f in files if is_picture(f)]
    media = _by_clip(pictures, root) if pictures else _flat(files, root, VIDEO)
    folders = [part for f in files for part in f.split("/")[:-2]]
    others = Counter(part for part in folders if OTHER_RATE.fullmatch(part.casefold()))
    if others and media is None:
        told = [f"{rate}: {count} pictures" for rate, count in sorted(others.items())]
        remedy = (
            f"the protocol takes one picture a second: extract them into {PICTURES}/<clip>/00000.jpg, 00029.jpg, …, "
            f"or put the folder {VIDEO} there."
        )
        raise data_error(f"Below {root} there are pictures at other rates than one a second", told, remedy)
    for rate, count in sorted(others.items()):
        notes.append(f"{count} pictures in {rate} are not used: at another rate, others would be picked.")
    if pictures and any(is_media(f, VIDEO) for f in files):
        notes.append(f"The visual modality is read from {PICTURES}; the films in {VIDEO} are not used.")
    return media


def check_pointers(
    faults: Mapping[str, str], media: Media, total: int, allowed: float, notes: list[str]
) -> None:
    """Raise DataError where more than the share `allowed` of `total` clips' files are Git-LFS pointers; note
    fewer.

    `faults`: clip → what is wrong with its file.
    """
    pointers = [clip for clip, fault in faults.items() if "Git-LFS" in fault]
    if not pointers:
        return
    whole = total - len(faults)
    what = f"{len(pointers):,} of {total:,} files in {media.folder} are Git-LFS pointers, {whole:,} are whole"
    if others := len(faults) - len(pointers):
        what += f", {others:,} are missing or broken"
    if len(pointers) > allowed * total:
        remedy = (
            f"install git-lfs and run `git lfs pull` in the copy (after a quota error: again later), or take {SOURCE}; "
            f"the web page's zip holds pointers only. Or set max_bad_fraction to drop such clips."
        )
        raise data_error(what, [media.cell(clip) for clip in pointers], remedy)
    notes.append(f"{what}.")


def check_names(media: Media, root: Path) -> None:
    """Raise DataError where not one file has the name of a clip: renamed copies have lost speaker and
    emotion."""
    if media.files or not media.others:
        return
    headline = f"None of the {len(media.others)} files in {root / media.folder} has a clip's name ({FORM})"
    remedy = (
        "renamed redistributions have lost the speakers, and number the emotions in an order of their own: "
        f"take the original from {SOURCE}."
    )
    raise data_error(headline, media.others, remedy)


def note_names(media: Media, notes: list[str]) -> None:
    """Note old names and names that are no clip's."""
    for file in media.old:
        notes.append(f"{file} has the name of copies before October 2022; it is read as {_clip_of(file)}.")
    if media.others:
        shown = ", ".join(media.others[:SHOWN])
        notes.append(
            f"{len(media.others)} files in {media.folder} have no clip's name and are left out, e.g. {shown}."
        )


# ----------------------------------------------------------------------------------------------------- pieces
def _flat(files: Sequence[str], root: Path, folder: str) -> Media | None:
    inside = [f for f in files if is_media(f, folder)]
    if not inside:
        return None
    place = _one_folder({f.rpartition("/")[0] for f in inside}, folder, root)
    found: dict[str, list[str]] = {}
    others, old = [], []
    for f in inside:
        stem = PurePosixPath(f).stem
        if (clip := Clip.of(stem)) is None:
            others.append(f)
            continue
        if stem in OLD_NAMES:
            old.append(f)
        found.setdefault(clip.name, []).append(f)
    if double := [
        f"{clip}: {', '.join(map(_parent_and_name, same))}" for clip, same in found.items() if len(same) > 1
    ]:
        raise data_error(f"Several files of one clip in {root / place}", double, "keep one of each.")
    return Media(place, found, others, old)


def _by_clip(inside: Sequence[str], root: Path) -> Media:
    """The pictures `…/Image-01-FPS/<clip>/<picture>`, sorted by name."""
    folders = {_above(f, 2) for f in inside}
    place = _one_folder(folders, PICTURES, root)
    found: dict[str, list[str]] = {}
    others, old = [], []
    for f in sorted(inside):
        name = _parent(f)
        if (clip := Clip.of(name)) is None:
            others.append(f)
            continue
        if name in OLD_NAMES:
            old.append(f.rpartition("/")[0])
        found.setdefault(clip.name, []).append(f)
    return Media(place, found, others, sorted(set(old)), pictures=True)


def _one_folder(folders: set[str], name: str, root: Path) -> str:
    if len(folders) > 1:
        raise data_error(
            f"Several folders {name} below {root}", sorted(folders), "keep one, or set raw_dir deeper."
        )
    return next(iter(folders))


def _above(file: str, levels: int) -> str:
    for _ in range(levels):
        file = file.rpartition("/")[0]
    return file


def _parent(file: str) -> str:
    return _above(file, 1).rpartition("/")[2]


def _parent_and_name(file: str) -> str:
    return "/".join(file.split("/")[-2:])


def _clip_of(file: str) -> str:
    return OLD_NAMES[PurePosixPath(file).stem]
