"""The media of VGGSound's clips, whatever their names look like, and what their headers promise (§3.1, §3.5).

A clip without sound, images or the least length would stop the featurize stage: it counts as missing."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from g2d_pipeline.config import RunOptions
from g2d_pipeline.errors import media_fault
from g2d_pipeline.progress import track
from g2d_pipeline.sources.vggsound.lists import VIDEO, Clip

KINDS = {"video": (".mp4", ".webm", ".mkv"), "audio": (".wav",), "images": (".jpg", ".jpeg", ".png")}
ENDINGS = {ending: kind for kind, endings in KINDS.items() for ending in endings}
NAME = re.compile(rf"(?P<video>{VIDEO})(?:_(?P<start>[0-9]+)(?:_(?P<end>[0-9]+))?)?")
ONE_A_SECOND = "Image-01-FPS"
FEWEST_IMAGES = 4  # the published reader passes over clips with three or fewer (§3.2)
MANY = 5000  # clips whose headers take seconds to read: progress is shown


class Fault(NamedTuple):
    """Why a clip can not be used."""

    kind: Literal["no file", "no sound", "no picture", "too few pictures", "broken"]
    reason: str


class Media:
    """The media among `files` (everything below the raw folder, sorted), matched to clips by id and second.

    `paths`: kind → clip's name → video, audio file, or folder of images, relative to the raw folder; of
    several files of a clip the first, of several folders first the one of one image a second. `images`: how
    many a folder has; `forms`: how often each form of name occurs; `unlisted`: what is of no clip in the
    lists; `by_case`: such a name in small letters → its path; `repeated`: further files of a clip."""

    def __init__(self, files: Sequence[str], clips: Iterable[Clip]) -> None:
        self.paths: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        self.images, self.forms = Counter[str](), Counter[str]()
        self.unlisted: list[str] = []
        self.by_case: dict[str, str] = {}
        self.repeated = 0
        starts = defaultdict[str, set[int]](set)
        for clip in clips:
            starts[clip.video].add(clip.start)
        entries: dict[str, tuple[str, re.Match[str]]] = {}
        for kind, path, match in filter(None, map(media_of, files)):
            entries[path] = kind, match
            self.images[path] += kind == "images"

        def order(path: str) -> tuple[bool, bool, str]:
            images = self.images[path] > 0
            return images, images and ONE_A_SECOND not in path.split("/"), path

        for path in sorted(entries, key=order):
            kind, match = entries[path]
            start, form = resolve(match, starts[match["video"]])
            if start is None:
                self.unlisted.append(path)
                self.by_case.setdefault(match[0].casefold(), path)
                continue
            self.forms[form] += 1
            self.repeated += self.paths[kind].setdefault(f"{match['video']}_{start:06d}", path) != path


def media_of(file: str) -> tuple[str, str, re.Match[str]] | None:
    """(kind, path or folder of images, match of the clip's name); None: not a clip's, by ending or name."""
    path = PurePosixPath(file)
    kind = ENDINGS.get(path.suffix.lower())
    if kind == "images":
        path = path.parent
    match = NAME.fullmatch(path.name if kind == "images" else path.stem) if kind else None
    return (kind, str(path), match) if kind and match else None


def resolve(match: re.Match[str], starts: Collection[int]) -> tuple[int | None, str]:
    """(start second, or None where `starts`, the listed ones of the video, lack it; the form of the name).

    A second number at least 1000 above the first says that both are milliseconds. A bare id is the video's
    clip where the lists have only one of it."""
    if match["start"] is None:
        return next(iter(starts)) if len(starts) == 1 else None, "<id>"
    start = int(match["start"])
    if match["end"] is None:
        form = "<id>_<ssssss>" if len(match["start"]) == 6 else "<id>_<start>"
    elif int(match["end"]) - start < 1000:
        form = "<id>_<start>_<end>"
    else:
        start, form = start // 1000, "<id>_<start ms>_<end ms>"
    return start if start in starts else None, form


def paths_of(clip: Clip, media: Media, modalities: Collection[str], root: Path) -> dict[str, str] | Fault:
    """modality → path of a clip, or why it can not be used.

    Extracted audio and images are preferred to the video that they were extracted from."""
    video, audio, folder = (media.paths[kind].get(clip.name) for kind in ("video", "audio", "images"))
    too_few = folder is not None and media.images[folder] < FEWEST_IMAGES
    if too_few and video is not None:
        folder = None
    if not (video or audio or folder):
        same = media.by_case.get(clip.name.casefold())
        return Fault("no file", "no file" + (f"; upper and lower case differ in {same}" if same else ""))
    sources = {"audio": audio or video, "visual": folder or video}
    paths = {modality: path for modality in modalities if (path := sources[modality])}
    if "audio" in modalities and "audio" not in paths:
        return Fault("no sound", f"pictures ({folder}) but no sound")
    if "visual" in modalities and "visual" not in paths:
        return Fault("no picture", f"sound ({audio}) but no pictures")
    if too_few and folder is not None and "visual" in modalities:
        count = f"{folder} holds {media.images[folder]} pictures"
        return Fault("too few pictures", f"{count}; {FEWEST_IMAGES} are the least, as published")
    for path in sorted(set(paths.values()) - {folder}):
        if fault := media_fault(root / path):
            return Fault("broken", f"{path} {fault}")
    if video and (from_video := [modality for modality, path in paths.items() if path == video]):
        return video_fault(root, video, from_video) or paths
    return paths


def video_fault(root: Path, video: str, modalities: Collection[str]) -> Fault | None:
    """What keeps a video from giving `audio`, `visual` or both, as far as its header tells; None: nothing.

    The published extraction takes one image each ⌊frame rate⌋ frames."""
    from g2d_pipeline.features.containers import opened
    from g2d_pipeline.features.faults import MediaError

    try:
        with opened(root / video) as container:
            if "audio" in modalities and not container.streams.audio:
                return Fault("no sound", f"{video} has no sound track")
            if "visual" not in modalities:
                return None
            if not container.streams.video:
                return Fault("no picture", f"{video} has sound only")
            stream = container.streams.video[0]
            step = int(stream.average_rate or 0)
            count = -(-stream.frames // step) if stream.frames and step else FEWEST_IMAGES
            if count < FEWEST_IMAGES:
                short = f"{video} is too short: {count} picture{'s' * (count > 1)} at one a second"
                return Fault("too few pictures", f"{short}; {FEWEST_IMAGES} are the least, as published")
    except MediaError as error:
        return Fault("broken", f"{video} {error.reason}")
    return None


def match_clips(
    clips: Sequence[Clip], media: Media, modalities: Collection[str], root: Path, options: RunOptions
) -> dict[Clip, dict[str, str] | Fault]:
    """`paths_of` each clip, in threads: the header of a video takes a millisecond, mostly of the disk."""
    matches: dict[Clip, dict[str, str] | Fault] = {}
    progress = options.progress if len(clips) >= MANY else False
    with ThreadPoolExecutor(options.workers) as pool, track("check clips", len(clips), progress) as advance:
        matched = pool.map(lambda clip: paths_of(clip, media, modalities, root), clips)
        for clip, match in zip(clips, matched, strict=True):
            matches[clip] = match
            advance()
    return matches
