"""Containers of moving pictures and sound (mp4, flv, webm, mpg, …), opened by PyAV: what they promise and
hold. The sound track is decoded here, pictures in `video.py`."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from g2d_pipeline.features.faults import MediaError, check_file, decoding

# Formats whose header tells the duration; elsewhere it is guessed from the bit rate or the end of the file.
TELLING = {"mov", "matroska", "flv", "avi", "asf"}
FROM_ZERO = {"matroska", "avi", "asf"}  # whose duration is the end, also where the first packet is later
SHORT = 0.9  # of what a header promises: below, a file is truncated; its streams may end a little apart
BARE = {"aac", "ac3", "eac3", "dts", "loas", "mp3"}  # frames alone: their duration is a guess, no promise
XING = re.compile(rb"\xff[\xe0-\xff]..(?:(?:.{9}|.{17}|.{32})(?:Xing|Info)(.{4}).{4}(.{4})|.{32}VBRI)", re.S)
ID3V1 = 128  # bytes of the tag at the end of an MP3
STARTS = {"OGG": b"OggS\0\2", "FLAC": b"fLaC"}  # how each of several recordings begins
XING_BYTES = 2881  # the longest frame of an MP3
SKIPPED = 3  # packets: more than an encoder's delay and padding, which a decoder leaves out
LATE = 0.045  # seconds that sound ahead of its picture is noticed from (ITU-R BT.1359)


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A container to read from. Raises MediaError where it is missing, empty, fake, or can not be decoded.

    Only this file is opened, whatever it says: a play list does not reach the network."""
    check_file(path)
    arguments: Any = {"metadata_errors": "replace", "options": {"protocol_whitelist": "file"}}
    with decoding(path), av.open(str(path.absolute()), "r", **arguments) as container:
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
    """The first stream of pictures that is no cover; decoded on one thread: equal bytes on any machine."""
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

    Raises MediaError after the last one where the file ends before 90 % of the promised duration."""
    end = 0.0
    for packet in container.demux():
        if packet.size and packet.pts is not None:
            end = max(end, in_seconds(packet.pts + (packet.duration or 0), packet.time_base))
        yield packet
    if form(container) in TELLING:
        promised, held = _promised(container), end - (container.start_time or 0) / av.time_base
        rates = [float(s.average_rate) for s in container.streams.video if s.average_rate]
        last = 2 / min(rates, default=20.0)  # some formats do not tell how long a picture stands
        if held + last < SHORT * promised:
            reason = f"is truncated: its header promises {promised:.2f} s, it holds {held:.2f} s"
            raise MediaError(path, reason)


def _promised(container: InputContainer) -> float:
    """The seconds that the header tells, from the first packet on; 0 where it does not."""
    start = (container.start_time or 0) if form(container) in FROM_ZERO else 0
    return max((container.duration or 0) - start, 0) / av.time_base


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
                for frame in _frames_of(packet, joined):
                    if isinstance(frame, AudioFrame):
                        start = frame.time if not parts else start
                        parts.append(_mono(frame))
                        rates.add(frame.sample_rate)
        except av.FFmpegError as error:
            after = sum(map(len, parts)) / max(rates, default=1)
            reason = f"can not be decoded: its sound fails after {after:.2f} s ({cause(error)})"
            raise MediaError(path, reason) from error
        trusted = form(container) not in BARE | FROM_ZERO
        promised = in_seconds(stream.duration, stream.time_base) if trusted else 0.0
        late = _delay(container, start)
    if len(rates) > 1:
        raise MediaError(path, f"changes its sample rate: {', '.join(map(str, sorted(rates)))} Hz")
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    rate = rates.pop() if rates else stream.rate
    if (held := len(wave) / rate) < SHORT * promised:
        reason = f"is truncated: its header promises {promised:.2f} s of sound, it holds {held:.2f} s"
        raise MediaError(path, reason)
    if late:
        wave = np.concatenate([np.zeros(round(late * rate), np.float32), wave])
    return wave, rate


def _delay(container: InputContainer, start: float | None) -> float:
    """Seconds by which sound that starts at `start` follows the first picture; 0 where it is not noticed."""
    starts = [in_seconds(s.start_time, s.time_base) for s in _pictures(container)]
    late = 0.0 if start is None or not starts else start - starts[0]
    longest = (container.duration or 600 * av.time_base) / av.time_base  # later, its times are wrong
    return late if LATE <= late <= longest else 0.0


def tells_all(path: Path, form: str) -> tuple[bool, bool]:
    """Whether a FLAC, OGG or MP3 file is one recording, not several that were joined, as a search of its
    bytes tells at once; whether a header tells its length (not of an MP3 without Xing, Info or VBRI)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if (mark := STARTS.get(form)) is not None:
            return content.find(mark, content.find(mark) + 1) < 0, True
        start = _tag_size(content[:10])
        header = XING.search(content[start : start + 2 * XING_BYTES])
        if header is None or header[2] is None:
            return False, header is not None
        rest = len(content) - start - header.start() - int.from_bytes(header[2], "big")
        return header[1][-1] & 2 > 0 and rest in (0, ID3V1), True


def _tag_size(content: bytes) -> int:
    """Of an ID3 tag at the start: four times seven bits tell it, or it is of the first version."""
    if content[:3] == b"ID3":
        return 10 + int("".join(f"{byte:07b}" for byte in content[6:10]), 2)
    return ID3V1 if content[:3] == b"TAG" else 0


def _frames_of(packet: Packet[Any], joined: bool) -> list[Any]:
    """The decoded frames of a packet; of `joined` MP3 files without what is no sound at their borders."""
    content = bytes(packet) if joined else b""
    if not (size := _tag_size(content)) and not XING.match(content):
        return packet.decode()
    if len(content) <= size or XING.match(content, size):
        return []
    rest: Packet[Any] = Packet(content[size:])
    rest.pts, rest.time_base = packet.pts, packet.time_base
    frames: list[Any] = packet.stream.codec_context.decode(rest)
    return frames


def count_sound(path: Path) -> tuple[float, float]:
    """(seconds of sound that the packets of a file hold, seconds of three of them): it is not decoded.

    (0, 0) where it can not be opened, as an MP3 of one frame."""
    with suppress(MediaError), opened(path) as container:  # libsndfile has opened it
        stream = container.streams.audio[0]
        units = [p.duration or 0 for p in container.demux(stream) if p.size]
        units = [n for n in units if n < 2**31]  # where the encoder's delay is cut off, it wraps around
        most = SKIPPED * max(units, default=0)
        return in_seconds(sum(units), stream.time_base), in_seconds(most, stream.time_base)
    return 0.0, 0.0


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


def video_header(path: Path) -> dict[str, float]:
    """The seconds of a video and the size of its frames before rotation; nothing where unknown."""
    header: dict[str, float] = {}
    with opened(path) as container:
        if form(container) not in BARE and (seconds := _promised(container)):
            header["seconds"] = seconds
        for stream in container.streams.video[:1]:
            header |= {"width": float(stream.width), "height": float(stream.height)}
    return header
