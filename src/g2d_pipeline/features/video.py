"""A clip → some of its pictures: which ones.

A clip is a file that PyAV opens, or a folder of pictures, which are those of one a second already
(datasets.md §1.3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.features.cells import pictures_in
from g2d_pipeline.features.containers import SHORT, opened, video_stream
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.frames import COUNTABLE, Clip, by_decoding, by_seek, clip_of, survey
from g2d_pipeline.features.image import read_image

Pick = Literal["even", "published"]
PUBLISHED_SEED = 999  # re-seeded on each access: the choice depends on the number of pictures alone


def read_frames(path: Path, frames: int, pick: Pick) -> Tensor:
    """`frames` pictures of a clip, upright, in the order of `pick`: uint8 `[T, 3, H, W]`, RGB.

    `even`: those shown at the middles of `frames` equal stretches of the clip. `published`: of one picture
    each ⌊frame rate⌋ from the first on, those that the authors' code draws (datasets.md §1.3, §3.3).

    Files are read from end to end, but decoded only from the key frame before a wanted picture to the next
    one; all of it where that is not exact. Raises MediaError where a file is missing, empty, fake, truncated,
    has no video stream, no frame or damage in what is decoded, or where a clip has fewer pictures to choose
    from than `frames`."""
    pictures = _from_folder(path, frames, pick) if path.is_dir() else _from_file(path, frames, pick)
    if len(sizes := {f"{p.shape[2]}×{p.shape[1]}" for p in pictures}) > 1:
        raise MediaError(path, f"has pictures of different sizes ({', '.join(sorted(sizes))})")
    return torch.stack(pictures)


def evenly(times: Sequence[int], end: int, frames: int) -> list[int]:
    """The positions in `times` (ascending) of what is shown at the middles of equal stretches from `times[0]`
    on."""
    length = end - times[0]
    doubled = [2 * frames * (t - times[0]) for t in times]  # whole numbers: no rounding
    return [max(bisect_right(doubled, (2 * k + 1) * length) - 1, 0) for k in range(frames)]


def published(count: int, frames: int) -> list[int]:
    """`frames` different positions of `count` pictures, as numpy's legacy generator draws them; not sorted.

    `count` from 1 to 7: 0, 1, 1, 2, 3, 2, 3 for one picture; from 9, 10 and 11: (7, 2, 3), (6, 2, 8), (2, 4,
    7)."""
    drawn = np.random.RandomState(PUBLISHED_SEED).permutation(count)[:frames]
    return [int(position) for position in drawn]


def choose(path: Path, clip: Clip, frames: int, pick: Pick) -> list[int]:
    """The positions of the wanted pictures in the clip."""
    count = len(clip.times)
    if not count:
        raise MediaError(path, "holds no picture: 0 frames")
    if pick == "even":
        _enough(path, count, "", frames)
        return (
            evenly(range(count), count, frames)
            if _steady(clip.times)
            else evenly(clip.times, clip.end, frames)
        )
    if not clip.step:
        raise MediaError(path, "tells no frame rate of at least one picture a second")
    one_a_second = range(0, count, clip.step)
    _enough(path, len(one_a_second), " at one a second", frames)
    return [one_a_second[position] for position in published(len(one_a_second), frames)]


def _steady(times: Sequence[int]) -> bool:
    """Whether all pictures are shown for equally long, but for the rounding of times (to milliseconds, in a
    webm)."""
    steps = np.diff(np.asarray(times))
    return not len(steps) or int(np.ptp(steps)) <= (1 if steps.min() >= 10 else 0)


def _enough(path: Path, count: int, how: str, frames: int) -> None:
    if count < frames:
        what = "picture" if count == 1 else "pictures"
        raise MediaError(path, f"is too short: it has {count} {what}{how}, {frames} are asked for")


# ---------------------------------------------------------------------------------------------------- folders
def _from_folder(folder: Path, frames: int, pick: Pick) -> list[Tensor]:
    names = pictures_in(folder)
    if not names:
        raise MediaError(folder, "is a folder without pictures")
    _enough(folder, len(names), "", frames)
    count = len(names)
    positions = evenly(range(count), count, frames) if pick == "even" else published(count, frames)
    found = []
    for name in (names[position] for position in positions):
        try:
            found.append(read_image(name, folder, 3))
        except MediaError as error:
            raise MediaError(folder, f"has a picture {name} that {error.reason}") from error
    return found


# ------------------------------------------------------------------------------------------------------ files
def _from_file(path: Path, frames: int, pick: Pick) -> list[Tensor]:
    with opened(path) as container:
        stream = video_stream(container, path)
        clip = survey(container, stream, path)
        positions = choose(path, clip, frames, pick)
        found = by_seek(container, stream, clip, positions)
        countable = stream.codec_context.name in COUNTABLE
    if found is None:
        found, times = by_decoding(path, positions)
        if len(times) != len(clip.times):  # packets that are no pictures: now they are counted
            if countable and len(times) < SHORT * len(clip.times):
                raise MediaError(
                    path, f"is damaged: of {len(clip.times)} pictures, {len(times)} can be decoded"
                )
            clip = clip_of(times, [], 0, clip.step)
            positions = choose(path, clip, frames, pick)
            found, _ = by_decoding(path, positions)
    return [found[position] for position in positions]
