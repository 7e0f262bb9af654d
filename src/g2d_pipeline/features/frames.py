"""The frames of a film: counted without decoding, and got at with as little decoding as is safe."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.features.containers import cause, form, opened, packets, video_stream
from g2d_pipeline.features.faults import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Where a packet is a picture, so that pictures are counted without decoding, and where a seek is exact.
COUNTABLE = {
    "h264",
    "hevc",
    "av1",
    "vp9",
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "flv1",
    "h263",
    "vp6f",
    "mjpeg",
}
SEEKABLE = {"mov", "matroska", "flv"}


@dataclass(frozen=True)
class Clip:
    """What the packets of a stream tell. In decoding order: `pts` and `key` (decoding can start there).

    `times`: when each picture is shown, ascending; `end`: when the last one ceases to be; both in units of
    the stream's time base, or numbers of pictures where the file does not tell times. `order[j]`: the packet
    of picture j."""

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
    if held < stream.frames:
        raise MediaError(path, f"is truncated: its header promises {stream.frames} pictures, it holds {held}")
    rate = stream.average_rate or stream.guessed_rate
    return clip_of(pts, key, last, int(rate) if rate else 0)


def clip_of(pts: Sequence[int | None], key: list[bool], last: int, step: int) -> Clip:
    """The clip of packets, in decoding order, that are shown at `pts`, the last one for `last` units of time."""
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
        while (
            first >= 0 and clip.pts[packet] < clip.pts[starts[first]]
        ):  # shown before its key frame: needs another
            first -= 1
        if first < 0:
            return None
        needed |= set(range(first, last + 1))
    if len(needed) == len(starts):
        return None
    wanted = {clip.times[position]: position for position in positions}
    found: dict[int, Tensor] = {}
    ends = [*starts[1:], len(clip.pts)]
    for number in sorted(needed):
        if number - 1 in needed:
            continue
        until = next(n for n in range(number, len(starts) + 1) if n not in needed)
        try:
            for frame in _stretch(container, stream, clip, starts[number], ends[until - 1]):
                if frame.pts in wanted:
                    found[wanted[frame.pts]] = to_tensor(frame)
        except (av.FFmpegError, _Surprise):  # decoding all of it will tell
            return None
    return found if len(found) == len(wanted) else None


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
    """(position → picture, the times of all frames), after decoding every frame of a file.

    Raises MediaError where decoding fails or a frame is damaged.
    """
    wanted = set(positions)
    found: dict[int, Tensor] = {}
    times: list[int | None] = []
    with opened(path) as container:
        stream = video_stream(container, path)
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise MediaError(path, f"is damaged or truncated: frame {len(times)} can not be decoded")
                if len(times) in wanted:
                    found[len(times)] = to_tensor(frame)
                times.append(frame.pts)
        except av.FFmpegError as error:
            reason = f"can not be decoded: it fails after {len(times)} frames ({cause(error)})"
            raise MediaError(path, reason) from error
    return found, times


def to_tensor(frame: VideoFrame) -> Tensor:
    """RGB bytes `[3, H, W]`, turned as the container says."""
    pixels = frame.to_ndarray(format="rgb24")
    upright = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))
