"""Containers of moving pictures and sound (mp4, flv, webm, mpg, …), opened by PyAV: what they promise, what
they hold.

The sound track is decoded here; pictures are the business of `video.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.stream import Disposition

from g2d_pipeline.features.faults import MediaError, check_file, decoding

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

# Formats whose header tells the duration; elsewhere the library guesses it, from the bit rate or the end of
# the file.
TELLING = {"mov", "matroska", "flv", "avi", "asf"}
SHORT = 0.9  # of what a header promises: below, a file is truncated; its streams may end a little apart
BARE = {"aac", "ac3", "eac3", "dts", "loas", "mp3"}  # frames alone: their duration is a guess, no promise
XING = re.compile(rb"\xff[\xe0-\xff]..(?:(?:.{9}|.{17}|.{32})(?:Xing|Info)|.{32}VBRI)", re.S)
XING_BYTES = 2881  # the longest frame of an MP3
SKIPPED = 3  # packets: more than an encoder's delay and padding, which a decoder leaves out
LATE = 0.045  # seconds that sound ahead of its picture is noticed from (ITU-R BT.1359)


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A container to read from. Raises MediaError where it is missing, empty, fake, or can not be decoded.

    Only this file is opened, whatever it says: a play list does not reach the network.
    """
    check_file(path)
    options = {"protocol_whitelist": "file"}
    with (
        decoding(path),
        av.open(str(path.absolute()), "r", metadata_errors="replace", options=options) as container,
    ):
        if not len(container.streams):
            raise MediaError(path, "is truncated or damaged: it holds neither pictures nor sound")
        yield container


def cause(error: av.FFmpegError) -> str:
    return error.strerror or type(error).__name__


def in_seconds(units: int | None, base: Fraction | None) -> float:
    """So many units of a time base; 0 where either is not told."""
    return float(units * base) if units and base else 0.0


def form(container: InputContainer) -> str:
    """The format's first name: mov (of mp4, too), matroska (of webm, too), flv, mpeg, …"""
    return container.format.name.split(",")[0]


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream of pictures that is no cover; decoded on one thread, so that any machine gives equal
    bytes."""
    streams = _pictures(container)
    if not streams:
        raise MediaError(path, "has no video stream")
    if not streams[0].codec_context:
        raise MediaError(path, "has pictures in a format that is not known")
    streams[0].codec_context.thread_count = 1
    return streams[0]


def _pictures(container: InputContainer) -> list[VideoStream]:
    """Its streams of pictures that are no covers."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def packets(container: InputContainer, path: Path) -> Iterator[Packet[Stream]]:
    """Every packet of every stream, in the file's order, and an empty one at the end of each stream.

    Raises MediaError after the last one where the file ends before 90 % of the duration that its header
    promises."""
    end = 0.0
    for packet in container.demux():
        if packet.size and packet.pts is not None:
            end = max(end, in_seconds(packet.pts + (packet.duration or 0), packet.time_base))
        yield packet
    if container.duration and form(container) in TELLING:
        start = 0 if form(container) == "matroska" else container.start_time or 0  # there it counts from 0
        promised, held = container.duration / av.time_base, end - start / av.time_base
        rates = [float(s.average_rate) for s in container.streams.video if s.average_rate]
        if (
            held + 2 / min(rates, default=20.0) < SHORT * promised
        ):  # some formats do not tell how long a picture stands
            raise MediaError(
                path, f"is truncated: its header promises {promised:.2f} s, it holds {held:.2f} s"
            )


