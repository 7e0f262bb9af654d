"""Every real file is accounted for: it gets into the features, or is named with its reason
(scripts/real_files.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from g2d_pipeline.config import VideoFeatures
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import audio, video
from tests.conftest import read_audio

# Of large homogeneous folders, one file (or row) in so many; of the odd ones, all.
EVERY = {
    "fsdd": 50,
    "houses": 60,
    "mnist_t10k": 200,
    "cremad_features": 50,
    "grid_clips": 4,
    "ravdess_audio": 3,
    "ravdess_av": 3,
}
LFS = "is a Git-LFS pointer, not the file itself (run `git lfs pull` in the copy)"
CORRUPT = "can not be decoded: it fails after 28 frames (Invalid data found when processing input)"
NAMED = {
    ("video_samples", "3 pictures, spread"): {"corrupted.mp4": CORRUPT},
    ("video_samples", "3 pictures, one a second"): {
        "bigbuckbunny_1s.webm": "is too short: it has 1 picture at one a second, 3 are asked for",
        "realshort.mp4": "is too short: it has 2 pictures at one a second, 3 are asked for",
        "no_audio.mp4": "is too short: it has 2 pictures at one a second, 3 are asked for",
        "corrupted.mp4": CORRUPT,
    },
    ("video_samples", "sound track"): dict.fromkeys(
        ["carphone_no_audio.mp4", "corrupted.mp4", "no_audio.mp4"], "has no sound track"
    ),
    ("cremad_meta", "recording"): {
        f"lfs_pointers/AudioWAV/1001_{clip}.wav": LFS
        for clip in ("DFA_ANG_XX", "IEO_ANG_HI", "IEO_ANG_LO", "IEO_ANG_MD")
    },
    ("cremad_meta", "1 picture, one a second"): {
        f"lfs_pointers/VideoFlash/1001_{clip}.flv": LFS for clip in ("DFA_ANG_XX", "IEO_ANG_HI")
    },
}
SILENT = {
    ("video_samples", "sound track"): ["cockatoo_silent_track.mp4", "no_duration.webm"],
    ("ravdess_av", "sound track"): ["original/02-01-01-01-01-01-01.mp4"],
}


@pytest.fixture(scope="module")
def real_files(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_files", repository / "scripts/real_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_files"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/results/real_files.md").read_text("utf-8")


def test_every_file_is_through_or_named(real_files: ModuleType, page: str, shared_data: Path) -> None:
    named: dict[tuple[str, str], dict[str, str]] = {}
    silent: dict[tuple[str, str], list[str]] = {}
    seen = 0
    for check in real_files.CHECKS:
        cells = check.cells(shared_data)
        if check.patterns.startswith("original/"):
            cells = [c for c in cells if c.startswith("original/02")]  # large; the others are in small/, too
        assert cells, check
        for way in check.ways:
            found = real_files.account(check, way, shared_data, cells[:: EVERY.get(check.folder, 1)])
            assert found.unaccounted == 0, found
            seen += found.given
            if found.named:
                named[check.folder, way] = found.named
            if found.constant:
                silent[check.folder, way] = found.constant
            for cell, said in found.named.items():
                assert f"| {check.folder}/{cell} | {way} | {said} |" in page
    assert seen > 200
    assert named == NAMED
    assert silent == SILENT  # and so no quiet recording is taken for silence


def test_the_page_counts_every_media_file(real_files: ModuleType, page: str, shared_data: Path) -> None:
    assert str(shared_data) not in page
    for check in real_files.CHECKS:
        for way in check.ways:
            line = f"| {check.folder} | `{check.patterns}` | {way} | {len(check.cells(shared_data)):,} |"
            assert line in page
    rest = page.partition("## Files that are no samples")[2]
    listed = [
        f.suffix for f in shared_data.rglob("*") if f"- {f.relative_to(shared_data).as_posix()}\n" in rest
    ]
    assert ".csv" in listed
    assert not {".mp4", ".webm", ".mpg", ".flv", ".wav", ".jpg", ".gz"} & set(listed)


def test_the_lists_of_vggsound_are_read_to_the_last_row(real_files: ModuleType, shared_data: Path) -> None:
    official, head, digits = real_files.list_accounts(shared_data)
    assert (official.rows, official.read) == (15_446, 15_446)
    assert official.told == ["309 of the 309 classes, 23 with a comma", "299 ids begin with a dash"]
    assert (head.rows, head.read) == (100, 100)
    assert digits.read == 10_000
    said = real_files.missing_clips(shared_data).splitlines()
    assert said[0].startswith("15,538 of the 15,539 clips in the lists can not be used")
    assert len(said) == 1 + 5 + 1 + 1  # one summary, five of them, how many more, what to do
    assert "15533 more, 15538 in all" in said[-2]


# ----------------------------------------------------------------------------------------------- the odd ones
@pytest.mark.parametrize("frames", [1, 28, 29])
def test_the_corrupt_clip_never_yields_features(shared_data: Path, frames: int) -> None:
    """Not even as many pictures as can be decoded of it."""
    kind = video.Video(VideoFeatures(frames=frames, pick="even", size=[16]))
    values, found = decode_cells(kind, ["corrupted.mp4"], shared_data / "video_samples")
    assert "fails after 28 frames" in found.faults[0]
    assert not values.any()


def test_of_two_streams_the_first_is_taken(shared_data: Path) -> None:
    path = shared_data / "video_samples/nasa_two_video_two_audio.mp4"
    assert tuple(video.read_frames(path, 1, "even").shape) == (1, 3, 180, 320)
    wave, rate = read_audio(path)
    assert rate == 8000  # the second has 16,000
    assert len(wave) / rate == pytest.approx(13.06, abs=0.01)


def test_six_channels_are_averaged(shared_data: Path) -> None:
    import av

    path = shared_data / "video_samples/bigbuckbunny_6ch.mp4"
    with av.open(str(path)) as container:
        channels = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert len(channels) == 6
    wave, _ = read_audio(path)
    assert np.allclose(wave.numpy(), channels.mean(axis=0), atol=1e-6)


def test_a_clip_shorter_than_the_features_is_repeated_or_named(shared_data: Path) -> None:
    path = shared_data / "video_samples/realshort.mp4"
    assert len(video.read_frames(path, 36, "even")) == 36
    with pytest.raises(MediaError, match="it has 36 pictures, 37 are asked for"):
        video.read_frames(path, 37, "even")


def test_quiet_recordings_are_not_silent_and_filler_before_the_samples_is_not_heard(
    real_files: ModuleType, shared_data: Path
) -> None:
    import wave as plain

    files = sorted((shared_data / "ravdess_audio").glob("*.wav"))
    assert len(files) == 34
    stereo = 0
    for path in files:
        found, rate = read_audio(path)
        assert not audio.is_silent(found, rate, real_files.SOUND)
        assert 0.001 < float(found.square().mean().sqrt()) < 0.02
        assert b"FLLR" in path.read_bytes()[:64]
        with plain.open(str(path)) as file:
            stereo += file.getnchannels() == 2
            samples = np.frombuffer(file.readframes(-1), "<i2").reshape(-1, file.getnchannels())
        assert torch.equal(found, torch.from_numpy((samples.mean(axis=1) / 32768).astype(np.float32)))
    assert stereo == 2
