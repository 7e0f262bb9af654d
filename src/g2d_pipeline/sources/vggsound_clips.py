"""Which files belong to which clip of VGGSound's lists, whatever their names look like (datasets.md §3.1,
§3.5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from g2d_pipeline.errors import media_fault
from g2d_pipeline.sources.vggsound_list import VIDEO, Clip

FILM_ENDINGS = {".mp4", ".webm", ".mkv"}
SOUND_ENDINGS = {".wav"}
PICTURE_ENDINGS = {".jpg", ".jpeg", ".png"}
NAME = re.compile(rf"(?P<video>{VIDEO})(?:_(?P<start>[0-9]+)(?:_(?P<end>[0-9]+))?)?")
ONE_A_SECOND = "Image-01-FPS"
FEWEST_PICTURES = 4  # the published reader passes over clips with three or fewer (§3.2)

Fault = Literal["no file", "no sound", "no picture", "too few pictures", "broken"]


@dataclass
class Media:
    """clip's name → path of its film, its sound, its folder of pictures, each relative to the raw folder.

    `count`: pictures in a folder; `forms`: how often each form of name was found; `unlisted`: files that
    belong to no clip of the lists; `astray`: name in small letters → such a file; `again`: files of a clip
    that has one already."""

    films: dict[str, str] = field(default_factory=dict)
    sounds: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)
    astray: dict[str, str] = field(default_factory=dict)
    again: int = 0


def is_media(file: str) -> bool:
    """Whether a file is a film, a sound or a picture of a clip, by its ending and by the form of its name."""
    path = PurePosixPath(file)
    ending = path.suffix.lower()
    if ending in PICTURE_ENDINGS:
        return NAME.fullmatch(path.parent.name) is not None
    return ending in FILM_ENDINGS | SOUND_ENDINGS and NAME.fullmatch(path.stem) is not None


def is_film(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in FILM_ENDINGS


def find_media(files: Sequence[str], clips: Iterable[Clip]) -> Media:
    """The media among `files` (everything below the raw folder, sorted), matched to the clips by id and start
    second.

    Of several files of a clip the first is taken; of several folders of pictures first the one of one picture
    a second."""
    starts: dict[str, set[int]] = {}
    for clip in clips:
        starts.setdefault(clip.video, set()).add(clip.start)
    media = Media()
    for file in files:
        if is_media(file):
            path = PurePosixPath(file)
            if path.suffix.lower() in PICTURE_ENDINGS:
                media.count[str(path.parent)] += 1
            else:
                of = media.sounds if path.suffix.lower() in SOUND_ENDINGS else media.films
                _file_under(of, file, path.stem, starts, media)
    for folder in sorted(media.count, key=lambda f: (f"/{ONE_A_SECOND}/" not in f"/{f}", f)):
        _file_under(media.pictures, folder, PurePosixPath(folder).name, starts, media)
    return media


def _file_under(
    of: dict[str, str], path: str, name: str, starts: Mapping[str, set[int]], media: Media
) -> None:
    match = NAME.fullmatch(name)
    assert match is not None
    video, start, form = resolve(match, starts)
    if start is None:
        media.unlisted.append(path)
        media.astray.setdefault(name.casefold(), path)
        return
    media.forms[form] += 1
    key = f"{video}_{start:06d}"
    if of.setdefault(key, path) != path:
        media.again += 1


def resolve(match: re.Match[str], starts: Mapping[str, set[int]]) -> tuple[str, int | None, str]:
    """(id, start second or None: no such clip is listed, the form of the name).

    A second number at least 1000 above the first says that both are milliseconds. A bare id is the video's
    clip where the lists have only one of it."""
    video, known = match["video"], starts.get(match["video"], set())
    if match["start"] is None:
        return video, next(iter(known)) if len(known) == 1 else None, "<id>"
    start = int(match["start"])
    if match["end"] is not None:
        if int(match["end"]) - start >= 1000:
            start, form = start // 1000, "<id>_<start ms>_<end ms>"
        else:
            form = "<id>_<start>_<end>"
    else:
        form = "<id>_<ssssss>" if len(match["start"]) == 6 else "<id>_<start>"
    return video, start if start in known else None, form


def paths_of(
    clip: Clip, media: Media, modalities: Iterable[str], root: Path
) -> tuple[dict[str, str], Fault | None, str]:
    """(modality → path, the kind of fault, what it is) of a clip; all are empty but one of the first two.

    The extracted sound and pictures are preferred to the film that they were extracted from.
    """
    name = clip.name
    film, sound, folder = media.films.get(name), media.sounds.get(name), media.pictures.get(name)
    if folder is not None and film is not None and media.count[folder] < FEWEST_PICTURES:
        folder = None
    found = {"audio": sound or film, "visual": folder or film}
    paths = {modality: path for modality in modalities if (path := found[modality])}
    if not film and not sound and not folder:
        like = media.astray.get(name.casefold())
        return {}, "no file", "no file" + (f"; upper and lower case differ in {like}" if like else "")
    if "audio" in modalities and "audio" not in paths:
        return {}, "no sound", f"pictures ({folder}) but no sound"
    if "visual" in modalities and "visual" not in paths:
        return {}, "no picture", f"sound ({sound}) but no pictures"
    if paths.get("visual") == folder is not None and media.count[folder] < FEWEST_PICTURES:
        few = f"{folder} holds {media.count[folder]} pictures; {FEWEST_PICTURES} are the least, as published"
        return {}, "too few pictures", few
    for path in dict.fromkeys(paths.values()):
        if path != folder and (fault := media_fault(root / path)):
            return {}, "broken", f"{path} {fault}"
    return paths, None, ""
