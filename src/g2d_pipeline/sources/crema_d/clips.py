"""The names of CREMA-D's clips, their files, and what is wrong with them (datasets.md §1.1, §1.5)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from g2d_pipeline.errors import data_error, media_fault
from g2d_pipeline.sources.faults import few

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # the order of the classes in most of the field (§1.2)
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
NAME = re.compile(
    rf"(?P<actor>1[0-9]{{3}})_(?P<sentence>{'|'.join(SENTENCES)})_(?P<emotion>{'|'.join(EMOTIONS)})"
    "_(?P<level>LO|MD|HI|XX)"
)
FORM = "{actor}_{sentence}_{emotion}_{level}, such as 1001_DFA_ANG_XX"
OLD_NAMES = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # of copies made before October 2022
AUDIO, VIDEO, IMAGES = "AudioWAV", "VideoFlash", "Image-01-FPS"
OTHER_RATE = re.compile(r"image-(?!01-)[0-9]+-fps")
ENDINGS = {AUDIO: (".wav",), VIDEO: (".flv", ".mp4"), IMAGES: (".jpg", ".jpeg", ".png")}
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
    def parse(cls, name: str) -> Self | None:
        """None where the name is no clip's; an old name is read as today's."""
        name = OLD_NAMES.get(name, name)
        if (match := NAME.fullmatch(name)) is None:
            return None
        return cls(name, match["actor"], match["sentence"], match["level"], EMOTIONS.index(match["emotion"]))


@dataclass(frozen=True)
class Media:
    """The files of one modality, as paths relative to the raw root.

    `files`: clip → its file, or its images; `others`: files whose names are no clip's; `old`: those of
    OLD_NAMES; `images`: a clip is a folder of images; `ending`: of a clip's file."""

    folder: str
    files: Mapping[str, Sequence[str]]
    others: Sequence[str]
    old: Sequence[str]
    images: bool
    ending: str

    def cell(self, clip: str) -> str:
        """What the manifest says: the file, or the folder of images."""
        return self.files[clip][0].rpartition("/")[0] if self.images else self.files[clip][0]

    def place(self, clip: str) -> str:
        """Where the clip is, or would be expected."""
        return self.cell(clip) if clip in self.files else f"{self.folder}/{clip}{self.ending}"

    def fault(self, root: Path, clip: str) -> str | None:
        """What is wrong with the files of a clip; None: nothing, as far as their first bytes tell."""
        for file in self.files.get(clip, ()):
            if fault := media_fault(root / file):
                return f"{PurePosixPath(file).name} {fault}" if self.images else fault
        if clip in self.files:
            return None
        folder = self.images and (root / self.folder / clip).is_dir()
        return "is a folder without a picture" if folder else "is missing"


def is_media(file: str, folder: str) -> bool:
    """Whether a file is <folder>/<clip>.<ending>, or Image-01-FPS/<clip>/<image>, in any case."""
    parts = file.casefold().split("/")
    depth = 3 if folder == IMAGES else 2
    return len(parts) >= depth and parts[-depth] == folder.casefold() and parts[-1].endswith(ENDINGS[folder])


def find_media(files: Sequence[str], root: Path, folder: str) -> Media | None:
    """The files of the one folder AUDIO, VIDEO or IMAGES at any depth; None where there is no such file.

    `files`: everything in `root`, sorted. DataError: several such folders, or several files of one clip."""
    inside = [f for f in files if is_media(f, folder)]
    if not inside:
        return None
    images = folder == IMAGES
    units = [f.rpartition("/")[0] if images else f for f in inside]  # a clip's folder, or its file
    places = {unit.rpartition("/")[0] for unit in units}
    if len(places) > 1:
        remedy = "keep one, or set raw_dir deeper."
        raise data_error(f"Several folders {folder} below {root}", sorted(places), remedy)
    (place,) = places
    clips: dict[str, list[str]] = {}
    others, old = [], []
    for file, unit in zip(inside, units, strict=True):
        name = unit.rpartition("/")[2] if images else PurePosixPath(unit).stem
        if (clip := Clip.parse(name)) is None:
            others.append(file)
            continue
        if name in OLD_NAMES:
            old.append(unit)
        clips.setdefault(clip.name, []).append(file)
    double = {} if images else {clip: same for clip, same in clips.items() if len(same) > 1}
    if double:
        same_clip = [f"{c}: {', '.join('/'.join(f.split('/')[-2:]) for f in fs)}" for c, fs in double.items()]
        raise data_error(f"Several files of one clip in {root / place}", same_clip, "keep one of each.")
    return Media(place, clips, others, sorted(set(old)), images, "" if images else ENDINGS[folder][0])


