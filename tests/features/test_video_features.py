"""Clips → pictures: which ones, by seek or by decoding, and what is wrong with a file."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.containers import opened, read_sound, video_stream
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import video

LEVEL = 8  # of brightness, from one picture of a made clip to the next


def numbers(pictures: Any) -> list[int]:
    """Which pictures of a made clip these are, by their brightness."""
    return [round(float(p[:, -4:, -4:].float().mean()) / LEVEL) for p in pictures]


def every_frame(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in container.decode(video=0)]


# --------------------------------------------------------------------------------------------- which pictures
@pytest.mark.parametrize(
    ("count", "frames", "positions"),
    [(n, 1, [k]) for n, k in zip(range(1, 8), [0, 1, 1, 2, 3, 2, 3], strict=True)]
    + [(10, 3, [6, 2, 8]), (9, 3, [7, 2, 3]), (11, 3, [2, 4, 7])],
)
def test_the_published_positions(count: int, frames: int, positions: list[int]):
    """The numbers of datasets.md §1.3 and §3.3."""
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert video.published(count, frames) == positions
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@given(st.integers(1, 400), st.integers(1, 12))
def test_even_pictures_of_a_steady_clip(count: int, frames: int):
    found = video.evenly(range(0, 512 * count, 512), 512 * count, frames)
    assert found == [math.floor(count * (2 * k + 1) / (2 * frames)) for k in range(frames)]
    assert found == video.evenly(range(count), count, frames)


def test_even_pictures_of_an_unsteady_clip_are_those_shown_then():
    assert video.evenly([0, 10, 20, 30], 100, 4) == [1, 3, 3, 3]  # 12.5, 37.5, 62.5, 87.5


def test_milliseconds_do_not_change_the_choice(tmp_path: Path):
    """24 pictures a second at 0, 42, 83, 125, … ms: the one at 250 ms is the first of the second quarter."""
    times = [round(1000 * k / 24) for k in range(24)]
    clip = video.Clip([], [], times, 999, None, 24)
    assert video.choose(tmp_path, clip, 2, "even") == [6, 18]
    clip = video.Clip([], [], [*times[:-1], 2000], 3000, None, 24)
    assert video.choose(tmp_path, clip, 2, "even") == [18, 23]


@pytest.mark.parametrize(("rate", "expected"), [(25, [0, 25, 50]), (Fraction(30000, 1001), [0, 29, 58])])
def test_one_picture_a_second(make_clip: Any, rate: Any, expected: list[int]):
    path = make_clip(pictures=60, rate=rate)
    with opened(path) as container:
        clip = video.survey(container, video_stream(container, path), path)
    assert video.choose(path, clip, 3, "published") == [expected[k] for k in (1, 2, 0)]
    assert video.choose(path, clip, 1, "published") == [expected[1]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 24])
def test_even_pictures_of_a_file(make_clip: Any, name: str, frames: int):
    pictures = video.read_frames(make_clip(name), frames, "even")
    assert (pictures.shape, str(pictures.dtype)) == ((frames, 3, 32, 48), "torch.uint8")
    assert numbers(pictures) == [math.floor(24 * (2 * k + 1) / (2 * frames)) for k in range(frames)]


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "flv"), ("a.mpg", "mpeg1video"), ("a.avi", "mpeg4")])
def test_other_containers(make_clip: Any, name: str, codec: str):
    assert numbers(video.read_frames(make_clip(name, codec=codec), 4, "even")) == [3, 9, 15, 21]


def test_pictures_are_turned_as_the_container_says(make_clip: Any):
    for degrees, corner in ((0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))):
        picture = video.read_frames(make_clip(f"{degrees}.mp4", rotation=degrees), 1, "even")[0].int()
        assert tuple(picture.shape) == ((3, 32, 48) if degrees in (0, 180) else (3, 48, 32))
        rows = (picture[0, 0, 0], picture[0, 0, -1], picture[0, -1, 0], picture[0, -1, -1])
        lightest = [(0, 0), (0, -1), (-1, 0), (-1, -1)][int(np.argmax(rows))]
        assert lightest == corner, degrees


# ------------------------------------------------------------------------------------------ seek = decode all
def test_a_seek_decodes_only_the_stretches_that_are_wanted(make_clip: Any, monkeypatch: pytest.MonkeyPatch):
    path = make_clip(pictures=30, gop=5)
    seen: list[int] = []
    original = video._stretch

    def counted(*args: Any) -> Any:
        for frame in original(*args):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "_stretch", counted)
    monkeypatch.setattr(video, "by_decoding", None)
    assert numbers(video.read_frames(path, 2, "even")) == [7, 22]
    assert len(seen) == 2 * 5


def _check_seeks(path: Path) -> int:
    """Compare some pictures, got by seek, with those of decoding all; how many there were."""
    frames = every_frame(path)
    compared = 0
    for position in [*range(0, len(frames), max(len(frames) // 6, 1)), len(frames) - 1]:
        with opened(path) as container:
            stream = video_stream(container, path)
            clip = video.survey(container, stream, path)
            assert len(clip.times) == len(frames)
            found = video.by_seek(container, stream, clip, [position])
        if found is not None:
            assert np.array_equal(found[position].numpy(), frames[position]), position
            compared += 1
    return compared


@pytest.mark.parametrize("gop", [1, 4, 250])
def test_a_seek_gives_what_decoding_gives(make_clip: Any, gop: int):
    assert _check_seeks(make_clip("a.mp4", pictures=31, gop=gop)) == (0 if gop == 250 else 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "video_samples/realshort.mp4",
        "video_samples/nasa_two_video_two_audio.mp4",
        "video_samples/video_with_failing_audio.mp4",
        "ravdess_av/small/01-01-08-01-02-02-01.mp4",
    ],
)
def test_a_seek_in_a_real_file_gives_what_decoding_gives(shared_data: Path, name: str):
    assert _check_seeks(shared_data / name) > 5


def test_open_groups_of_pictures(make_clip: Any):
    """Pictures shown before the key frame that they follow in the file need the key frame before it."""
    path = make_clip(codec="mpeg2video", name="a.mkv", pictures=30, gop=6)
    assert numbers(video.read_frames(path, 5, "even")) == [3, 9, 15, 21, 27]
    _check_seeks(path)


# ------------------------------------------------------------------------------------------------- real files
SHORT_SAMPLES = {
    "realshort.mp4": (36, (240, 320)),
    "bigbuckbunny_1s.webm": (24, (720, 1280)),
    "carphone_no_audio.mp4": (120, (144, 176)),
    "no_audio.mp4": (50, (480, 640)),
    "no_duration.webm": (74, (720, 1280)),
    "nasa_two_video_two_audio.mp4": (325, (180, 320)),
    "bigbuckbunny_6ch.mp4": (132, (720, 1280)),
    "video_with_failing_audio.mp4": (280, (360, 640)),
    "cockatoo_silent_track.mp4": (280, (720, 1280)),
    "smpte_1080p.mp4": (251, (1080, 1920)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT_SAMPLES)
def test_real_files(shared_data: Path, name: str):
    """The counts are those of the folder's README; the pictures are those of a plain decoder."""
    path = shared_data / "video_samples" / name
    count, size = SHORT_SAMPLES[name]
    pictures = video.read_frames(path, 2, "even")
    assert tuple(pictures.shape) == (2, 3, *size)
    wanted = [count // 4, count * 3 // 4]
    with av.open(str(path)) as container:
        seen = 0
        for frame in container.decode(video=0):
            if seen in wanted:
                expected = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
                assert np.array_equal(pictures[wanted.index(seen)].numpy(), expected)
            seen += 1
    assert seen == count


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("pick", ["even", "published"])
def test_the_corrupt_file_is_never_a_short_clip(shared_data: Path, frames: int, pick: Any):
    with pytest.raises(MediaError, match=r"corrupted.mp4 can not be decoded: it fails after 28 frames"):
        video.read_frames(shared_data / "video_samples/corrupted.mp4", frames, pick)


def test_grid_and_ravdess(shared_data: Path):
    for path in sorted((shared_data / "grid_clips").glob("*.mpg")):
        assert tuple(video.read_frames(path, 3, "published").shape) == (3, 3, 288, 360)
    for path in sorted((shared_data / "ravdess_av/small").glob("*.mp4")):
        assert tuple(video.read_frames(path, 3, "even").shape) == (3, 3, 180, 320)


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "is missing"),
        ("empty", r"is empty \(0 bytes\)"),
        ("lfs", "is a Git-LFS pointer"),
        ("html", "is a web page"),
        ("noise", "can not be decoded"),
        ("wav nan", "has no video stream"),
        ("folder", "is a folder without pictures"),
    ],
)
def test_a_bad_clip_is_told(broken_media: dict[str, Path], what: str, message: str):
    with pytest.raises(DataError, match=f"(?s){broken_media[what].name} {message}.*What to do"):
        video.read_frames(broken_media[what], 1, "even")


