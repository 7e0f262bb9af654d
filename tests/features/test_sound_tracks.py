"""The sound of films, and of what soundfile does not know."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from g2d_pipeline.config import AudioFeatures
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import audio
from tests.conftest import read_audio

TONE = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000, dtype=np.float32)

SAMPLES = {  # seconds, rate: of the README of video_samples
    "realshort.mp4": (1.17, 48_000),
    "bigbuckbunny_1s.webm": (1.01, 44_100),
    "bigbuckbunny_6ch.mp4": (5.31, 48_000),
    "nasa_two_video_two_audio.mp4": (13.06, 8_000),
    "smpte_1080p.mp4": (10.05, 48_000),
    "video_with_failing_audio.mp4": (11.23, 44_100),
    "cockatoo_silent_track.mp4": (13.90, 16_000),
    "no_duration.webm": (4.86, 48_000),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_real_films(shared_data: Path, name: str):
    wave, rate = read_audio(shared_data / "video_samples" / name)
    assert (round(len(wave) / rate, 2), rate) == SAMPLES[name]
    silent = audio.is_silent(wave, rate, AudioFeatures(seconds=20))
    assert silent == (name in ("cockatoo_silent_track.mp4", "no_duration.webm"))


@pytest.mark.parametrize("name", ["no_audio.mp4", "carphone_no_audio.mp4", "corrupted.mp4"])
def test_a_film_without_sound_is_told(shared_data: Path, name: str):
    with pytest.raises(MediaError, match=f"{name} has no sound track"):
        read_audio(shared_data / "video_samples" / name)


def test_a_made_film_without_sound_is_told(make_clip: Any):
    with pytest.raises(MediaError, match=r"(?s)a.mp4 has no sound track.*What to do"):
        read_audio(make_clip("a.mp4", pictures=5))


def test_grid_and_ravdess(shared_data: Path):
    for path in sorted((shared_data / "grid_clips").glob("*.mpg")):
        wave, rate = read_audio(path)
        assert (rate, round(len(wave) / rate, 2)) == (44_100, 2.98)
        assert float(wave.abs().max()) > 0.01
    for path in sorted((shared_data / "ravdess_av/small").glob("*.mp4")):
        wave, rate = read_audio(path)
        assert rate == 48_000
        assert 3 < len(wave) / rate < 4


@pytest.mark.parametrize(
    ("name", "codec", "pictures"),
    [
        ("a.mp4", "aac", 24),
        ("a.m4a", "aac", 0),
        ("a.mkv", "pcm_s16le", 24),
        ("a.flv", "aac", 24),
        ("a.mpg", "mp2", 24),
    ],
)
def test_channels_are_averaged(make_clip: Any, name: str, codec: str, pictures: int):
    picture = {".flv": "flv", ".mpg": "mpeg1video"}.get(Path(name).suffix, "libx264")
    path = make_clip(
        name, pictures, codec=picture, audio_codec=codec, sound=np.stack([0.5 * TONE, 0.25 * TONE])
    )
    wave, rate = read_audio(path)
    assert rate == 16_000
    assert len(wave) / rate == pytest.approx(1, abs=0.15)  # whole blocks of the codec
    middle = wave[4_000:12_000].numpy()
    assert math.sqrt(2 * np.square(middle).mean()) == pytest.approx(0.375, rel=0.03)


def test_one_waveform_in_two_containers(make_clip: Any, tmp_path: Path):
    """The same 16-bit samples through PyAV and through soundfile."""
    rng = np.random.default_rng(0)
    samples = rng.integers(-20_000, 20_000, (4_000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    path = make_clip("a.mkv", 0, audio_codec="pcm_s16le", sound=samples.T.astype(np.float32) / 32_768)
    ours, theirs = read_audio(path)[0], read_audio(tmp_path / "a.wav")[0]
    assert np.abs(ours.numpy() - theirs.numpy()).max() <= 1 / 32_768


def test_a_truncated_film_is_told(make_clip: Any):
    path = make_clip("a.mkv", 0, sound=np.tile(TONE, 4)[None])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        MediaError, match=r"is truncated: its header promises 4.0\d s, it holds [123]\.\d\d s"
    ):
        read_audio(path)


def test_a_picture_has_no_sound(shared_data: Path):
    picture = min((shared_data / "houses/images").glob("*.jpg"))
    with pytest.raises(MediaError, match="can not be decoded: it is a picture"):
        read_audio(picture)