def find_visual(files: Sequence[str], root: Path, notes: list[str]) -> Media | None:
    """The images of Image-01-FPS/<clip>/ where there are any, else the videos of VideoFlash; None: neither.

    Images at other rates are noted, and never used: which one is picked would change (§1.5). Raises DataError
    as `find_media`, and where there are images at another rate alone."""
    images = find_media(files, root, IMAGES)
    media = images or find_media(files, root, VIDEO)
    folders = [part for f in files for part in f.split("/")[:-2]]
    others = Counter(part for part in folders if OTHER_RATE.fullmatch(part.casefold()))
    if others and media is None:
        rates = [f"{rate}: {count} pictures" for rate, count in sorted(others.items())]
        remedy = (
            f"the protocol takes one picture a second: extract them into {IMAGES}/<clip>/00000.jpg, "
            f"00029.jpg, …, or put the folder {VIDEO} there."
        )
        raise data_error(f"Below {root} there are pictures at other rates than one a second", rates, remedy)
    for rate, count in sorted(others.items()):
        notes.append(f"{count} pictures in {rate} are not used: at another rate, others would be picked.")
    if images and any(is_media(f, VIDEO) for f in files):
        notes.append(f"The visual modality is read from {IMAGES}; the films in {VIDEO} are not used.")
    return media


def check_pointers(
    faults: Mapping[str, str], media: Media, total: int, allowed: float, notes: list[str]
) -> None:
    """Raise DataError where more than the share `allowed` of `total` clips' files are Git-LFS pointers; note
    fewer. `faults`: clip → what is wrong with its file."""
    pointers = [clip for clip, fault in faults.items() if "Git-LFS" in fault]
    if not pointers:
        return
    whole, others = total - len(faults), len(faults) - len(pointers)
    what = f"{len(pointers):,} of {total:,} files in {media.folder} are Git-LFS pointers, {whole:,} are whole"
    what += f", {others:,} are missing or broken" if others else ""
    if len(pointers) > allowed * total:
        remedy = (
            "install git-lfs and run `git lfs pull` in the copy (after a quota error: again later), or take "
            f"{SOURCE}; the web page's zip holds pointers only. Or set max_bad_fraction to drop such clips."
        )
        raise data_error(what, [media.cell(clip) for clip in pointers], remedy)
    notes.append(f"{what}.")


def check_names(media: Media, root: Path, notes: list[str]) -> None:
    """Note old names and names that are no clip's. Raise DataError where not one file has the name of a clip:
    renamed copies have lost speaker and emotion."""
    if media.others and not media.files:
        where = root / media.folder
        headline = f"None of the {len(media.others)} files in {where} has a clip's name ({FORM})"
        remedy = (
            "renamed redistributions have lost the speakers, and number the emotions in an order of their "
            f"own: take the original from {SOURCE}."
        )
        raise data_error(headline, media.others, remedy)
    for file in media.old:
        name = OLD_NAMES[PurePosixPath(file).stem]
        notes.append(f"{file} has the name of copies before October 2022; it is read as {name}.")
    if media.others:
        what = f"{len(media.others)} files in {media.folder} have no clip's name and are left out"
        notes.append(f"{what}, e.g. {few(media.others)}.")