def test_a_stream_without_a_frame_is_told(tmp_path: Path):
    with pytest.raises(MediaError, match="holds no picture: 0 frames"):
        video.choose(tmp_path / "a.flv", video.clip_of([], [], 0, 25), 1, "even")


@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_a_film_of_few_frames_is_whole(make_clip: Any, pictures: int):
    """An flv's packets do not say how long they are shown: the last one must not look lost."""
    path = make_clip("a.flv", codec="flv", pictures=pictures)
    assert numbers(video.read_frames(path, pictures, "even")) == list(range(pictures))
    with pytest.raises(MediaError, match=f"is too short: it has {pictures} pictures?, 6 are asked for"):
        video.read_frames(path, 6, "even")


def test_an_flv_of_one_frame_has_no_three_of_one_a_second(make_clip: Any):
    path = make_clip("a.flv", codec="flv", pictures=1)
    assert numbers(video.read_frames(path, 1, "published")) == [0]
    with pytest.raises(
        MediaError, match=r"a.flv is too short: it has 1 picture at one a second, 3 are asked for"
    ):
        video.read_frames(path, 3, "published")


def test_sound_alone_is_no_clip(make_clip: Any):
    path = make_clip(pictures=0, sound=np.zeros((1, 16_000)))
    with pytest.raises(MediaError, match="has no video stream"):
        video.read_frames(path, 1, "even")


