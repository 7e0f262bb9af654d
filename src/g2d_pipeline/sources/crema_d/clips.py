"""The names of CREMA-D's clips, their files, and what is wrong with them (datasets.md §1.1, §1.5)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

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
ENDINGS = {AUDIO: ".wav", VIDEO: ".flv", IMAGES: ""}  # of a clip's file
# folder → its files at any depth, in any case: a clip's file, or the images in a clip's folder
MEDIA = {
    folder: re.compile(rf"(?P<unit>(?P<place>(?:.*/)?{folder})/{form}", re.IGNORECASE | re.DOTALL)
    for folder, form in {
        AUDIO: r"(?P<name>[^/]*)\.wav)",
        VIDEO: r"(?P<name>[^/]*)\.(?:flv|mp4))",
        IMAGES: r"(?P<name>[^/]*))/[^/]*\.(?:jpg|jpeg|png)",
    }.items()
}
OTHER_RATE = re.compile(r"image-(?!01-)[0-9]+-fps", re.IGNORECASE)
SOURCE = "github.com/CheyneyComputerScience/CREMA-D (media by Git LFS) or its GitLab mirror"
BROKEN_VIDEO = {
    "1076_MTI_SAD_XX": "the video is an error picture",
    "1076_MTI_NEU_XX": "the video is cut short",
    "1064_TIE_SAD_XX": "the video has no duration",
    "1064_IEO_DIS_MD": "the video is a minute long and shows all emotions one after another",
}
SILENT = "1076_MTI_SAD_XX"


class Clip(NamedTuple):
    """What a name tells; `level`: the intensity of the emotion."""

    name: str
    actor: str
    sentence: str
    emotion: str
    level: str

    @property
    def target(self) -> int:
        """The position of the intended emotion in EMOTIONS."""
        return EMOTIONS.index(self.emotion)

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """None where the name is no clip's; an old name is read as today's."""
        match = NAME.fullmatch(OLD_NAMES.get(name, name))
        return match and cls(match[0], *match.groups())


@dataclass(frozen=True)
class Media:
    """The files of one modality, as paths relative to the raw root.

    `ending`: of a clip's file, "" where a clip is a folder of images; `files`: clip → its file, or its
    images; `others`: files whose names are no clip's; `old`: those of OLD_NAMES."""

    folder: str
    ending: str
    files: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)

    def place(self, clip: str) -> str:
        """The file of the clip, or the folder of its images; where it would be expected if it is missing."""
        if clip not in self.files:
            return f"{self.folder}/{clip}{self.ending}"
        file = self.files[clip][0]
        return file if self.ending else file.rpartition("/")[0]

    def fault(self, root: Path, clip: str) -> str | None:
        """What is wrong with the files of a clip; None: nothing, as far as their first bytes tell."""
        if clip not in self.files:
            empty = not self.ending and (root / self.folder / clip).is_dir()
            return "is a folder without a picture" if empty else "is missing"
        for file in self.files[clip]:
            if fault := media_fault(root / file):
                return fault if self.ending else f"{PurePosixPath(file).name} {fault}"
        return None


def find_media(files: Sequence[str], root: Path, folder: str) -> Media | None:
    """The files of the one folder AUDIO, VIDEO or IMAGES at any depth; None where there is no such file.

    `files`: everything in `root`, sorted. DataError: several such folders, or several files of one clip."""
    inside = [match for file in files if (match := MEDIA[folder].fullmatch(file))]
    if not inside:
        return None
    places = sorted({match["place"] for match in inside})
    if len(places) > 1:
        raise data_error(f"Several folders {folder} below {root}", places, "keep one, or set raw_dir deeper.")
    media = Media(places[0], ENDINGS[folder])
    for file, name, unit in ((match[0], match["name"], match["unit"]) for match in inside):
        if (clip := Clip.parse(name)) is None:
            media.others.append(file)
            continue
        if name in OLD_NAMES and unit not in media.old:
            media.old.append(unit)
        media.files.setdefault(clip.name, []).append(file)
    double = {clip: same for clip, same in media.files.items() if media.ending and len(same) > 1}
    if double:
        same_clip = [f"{c}: {', '.join('/'.join(f.split('/')[-2:]) for f in fs)}" for c, fs in double.items()]
        raise data_error(f"Several files of one clip in {root / places[0]}", same_clip, "keep one of each.")
    return media


def find_visual(files: Sequence[str], root: Path, notes: list[str]) -> Media | None:
    """The images of Image-01-FPS/<clip>/ where there are any, else the videos of VideoFlash; None: neither.

    Images at other rates are noted, and never used: which one is picked would change (§1.5). Raises DataError
    as `find_media`, and where there are images at another rate alone."""
    images = find_media(files, root, IMAGES)
    media = images or find_media(files, root, VIDEO)
    folders = (part for f in files for part in f.split("/")[:-2])
    others = sorted(Counter(part for part in folders if OTHER_RATE.fullmatch(part)).items())
    if others and media is None:
        remedy = (
            f"the protocol takes one picture a second: extract them into {IMAGES}/<clip>/00000.jpg, "
            f"00029.jpg, …, or put the folder {VIDEO} there."
        )
        rates = [f"{rate}: {count} pictures" for rate, count in others]
        raise data_error(f"Below {root} there are pictures at other rates than one a second", rates, remedy)
    for rate, count in others:
        notes.append(f"{count} pictures in {rate} are not used: at another rate, others would be picked.")
    if images and any(map(MEDIA[VIDEO].fullmatch, files)):
        notes.append(f"The visual modality is read from {IMAGES}; the films in {VIDEO} are not used.")
    return media


def check_pointers(
    faults: Mapping[str, str], media: Media, total: int, allowed: float, notes: list[str]
) -> None:
    """Raise DataError where more than the share `allowed` of `total` clips' files are Git-LFS pointers; note
    fewer. `faults`: clip → what is wrong with its file."""
    pointers = [media.place(clip) for clip, fault in faults.items() if "Git-LFS" in fault]
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
        raise data_error(what, pointers, remedy)
    notes.append(f"{what}.")


def check_names(media: Media, root: Path, notes: list[str]) -> None:
    """Note old names and names that are no clip's. Raise DataError where not one file has the name of a clip:
    renamed copies have lost speaker and emotion."""
    count = len(media.others)
    if count and not media.files:
        headline = f"None of the {count} files in {root / media.folder} has a clip's name ({FORM})"
        remedy = (
            "renamed redistributions have lost the speakers, and number the emotions in an order of their "
            f"own: take the original from {SOURCE}."
        )
        raise data_error(headline, media.others, remedy)
    for file in media.old:
        name = OLD_NAMES[PurePosixPath(file).stem]
        notes.append(f"{file} has the name of copies before October 2022; it is read as {name}.")
    if count:
        what = f"{count} files in {media.folder} have no clip's name and are left out"
        notes.append(f"{what}, e.g. {few(media.others)}.")
