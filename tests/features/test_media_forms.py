"""Forms of media: joined, without a length, later than zero, mirrored, of more than 8 bits, broken."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.config import AudioFeatures, ImageFeatures, VideoFeatures
from g2d_pipeline.features import write_store
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.faults import MediaError, decoding
from g2d_pipeline.features.kinds import image, kind_of, video
from tests.conftest import read_audio
from tests.features.test_hard_inputs_media import TURNS

RATE = 16_000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE, dtype=np.float32)


def turned(path: Path, matrix: list[int]) -> None:
    """Write a display matrix (of the four numbers that turn) into the only track of an mp4."""
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 4 + 40
    one, (a, b, c, d) = 1 << 16, matrix
    content[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("turn", "matrix"),
    [
        ("base", [1, 0, 0, 1]),
        ("hflip", [-1, 0, 0, 1]),
        ("vflip", [1, 0, 0, -1]),
        ("rot180", [-1, 0, 0, -1]),
        ("transp", [0, 1, 1, 0]),
        ("rot90", [0, 1, -1, 0]),
        ("rot270", [0, -1, 1, 0]),
        ("transverse", [0, -1, -1, 0]),
    ],
)
def test_all_orientations_of_a_clip(make_clip: Any, turn: str, matrix: list[int]):
    path = make_clip("a.mp4", pictures=3)
    plain = video.read_frames(path, 1, "even")[0].numpy().transpose(1, 2, 0)
    assert plain[0, 0, 0] > plain[-1, -1, 0]  # one corner is lighter
    turned(path, matrix)
    found = video.read_frames(path, 1, "even")[0].numpy().transpose(1, 2, 0)
    assert np.array_equal(found, TURNS[turn](plain))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_orientations_of_a_picture(tmp_path: Path, orientation: int, dtype: Any):
    names = ["base", "hflip", "rot180", "vflip", "transp", "rot90", "transverse", "rot270"]
    pixels = (np.arange(20).reshape(5, 4) * (3000 if dtype == np.uint16 else 12)).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = TURNS[names[orientation - 1]](pixels[..., None])[..., 0]
    expected = upright >> 8 if dtype == np.uint16 else upright
    assert np.array_equal(image.read_image("a.png", tmp_path, 1)[0].numpy(), expected)


def encoded(path: Path, wave: np.ndarray, codec: str, form: str | None = None, **options: str) -> Path:
    """A file of one channel of sound at 16 kHz. `quality`: a variable bit rate."""
    quality = options.pop("quality", None)
    if codec == "libvorbis":  # PyAV's own is another one
        soundfile.write(path, wave, RATE)
        return path
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        if quality:
            stream.codec_context.flags |= 2
            stream.codec_context.global_quality = int(quality) * 118
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(stream.format, "mono", stream.rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("header", ["0", "1"])
@pytest.mark.parametrize("silence", ["first", "last", "none"])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("tags", [False, True])
def test_any_mp3_is_whole(tmp_path: Path, header: str, silence: str, times: int, tags: bool):
    """Of a variable bit rate, with and without a header that tells its length, joined, tagged at its end."""
    parts = {"first": [0 * TONE, TONE], "last": [TONE, 0 * TONE], "none": [TONE, TONE]}[silence]
    path = encoded(tmp_path / "a.mp3", np.concatenate(parts), "libmp3lame", quality="4", write_xing=header)
    content = path.read_bytes()
    path.write_bytes(content * times + (b"TAG" + bytes(125)) * tags)
    wave, rate = read_audio(path)
    assert rate == RATE
    delay = 0.11 if header == "0" or times > 1 else 1e-9  # of the encoder: kept where no header tells it
    assert 2 * times - (times - 1) * 0.001 <= len(wave) / RATE <= 2 * times + delay * times
    assert kind_of(AudioFeatures())._header(path)["seconds"] == pytest.approx(len(wave) / RATE, rel=0.06)
    loud = np.abs(wave.numpy()) > 0.2
    share = 1.0 if silence == "none" else 0.5
    assert loud.sum() / RATE == pytest.approx(2 * times * share * 0.73, rel=0.05)  # a sine is that often


def test_an_mp3_that_lacks_its_end_is_told(tmp_path: Path):
    path = encoded(tmp_path / "a.mp3", np.tile(TONE, 4), "libmp3lame")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="is truncated: its header promises 64000 samples, it holds 3"):
        read_audio(path)


@pytest.mark.parametrize(
    ("name", "codec", "form", "slack"),
    [
        ("a.ogg", "libvorbis", None, 0.04),
        ("a.opus", "libopus", None, 0.02),
        ("a.oga", "flac", "ogg", 0.0),
        ("a.flac", "flac", None, 0.0),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_joined_files_are_whole(
    tmp_path: Path, name: str, codec: str, form: str | None, slack: float, times: int
):
    path = encoded(tmp_path / name, TONE, codec, form, strict="experimental")
    path.write_bytes(path.read_bytes() * times)
    wave, rate = read_audio(path)
    assert times <= len(wave) / rate <= times + slack * (times - 1) + 1e-9
    heard = np.flatnonzero(np.abs(wave.numpy()) > 0.2) / rate
    assert np.diff(heard).max() < 0.02
    assert heard[-1] > times - 0.02


def test_one_recording_keeps_the_samples_of_libsndfile(tmp_path: Path):
    for name, codec in (("a.mp3", "libmp3lame"), ("a.ogg", "libvorbis"), ("a.flac", "flac")):
        path = encoded(tmp_path / name, TONE, codec)
        with soundfile.SoundFile(path) as file:
            expected = file.read(dtype="float32")
        assert read_audio(path)[0].numpy().tobytes() == expected.tobytes()


def test_a_flac_that_does_not_tell_its_length(tmp_path: Path):
    """As programs write it that do not know how long a stream will be."""
    path = tmp_path / "a.flac"
    soundfile.write(path, TONE, RATE)
    expected = read_audio(path)[0]
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits in the first block: how many samples there are
    content[22:26] = bytes(4)
    path.write_bytes(bytes(content))
    assert np.array_equal(read_audio(path)[0], expected)
    assert kind_of(AudioFeatures())._header(path)["seconds"] == pytest.approx(1.0)


def test_aac_has_no_length_and_its_delay_is_cut_off(tmp_path: Path):
    wave = np.concatenate([TONE, *[0 * TONE] * 3, TONE])
    bare = encoded(tmp_path / "a.aac", wave, "aac", quality="1")
    assert len(read_audio(bare)[0]) / RATE == pytest.approx(5, abs=0.15)
    assert kind_of(AudioFeatures())._header(bare) == {}
    told = read_audio(encoded(tmp_path / "a.m4a", wave, "aac"))[0]
    assert len(told) / RATE == pytest.approx(5, abs=0.065)
    assert np.flatnonzero(np.abs(told.numpy()) > 0.2)[0] < 0.01 * RATE


@pytest.mark.parametrize("samples", [RATE, RATE - 7, 320])
def test_gsm_has_as_many_samples_as_it_says(tmp_path: Path, samples: int):
    soundfile.write(tmp_path / "a.wav", TONE[:samples], RATE, subtype="GSM610")
    wave, _ = read_audio(tmp_path / "a.wav")
    assert samples <= len(wave) < samples + 320
    assert np.corrcoef(wave[:samples].numpy(), TONE[:samples])[0, 1] > 0.8


def test_an_mp3_in_a_wav(tmp_path: Path):
    path = encoded(tmp_path / "a.wav", np.concatenate([0 * TONE, TONE]), "libmp3lame", quality="4")
    assert len(read_audio(path)[0]) / RATE == pytest.approx(2, abs=0.11)


def shifted(source: Path, path: Path, seconds: float, kinds: str = "audio video") -> Path:
    """The packets of some streams of a file, later by so much, in another file."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            if packet.stream.type in kinds:
                offset = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            packet.stream = streams[packet.stream_index]
            new.mux(packet)
    return path