def read_sound(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """The whole first sound track: (`[T]`, the mean of its channels, full scale = 1; samples per second).

    Where it starts later than the pictures (by 45 ms or more), silence comes before it, so that it keeps
    step with them. Tags between MP3 files that were joined are skipped. Raises MediaError where there is
    none, where it ends before 90 % of its promised length, or where it can not be decoded to its end."""
    with opened(path) as container:
        if form(container) == "image2" or form(container).endswith("_pipe"):
            raise MediaError(path, "can not be decoded: it is a picture")
        if not container.streams.audio:
            raise MediaError(path, "has no sound track")
        stream = container.streams.audio[0]
        if not stream.codec_context:
            raise MediaError(path, "has sound in a format that is not known")
        parts: list[npt.NDArray[np.float32]] = []
        rates: set[int] = set()
        start, joined = None, form(container) == "mp3"
        try:
            for packet in packets(container, path):
                if packet.stream_index != stream.index:
                    continue
                if joined and bytes(packet)[:3] in (b"ID3", b"TAG"):
                    continue
                for frame in packet.decode():
                    if isinstance(frame, AudioFrame):
                        start = frame.time if not parts else start
                        parts.append(_mono(frame))
                        rates.add(frame.sample_rate)
        except av.FFmpegError as error:
            after = sum(map(len, parts)) / max(rates, default=1)
            raise MediaError(
                path, f"can not be decoded: its sound fails after {after:.2f} s ({cause(error)})"
            ) from None
        told = form(container) not in BARE
        promised = in_seconds(stream.duration, stream.time_base) if told else 0.0
        late = _delay(container, start)
    if len(rates) > 1:
        raise MediaError(path, f"changes its sample rate: {', '.join(map(str, sorted(rates)))} Hz")
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    rate = rates.pop() if rates else stream.rate
    if len(wave) < SHORT * promised * rate:
        held = len(wave) / rate
        raise MediaError(
            path, f"is truncated: its header promises {promised:.2f} s of sound, it holds {held:.2f} s"
        )
    if late:
        wave = np.concatenate([np.zeros(round(late * rate), np.float32), wave])
    return wave, rate


def _delay(container: InputContainer, start: float | None) -> float:
    """Seconds by which sound that starts at `start` follows the first picture; 0 where it is not noticed."""
    starts = [in_seconds(s.start_time, s.time_base) for s in _pictures(container)]
    late = 0.0 if start is None or not starts else start - starts[0]
    longest = (container.duration or 600 * av.time_base) / av.time_base  # later, its times are wrong
    return late if LATE <= late <= longest else 0.0


def count_sound(path: Path) -> tuple[float, float, bool]:
    """What the packets of an MP3 or Ogg file hold, which are read but not decoded.

    Returns their seconds; those that decoding leaves out at most (the encoder's delay and padding); whether
    a header tells the length (an MP3's Xing, Info or VBRI: a frame before the first one with sound)."""
    with opened(path) as container:
        stream = container.streams.audio[0]
        held = [p for p in container.demux(stream) if p.size and 0 < (p.duration or 0) < 2**31]
        seconds = [in_seconds(packet.duration, stream.time_base) for packet in held]
        told = form(container) != "mp3"
        if held and not told and (first := held[0].pos):
            with path.open("rb") as file:
                file.seek(max(first - XING_BYTES, 0))
                told = XING.search(file.read(min(first, XING_BYTES))) is not None
        return sum(seconds), SKIPPED * max(seconds, default=0.0) if told else 0.0, told


def _mono(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """`[samples]`: the mean of the channels of planar or interleaved numbers of any type."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mean: npt.NDArray[np.float64] = samples.mean(axis=0, dtype=np.float64)
    if samples.dtype == np.uint8:
        mean = mean / 128 - 1
    elif samples.dtype.kind == "i":
        mean /= -float(np.iinfo(samples.dtype).min)
    return mean.astype(np.float32)


def container_header(path: Path) -> dict[str, float]:
    """The seconds of a video and the size of its frames before rotation; nothing where unknown."""
    header: dict[str, float] = {}
    with opened(path) as container:
        if container.duration:
            header["seconds"] = container.duration / av.time_base
        for stream in container.streams.video[:1]:
            header |= {"width": float(stream.width), "height": float(stream.height)}
    return header
