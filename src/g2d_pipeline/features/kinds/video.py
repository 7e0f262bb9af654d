"""A clip → some of its frames: which ones, counted and decoded with as little decoding as is safe.

A clip is a file that PyAV opens, or a folder of images, one a second already (datasets.md §1.3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from g2d_pipeline.config import VideoFeatures
from g2d_pipeline.features.cells import files_of, images_in
from g2d_pipeline.features.containers import SHORT, cause, form, opened, packets, video_header, video_stream
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds.base import ArraySpec, PictureKind, Values
from g2d_pipeline.features.kinds.image import NARROW, image_header, read_image, resize

Pick = Literal["even", "published"]
PUBLISHED_SEED = 999  # re-seeded on each access: the choice depends on the number of pictures alone
# Where a packet is a picture, so that pictures are counted without decoding, and where a seek is exact.
COUNTABLE = {"h264", "hevc", "av1", "vp9", "flv1", "h263", "vp6f", "mjpeg"}
COUNTABLE |= {"mpeg1video", "mpeg2video", "mpeg4"}
SEEKABLE = {"mov", "matroska", "flv"}


class Video(PictureKind):
    """Clips as bytes `[3, frames, H, W]`."""

    settings: VideoFeatures
    settings_class = VideoFeatures
    plural = "clips"
    notes: ClassVar[dict[str, str]] = {
        "constant": "that are of one colour",
        "narrow": f"with pictures {NARROW}: save 8 bits ({{total}} pictures in all)",
    }
    endings = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".flv", ".mpg", ".mpeg", ".m4v"})
    chunk = 32  # clips are larger than recordings and images, and take longer
    folders = True

    def spec(self, cells: Sequence[str], root: Path) -> ArraySpec:
        return ArraySpec((3, self.settings.frames, *self.settings.height_width), "uint8")

    def read(self, cell: str, root: Path, spec: ArraySpec, content: bytes | None) -> Values:
        notes: dict[str, int] = {}
        frames = read_frames(root / cell, self.settings.frames, self.settings.pick, notes)
        return resize(frames, self.settings.height_width).permute(1, 0, 2, 3).numpy(), notes

    def reusable(self, spec: ArraySpec) -> bool:
        return True

    def header(self, path: Path) -> dict[str, float]:
        if not path.is_dir():
            return video_header(path)
        files = files_of("", path)
        return {"pictures": float(len(files))} | (image_header(files[0]) if files else {})


def read_frames(path: Path, frames: int, pick: Pick, notes: dict[str, int] | None = None) -> Tensor:
    """`frames` pictures of a clip, upright, in the order of `pick`: uint8 `[T, 3, H, W]`, RGB.

    `even`: those shown at the middles of `frames` equal stretches of the clip. `published`: of one picture
    each ⌊frame rate⌋ from the first on, those that the authors' code draws (datasets.md §1.3, §3.3).

    Files are read from end to end, but decoded only from the key frame before a requested picture to the next
    one; all of it where that is not exact. Raises MediaError where a file is missing, empty, fake, truncated,
    has no video stream, no frame or damage in what is decoded, or where a clip has fewer pictures to choose
    from than `frames`. `notes`: as of `read_image`, of a folder."""
    pictures = _from_folder(path, frames, pick, notes) if path.is_dir() else _from_file(path, frames, pick)
    if len(sizes := {f"{p.shape[2]}×{p.shape[1]}" for p in pictures}) > 1:
        raise MediaError(path, f"has pictures of different sizes ({', '.join(sorted(sizes))})")
    return torch.stack(pictures)


def evenly(times: Sequence[int], end: int, frames: int) -> list[int]:
    """The positions in `times` (ascending) of what is shown at the middles of equal stretches of the clip."""
    length = end - times[0]
    doubled = [2 * frames * (t - times[0]) for t in times]  # whole numbers: no rounding
    return [max(bisect_right(doubled, (2 * k + 1) * length) - 1, 0) for k in range(frames)]


def published(count: int, frames: int) -> list[int]:
    """`frames` different positions of `count` pictures, as numpy's legacy generator draws them; not sorted.

    `count` from 1 to 7: 0, 1, 1, 2, 3, 2, 3 for one picture; 9, 10, 11: (7, 2, 3), (6, 2, 8), (2, 4, 7)."""
    return list(map(int, np.random.RandomState(PUBLISHED_SEED).permutation(count)[:frames]))


def choose(path: Path, clip: Clip, frames: int, pick: Pick) -> list[int]:
    """The positions of the requested pictures in the clip."""
    count = len(clip.times)
    if not count:
        raise MediaError(path, "holds no picture: 0 frames")
    if pick == "even":
        _enough(path, count, "", frames)
        steps = np.diff(np.asarray(clip.times))  # all alike, but for rounding (to milliseconds, in a webm)?
        steady = not len(steps) or int(np.ptp(steps)) <= (1 if steps.min() >= 10 else 0)
        return evenly(range(count), count, frames) if steady else evenly(clip.times, clip.end, frames)
    if not clip.step:
        raise MediaError(path, "tells no frame rate of at least one picture a second")
    one_a_second = range(0, count, clip.step)
    _enough(path, len(one_a_second), " at one a second", frames)
    return [one_a_second[position] for position in published(len(one_a_second), frames)]


def _enough(path: Path, count: int, how: str, frames: int) -> None:
    if count < frames:
        what = "picture" if count == 1 else "pictures"
        raise MediaError(path, f"is too short: it has {count} {what}{how}, {frames} are asked for")


# ---------------------------------------------------------------------------------------------------- folders
def _from_folder(folder: Path, frames: int, pick: Pick, notes: dict[str, int] | None) -> list[Tensor]:
    names = images_in(folder)
    if not names:
        raise MediaError(folder, "is a folder without pictures")
    _enough(folder, len(names), "", frames)
    count = len(names)
    positions = evenly(range(count), count, frames) if pick == "even" else published(count, frames)
    images = []
    for name in (names[position] for position in positions):
        try:
            images.append(read_image(name, folder, 3, notes=notes))
        except MediaError as error:
            raise MediaError(folder, f"has a picture {name} that {error.reason}") from error
    return images


# ------------------------------------------------------------------------------------------------------ files
def _from_file(path: Path, frames: int, pick: Pick) -> list[Tensor]:
    with opened(path) as container:
        stream = video_stream(container, path)
        clip = survey(container, stream, path)
        positions = choose(path, clip, frames, pick)
        images = by_seek(container, stream, clip, positions)
        countable = stream.codec_context.name in COUNTABLE
    if images is None:
        images, times = by_decoding(path, positions)
        if len(times) != len(clip.times):  # packets that are no pictures: now they are counted
            if countable and len(times) < SHORT * len(clip.times):
                reason = f"is damaged: of {len(clip.times)} pictures, {len(times)} can be decoded"
                raise MediaError(path, reason)
            clip = clip_of(times, [], 0, clip.step)
            positions = choose(path, clip, frames, pick)
            images, _ = by_decoding(path, positions)
    return [images[position] for position in positions]


# ------------------------------------------------------------------------------------- counting and decoding
@dataclass(frozen=True)
class Clip:
    """What the packets of a stream tell. In decoding order: `pts` and `key` (decoding can start there).

    `times`: when each picture is shown, ascending; `end`: when the last one ceases to be; both in units of
    the stream's time base, or numbers of pictures without times. `order[j]`: picture j's packet."""

    pts: list[int]
    key: list[bool]
    times: Sequence[int]
    end: int
    order: list[int] | None
    step: int  # pictures a second, rounded down; 0: not told


def survey(container: InputContainer, stream: VideoStream, path: Path) -> Clip:
    """Read every packet, decode none. Raises MediaError where there are fewer than the header promises."""
    pts: list[int | None] = []
    key: list[bool] = []
    held, last = 0, 0
    for packet in packets(container, path):
        if packet.stream_index != stream.index or not packet.size:
            continue
        held += 1
        if not packet.is_discard:  # cut away by an edit list
            pts.append(packet.pts)
            key.append(packet.is_keyframe)
            last = packet.duration or last
    if form(container) == "avi":  # pictures that are not there count, too
        held = max((t for t in pts if t is not None), default=0) + last
    if held < stream.frames:
        raise MediaError(path, f"is truncated: its header promises {stream.frames} pictures, it holds {held}")
    rate = stream.average_rate or stream.guessed_rate
    return clip_of(pts, key, last, int(rate) if rate else 0)


def clip_of(pts: Sequence[int | None], key: list[bool], last: int, step: int) -> Clip:
    """The clip of packets in decoding order, shown at `pts`, the last one for `last` units of time."""
    known = [t for t in pts if t is not None]
    if not known or len(set(known)) < len(pts):
        return Clip([], [], range(len(pts)), len(pts), None, step)
    order = sorted(range(len(known)), key=known.__getitem__)
    times = [known[i] for i in order]
    last = last or (times[-1] - times[0]) // max(len(times) - 1, 1)
    return Clip(known, key, times, times[-1] + last, order, step)


def by_seek(
    container: InputContainer, stream: VideoStream, clip: Clip, positions: Sequence[int]
) -> dict[int, Tensor] | None:
    """position → picture; None: where all would be decoded anyway, or anything is not as expected."""
    if clip.order is None or form(container) not in SEEKABLE or stream.codec_context.name not in COUNTABLE:
        return None
    starts = [i for i, key in enumerate(clip.key) if key]
    needed: set[int] = set()  # numbers of stretches from key frame to key frame
    for position in positions:
        packet = clip.order[position]
        last = first = bisect_right(starts, packet) - 1
        while first >= 0 and clip.pts[packet] < clip.pts[starts[first]]:
            first -= 1  # it is shown before its key frame: needs another
        if first < 0:
            return None
        needed |= set(range(first, last + 1))
    if len(needed) == len(starts):
        return None
    requested = {clip.times[position]: position for position in positions}
    images: dict[int, Tensor] = {}
    ends = [*starts[1:], len(clip.pts)]
    try:
        for number in sorted(needed):
            if number - 1 not in needed:
                first = starts[number]
            if number + 1 not in needed:
                for frame in _stretch(container, stream, clip, first, ends[number]):
                    if frame.pts in requested:
                        images[requested[frame.pts]] = to_tensor(frame)
    except (av.FFmpegError, _Surprise):  # decoding all of it will tell
        return None
    return images if len(images) == len(requested) else None


class _Surprise(Exception):
    """A seek led elsewhere, or a frame is damaged."""


def _stretch(
    container: InputContainer, stream: VideoStream, clip: Clip, first: int, end: int
) -> Iterator[VideoFrame]:
    """The frames of the packets from `first`, a key frame, to before `end`, but those shown before it."""
    container.seek(clip.pts[first], stream=stream)
    at = first
    for packet in container.demux(stream):
        if packet.size and (packet.is_discard or (at == first and packet.pts != clip.pts[at])):
            continue  # a seek may lead to an earlier key frame
        if packet.size:
            if packet.pts != clip.pts[at]:
                raise _Surprise
            at += 1
        last = at == end or not packet.size
        frames = [*packet.decode(), *(stream.codec_context.decode(None) if last and packet.size else [])]
        for frame in frames:
            if frame.pts is not None and frame.pts >= clip.pts[first]:
                if frame.is_corrupt:
                    raise _Surprise
                yield frame
        if last:
            return


def by_decoding(path: Path, positions: Sequence[int]) -> tuple[dict[int, Tensor], list[int | None]]:
    """(position → picture, the times of all frames); MediaError where a frame is damaged or not decoded."""
    requested = set(positions)
    images: dict[int, Tensor] = {}
    times: list[int | None] = []
    with opened(path) as container:
        stream = video_stream(container, path)
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise MediaError(path, f"is damaged or truncated: frame {len(times)} can not be decoded")
                if len(times) in requested:
                    images[len(times)] = to_tensor(frame)
                times.append(frame.pts)
        except av.FFmpegError as error:
            reason = f"can not be decoded: it fails after {len(times)} frames ({cause(error)})"
            raise MediaError(path, reason) from error
    return images, times


def to_tensor(frame: VideoFrame) -> Tensor:
    """RGB bytes `[3, H, W]`, turned as the container says."""
    pixels = frame.to_ndarray(format="rgb24")
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is not None:
        numbers = np.frombuffer(matrix, np.int32).tolist()  # type: ignore[call-overload]
        right, down, x, y = (numbers[i] for i in (0, 1, 3, 4))  # where the axes of a row and a column go
        if abs(down) > abs(right):
            pixels, right, y = pixels.transpose(1, 0, 2), x, down
        pixels = pixels[:: -1 if y < 0 else 1, :: -1 if right < 0 else 1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