CODECS = {
    "mkv": {"audio_codec": "pcm_s16le"},
    "mp4": {},
    "mov": {},
    "flv": {"codec": "flv"},
    "avi": {"codec": "mpeg4", "audio_codec": "pcm_s16le"},
    "asf": {"codec": "wmv2", "audio_codec": "mp2"},
    "ts": {"codec": "mpeg2video", "audio_codec": "mp2"},
}


@pytest.mark.parametrize("ending", CODECS)
def test_streams_that_do_not_start_at_zero_are_whole(make_clip: Any, ending: str):
    """As recorders cut one film into several files."""
    first = "a.mp4" if ending in ("mkv", "mov") else f"a.{ending}"  # packets of an mp4 have all their times
    plain = make_clip(first, pictures=50, sound=np.tile(TONE, 2)[None], **CODECS[ending])
    later = shifted(plain, plain.with_name(f"b.{ending}"), 20.0)
    assert len(read_audio(later)[0]) / RATE == pytest.approx(2, abs=0.13)
    pictures = video.read_frames(plain, 2, "even")
    if ending != "avi":  # its first picture stands until the second one
        assert np.array_equal(video.read_frames(later, 2, "even"), pictures)
    if ending in ("mkv", "avi"):
        later.write_bytes(later.read_bytes()[: later.stat().st_size // 2])
        with pytest.raises(MediaError, match=r"is truncated|can not be decoded"):
            video.read_frames(later, 2, "even")


@pytest.mark.parametrize("ending", ["mkv", "mov"])
@pytest.mark.parametrize(("delay", "silence"), [(0.03, 0), (0.4, 0.4)])
def test_late_sound_follows_silence(make_clip: Any, ending: str, delay: float, silence: float):
    plain = make_clip("a.mov", pictures=50, sound=TONE[None], audio_codec="pcm_s16le")
    wave, _ = read_audio(plain)
    late, _ = read_audio(shifted(plain, plain.with_name(f"b.{ending}"), delay, "audio"))
    assert np.array_equal(late, np.concatenate([np.zeros(round(silence * RATE), np.float32), wave]))
    pictures_later = shifted(plain, plain.with_name(f"c.{ending}"), delay, "video")
    assert np.array_equal(read_audio(pictures_later)[0], wave)


# --------------------------------------------------------------------------------------------------- pictures
def png16(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits a channel, which Pillow does not write: grey, grey and alpha, RGB, or RGBA."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    form = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", form), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("bits", "noted"), [(16, False), (12, True), (10, True)])
def test_few_values_of_the_high_byte_are_noted(tmp_path: Path, channels: int, bits: int, noted: bool):
    deep = np.random.default_rng(0).integers(0, 2**bits, (16, 16, channels))
    png16(tmp_path / "a.png", deep)
    colour = 3 if channels > 2 else 1
    notes: dict[str, int] = {}
    found = image.read_image("a.png", tmp_path, colour, notes=notes)
    assert np.array_equal(found.numpy(), (deep[..., :colour] >> 8).transpose(2, 0, 1))
    assert notes == ({"narrow": 1} if noted else {})
    (tmp_path / "clip").mkdir()
    png16(tmp_path / "clip/1.png", deep)
    _, findings = decode_cells(kind_of(VideoFeatures(frames=1, size=[16])), ["clip"], tmp_path)
    assert findings.notes["narrow"] == ({0: 1} if noted else {})


def test_dark_or_plain_pictures_of_16_bits_are_not_noted(tmp_path: Path):
    for name, pixels in (("mask", [0, 65_535]), ("black", [0]), ("steps", [0, 255, 256, 40_000])):
        notes: dict[str, int] = {}
        Image.fromarray(np.resize(np.array(pixels, np.uint16), (8, 8))).save(tmp_path / f"{name}.png")
        image.read_image(f"{name}.png", tmp_path, 1, notes=notes)
        assert not notes


def test_the_note_is_kept_where_a_later_store_copies(make_raw: Any, tmp_path: Path):
    raw = make_raw(12, image=ImageFeatures(size=[8], channels=1), only=["image"])
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 30
    Image.fromarray(deep).save(raw.png(3))
    stores = [tmp_path / "one", tmp_path / "two"]
    for folder, previous in zip(stores, ([], stores[:1]), strict=True):
        write_store(folder, raw.manifest, raw.root, raw.settings(), previous=previous)
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        assert any("high byte" in note and "s003" in note for note in meta["notes"])
        raw.table = raw.table.iloc[::-1].reset_index(drop=True)  # another store of the same pictures


def test_a_range_of_values_for_more_than_8_bits(tmp_path: Path):
    pixels = np.array([[-5.0, 0.0, 50.0, 100.0, 1e9]], np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    found = image.read_image("a.tif", tmp_path, 1, value_range=[0, 100])
    assert found.tolist() == [[[0, 0, 128, 255, 255]]]
    with pytest.raises(MediaError, match=r"has 32-bit pixels \(mode F\).*give `value_range`, or save 8 bits"):
        image.read_image("a.tif", tmp_path, 1)
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match="has 1 pixels that are not finite"):
        image.read_image("a.tif", tmp_path, 1, value_range=[0, 100])
    Image.fromarray(np.full((2, 2), 77, np.uint8)).save(tmp_path / "a.png")  # 8 bits are what they are
    assert set(image.read_image("a.png", tmp_path, 1, value_range=[0, 100]).flatten().tolist()) == {77}


def test_a_range_that_does_not_ascend_is_refused():
    with pytest.raises(ValueError, match=r"value_range \[5.0, 5.0\] is not \[lowest, highest\]"):
        ImageFeatures(value_range=[5, 5])


@pytest.mark.parametrize("highest", [1023, 4095, 65_535])
def test_a_pgm_tells_its_highest_value(tmp_path: Path, highest: int):
    pixels = np.linspace(0, highest, 20).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(f"P5 5 4 {highest}\n".encode() + pixels.tobytes())
    found = image.read_image("a.pgm", tmp_path, 1).numpy().ravel()
    assert np.abs(found - pixels / highest * 255).max() <= 1


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("white", [0, 65_535])
def test_grey_tiffs(tmp_path: Path, bits: int, white: int):
    """PhotometricInterpretation 0 (white is zero) and 1; those of 12 bits are packed."""
    values = (np.arange(20) * 3000) >> (16 - bits)
    packed = int("".join(f"{v:0{bits}b}" for v in values), 2).to_bytes(20 * bits // 8, "big")
    if bits == 16:
        packed = values.astype("<u2").tobytes()
    tags = {256: 4, 257: 5, 258: bits, 259: 1, 262: int(white > 0), 273: 8, 277: 1, 278: 5, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    (tmp_path / "a.tif").write_bytes(start + packed + struct.pack("<H", len(tags)) + entries + bytes(4))
    if bits == 12 and not white:  # Pillow does not know it
        with pytest.raises(MediaError, match=r"a\.tif can not be decoded \(cannot identify image file"):
            image.read_image("a.tif", tmp_path, 1)
        return
    expected = values >> (bits - 8) if white else 255 - (values >> (bits - 8))
    assert image.read_image("a.tif", tmp_path, 1).numpy().ravel().tolist() == expected.tolist()


def test_the_first_of_several_pictures(tmp_path: Path):
    first, second = (Image.new("RGB", (4, 5), (level,) * 3) for level in (10, 200))
    for ending in ("png", "tif", "gif", "webp"):
        more: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
        first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second], **more)
        assert set(image.read_image(f"a.{ending}", tmp_path, 3).flatten().tolist()) == {10}


def test_a_cmyk_jpeg_is_no_negative(tmp_path: Path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.abs(image.read_image("a.jpg", tmp_path, 3)[:, 0, 0].numpy() - np.array([255, 0, 0])).max() <= 2


# ---------------------------------------------------------------------------------- whatever a library raises
BROKEN = [
    struct.error("unpack requires a buffer of 4 bytes"),
    MemoryError(),
    SyntaxError("broken PNG file"),
    OverflowError("too large"),
    ZeroDivisionError("division by zero"),
    AssertionError("a decoder's own"),
    RecursionError("maximum depth"),
]


@pytest.mark.parametrize("error", BROKEN, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_any_error_of_a_decoder_is_the_file_s(
    make_clip: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
):
    root = make_clip("good.mp4").parent
    soundfile.write(root / "good.wav", TONE, RATE, subtype="FLOAT")
    Image.new("RGB", (8, 8), (9, 8, 7)).save(root / "good.png")
    ending = {"audio": "wav", "image": "png", "video": "mp4"}[kind]
    (root / f"bad.{ending}").write_bytes((root / f"good.{ending}").read_bytes())
    module, name = {"audio": (soundfile, "SoundFile"), "image": (Image, "open"), "video": (av, "open")}[kind]
    original = getattr(module, name)

    def broken(file: Any, *args: Any, **kwargs: Any) -> Any:
        if calls and (kind == "image" or "bad" in str(file)):
            raise error
        calls.append(file)
        return original(file, *args, **kwargs)

    calls: list[Any] = []
    monkeypatch.setattr(module, name, broken)
    of = {
        "audio": AudioFeatures(),
        "image": ImageFeatures(size=[8]),
        "video": VideoFeatures(frames=1, size=[8]),
    }
    values, findings = decode_cells(kind_of(of[kind]), [f"good.{ending}", f"bad.{ending}"], root)
    assert list(findings.faults) == [1]
    assert findings.faults[1].startswith(f"can not be decoded ({type(error).__name__}")
    assert str(error) in findings.faults[1]
    assert values[0].any()
    assert kind == "audio" or not values[1].any()  # a spectrogram is logarithmic


def test_the_cause_of_a_fault_is_kept_and_errors_of_ours_pass(tmp_path: Path):
    reason = r"a\.png can not be decoded \(TypeError: two lines\)"
    with pytest.raises(MediaError, match=reason) as caught, decoding(tmp_path / "a.png"):
        raise TypeError("two\nlines")
    assert isinstance(caught.value.__cause__, TypeError)
    fault = MediaError("a.wav", "is bad")
    with pytest.raises(MediaError) as passed, decoding(tmp_path / "a.png"):
        raise fault
    assert passed.value is fault
    with pytest.raises(KeyboardInterrupt), decoding(tmp_path / "a.png"):
        raise KeyboardInterrupt


def test_a_header_that_can_not_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    kind = kind_of(ImageFeatures())
    assert kind._header(tmp_path / "a.png") == {"width": 100.0, "height": 100.0}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert kind._header(tmp_path / "a.png") == {}
