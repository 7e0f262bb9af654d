"""The simulated VGGSound folder: the official list, real containers, sounds that tell more than pictures."""

from __future__ import annotations

import csv
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from sklearn.ensemble import RandomForestClassifier

from g2d_pipeline.sources.vggsound.simulated import CLASSES, Row, draw, list_rows, make, play


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    start = time.process_time()
    make(folder, 60, seed=0)
    assert time.process_time() - start < 10
    return folder


def videos(folder: Path) -> dict[str, tuple[int, float, int, float]]:
    """name → frames, frames a second, sound tracks, seconds."""
    found = {}
    for path in sorted((folder / "video").glob("*.mp4")):
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            seconds = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
            assert (video.width, video.height) == (64, 48)
            assert {s.codec_context.name for s in container.streams.audio} <= {"aac"}
            rate = float(video.average_rate or 0)
            found[path.stem] = (video.frames, rate, len(container.streams.audio), seconds)
    return found


def test_the_list_is_official_and_partly_without_files(sample: Path) -> None:
    with (sample / "vggsound.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 60
    assert all(len(video) == 11 and start.isdigit() for video, start, _, _ in rows)
    assert {label for _, _, label, _ in rows} == set(CLASSES)
    assert b'"bird chirping, tweeting"' in (sample / "vggsound.csv").read_bytes()
    assert rows[0][3] in ("train", "test")
    names = [f"{video}_{int(start):06d}" for video, start, _, _ in rows]
    there = {p.stem[:11] for p in sample.rglob("*.mp4")} | {p.stem[:11] for p in sample.rglob("*.wav")}
    assert sum(name[:11] not in there for name in names) in (
        5,
        6,
    )  # 6 files, perhaps one of a video with two clips
    assert any(name.startswith("---") for name in names)
    assert sum(p.stat().st_size for p in sample.rglob("*") if p.is_file()) < 4e6


def test_videos_have_the_blemishes_of_real_ones(sample: Path) -> None:
    found = videos(sample)
    assert Counter(tracks for _, _, tracks, _ in found.values()) == {1: len(found) - 1, 0: 1}
    assert {round(rate, 3) for count, rate, _, _ in found.values() if count > 3} == {25.0, 23.976}
    assert sum(count == 3 for count, *_ in found.values()) == 1
    assert sum(abs(seconds - 4) < 0.1 for *_, seconds in found.values()) == 1
    assert sum(abs(seconds - 10) < 0.1 for *_, seconds in found.values()) == len(found) - 2
    assert any(name.count("000_") for name in found)
    waves = sorted((sample / "audio/train").glob("*.wav"))
    assert waves
    for path in waves:
        assert (soundfile.info(path).samplerate, soundfile.info(path).frames) == (16_000, 160_000)
        pictures = sorted(p.name for p in (sample / "video/frames/train/Image-01-FPS" / path.stem).iterdir())
        assert pictures[:2] in (["00000.jpg", "00025.jpg"], ["00000.jpg", "00023.jpg"])
        assert len(pictures) in (10, 11)


@pytest.mark.parametrize(("clips", "seed"), [(60, 0), (120, 0), (120, 3), (331, 1)])
def test_lists_of_any_length_keep_every_class_in_both_splits(clips: int, seed: int) -> None:
    rows = list_rows(clips, seed)
    usable = [row for row in rows if row.fault in (None, "short", "mute")]
    assert len(rows) == clips
    assert len({(row.video, row.start) for row in rows}) == clips
    for split in ("train", "test"):
        assert {row.label for row in usable if row.split == split} == set(range(len(CLASSES)))
    faults = Counter(row.fault for row in rows)
    assert faults.pop(None) == clips - round(clips * 0.1) - 4
    assert faults == {
        "missing": round(clips * 0.1),
        "short": 1,
        "mute": 1,
        "no sound track": 1,
        "three frames": 1,
    }
    assert any(is_swapped(row, rows) for row in rows)


def is_swapped(row: Row, rows: list[Row]) -> bool:
    return any(other.video != row.video and other.video.casefold() == row.video.casefold() for other in rows)


def test_sounds_tell_more_than_pictures_and_both_something() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % len(CLASSES)
    heard, seen = [], []
    for label in labels:
        power = np.abs(np.fft.rfft(play(int(label), 1, rng).reshape(-1, 1000), axis=1)) ** 2
        heard.append(np.log(power.mean(axis=0) + 1e-6))
        pictures = np.stack([np.asarray(p) for p in draw(int(label), 3, rng)]) // 64
        codes = (pictures * [16, 4, 1]).sum(axis=-1)
        seen.append(np.bincount(codes.reshape(-1), minlength=64) / codes.size)
    score = {}
    for name, x in (("audio", np.stack(heard)), ("visual", np.stack(seen))):
        score[name] = (
            RandomForestClassifier(100, random_state=0)
            .fit(x[:140], labels[:140])
            .score(x[140:], labels[140:])
        )
    assert score["audio"] > 0.6
    assert 0.15 < score["visual"] < score["audio"] - 0.2
