"""What the headers of downloaded films tell before anything is decoded: sound track, pictures, length (§3.5:
2, 3, 7).

A film that lacks one of them is of no use, and would stop the featurize stage: here it is told and counted
with the clips that are missing altogether."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from g2d_pipeline.features.containers import opened
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.progress import track
from g2d_pipeline.sources.vggsound_clips import FEWEST_PICTURES, Fault

if TYPE_CHECKING:
    from av.container import InputContainer

MANY = 5000  # films that take seconds: progress is shown


def film_faults(
    films: Mapping[str, Collection[str]], root: Path, workers: int, progress: Literal["auto"] | bool
) -> dict[str, tuple[Fault, str]]:
    """path → (kind of fault, what it is) of those `films` (path → the modalities wanted of it) that have one.

    Reads headers alone, about a millisecond a film, in `workers` threads: they wait for the disk.
    """
    faults: dict[str, tuple[Fault, str]] = {}
    if len(films) < MANY:
        progress = False
    with ThreadPoolExecutor(workers) as pool, track("look at films", len(films), progress) as advance:
        told = pool.map(lambda film: film_fault(root / film, films[film]), films)
        for film, fault in zip(films, told, strict=True):
            if fault is not None:
                faults[film] = fault[0], f"{film} {fault[1]}"
            advance()
    return faults


def film_fault(path: Path, modalities: Collection[str]) -> tuple[Fault, str] | None:
    """What keeps a film from giving `audio`, `visual` or both; None: nothing that its header tells."""
    try:
        with opened(path) as container:
            if "audio" in modalities and not container.streams.audio:
                return "no sound", "has no sound track"
            if "visual" in modalities and not container.streams.video:
                return "no picture", "has sound only"
            if (
                "visual" in modalities
                and (count := _one_a_second(container)) is not None
                and count < FEWEST_PICTURES
            ):
                what = "picture" if count == 1 else "pictures"
                told = f"is too short: {count} {what} at one a second; {FEWEST_PICTURES} are the least, as published"
                return "too few pictures", told
    except MediaError as error:
        return "broken", error.reason
    return None


def _one_a_second(container: InputContainer) -> int | None:
    """How many pictures the published extraction takes: one each ⌊frame rate⌋; None: the header does not
    tell."""
    stream = container.streams.video[0]
    step = int(stream.average_rate or 0)
    return -(-stream.frames // step) if stream.frames and step else None