@pytest.mark.parametrize(
    ("frames", "pick", "message"),
    [
        (25, "even", "is too short: it has 24 pictures, 25 are asked for"),
        (2, "published", "is too short: it has 1 picture at one a second, 2 are asked for"),
    ],
)
def test_a_clip_that_is_too_short(make_clip: Any, frames: int, pick: Any, message: str):
    with pytest.raises(MediaError, match=message):
        video.read_frames(make_clip(), frames, pick)


def test_a_film_of_less_than_one_picture_a_second_has_no_published_choice(make_clip: Any):
    path = make_clip(pictures=4, rate=Fraction(1, 2))
    with pytest.raises(MediaError, match="tells no frame rate of at least one picture a second"):
        video.read_frames(path, 1, "published")
    assert numbers(video.read_frames(path, 2, "even")) == [1, 3]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv"])
def test_a_truncated_file_is_told(make_clip: Any, name: str):
    codec = "flv" if name.endswith("flv") else "libx264"
    path = make_clip(name, pictures=30, codec=codec)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(MediaError, match=r"is truncated"):
        video.read_frames(path, 1, "even")


def test_an_index_before_a_truncated_body_promises_pictures(shared_data: Path, tmp_path: Path):
    """A film made for the web has its index in front: it opens, and lacks pictures."""
    source = (shared_data / "video_samples/video_with_failing_audio.mp4").read_bytes()
    if source.find(b"moov") > source.find(b"mdat"):
        source = _web(source, tmp_path)
    path = tmp_path / "cut.mp4"
    path.write_bytes(source[: len(source) // 2])
    with pytest.raises(MediaError, match=r"is truncated: its header promises"):
        video.read_frames(path, 1, "even")


def _web(source: bytes, folder: Path) -> bytes:
    (folder / "whole.mp4").write_bytes(source)
    with (
        av.open(str(folder / "whole.mp4")) as container,
        av.open(str(folder / "web.mp4"), "w", options={"movflags": "faststart"}) as web,
    ):
        stream = container.streams.video[0]
        copy = web.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                web.mux(packet)
    return (folder / "web.mp4").read_bytes()


def test_damage_in_what_is_decoded_is_told(make_clip: Any):
    path = make_clip("a.mp4", pictures=24, gop=12, size=(96, 64))
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat")
    size = int.from_bytes(content[start - 4 : start])
    for i in range(start + size // 2, start + size - 10, 7):
        content[i] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(
        MediaError, match=r"is damaged or truncated: frame \d+|can not be decoded: it fails after \d+"
    ):
        video.read_frames(path, 24, "even")


@pytest.mark.parametrize(("codec", "what"), [(b"V_MPEG4/ISO/AVC", "pictures"), (b"A_AAC", "sound")])
def test_an_unknown_codec_is_told(make_clip: Any, codec: bytes, what: str):
    path = make_clip("a.mkv", sound=np.zeros((1, 16_000)))
    path.write_bytes(path.read_bytes().replace(codec, codec[:-1] + b"X"))
    with pytest.raises(MediaError, match=f"has {what} in a format that is not known"):
        video.read_frames(path, 1, "even") if what == "pictures" else read_sound(path)


def test_a_play_list_opens_nothing_else(make_clip: Any):
    clip = make_clip("a.mp4")
    path = clip.with_name("list.m3u8")
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/{clip.name}\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(MediaError):
        video.read_frames(path, 1, "even")


# ---------------------------------------------------------------------------------------- folders of pictures
def make_folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (6, 5), (LEVEL * i,) * 3).save(folder / f"{25 * i:05d}.png")
    for litter in (".DS_Store", "._00000.png", "Thumbs.db", "notes.txt"):
        (folder / litter).write_bytes(b"litter")
    return folder


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path):
    folder = make_folder(tmp_path / "a", 10)
    assert numbers(video.read_frames(folder, 3, "published")) == [6, 2, 8]
    assert numbers(video.read_frames(folder, 2, "even")) == [2, 7]
    (folder / "00150.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"a has a picture 00150.png that can not be decoded"):
        video.read_frames(folder, 3, "published")
    assert numbers(video.read_frames(folder, 2, "even")) == [2, 7]  # it is not asked for
    Image.new("RGB", (7, 5)).save(folder / "00150.png")
    with pytest.raises(MediaError, match=r"has pictures of different sizes \(6×5, 7×5\)"):
        video.read_frames(folder, 3, "published")


def test_a_folder_with_too_few_pictures(tmp_path: Path):
    with pytest.raises(MediaError, match="it has 2 pictures, 3 are asked for"):
        video.read_frames(make_folder(tmp_path / "a", 2), 3, "published")
