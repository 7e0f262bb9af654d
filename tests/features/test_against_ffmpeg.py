"""What is decoded of every real file is what the `ffmpeg` command decodes, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from g2d_pipeline.features.containers import opened, video_stream
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds import video
from tests.conftest import read_audio

FFMPEG = shutil.which("ffmpeg")
pytestmark = [
    pytest.mark.skipif(FFMPEG is None, reason="no `ffmpeg` on PATH (5.1 or later: apt install ffmpeg)"),
    pytest.mark.slow,
]

FOLDERS = ["video_samples", "grid_clips", "ravdess_av", "hard_inputs"]
FILMS = {".mp4", ".webm", ".mpg", ".mkv"}
SOUNDS = {".mp3", ".ogg", ".wav"}
LATE = ["late.mkv", "late.mp4"]  # where ffmpeg fills up only when it is asked to
LOUDER = 1e-4  # of full scale: versions of a codec, and libsndfile's, round differently; no shift stays below
LONGER = 2048  # samples, a block of AAC: newer versions of ffmpeg cut the end as an mp4's edit list says
BRIGHTER = 1.0  # of 255, on average: versions of swscale convert colours differently; a mirror is far above


def files(folder: Path, endings: set[str]) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix in endings)


def ffmpeg(path: Path, *options: str) -> tuple[bytes, str]:
    """(standard output, errors) of `ffmpeg -i path options -`."""
    command = [str(FFMPEG), "-nostdin", "-v", "error", "-i", str(path), *options, "-"]
    run = subprocess.run(command, capture_output=True, check=False)
    return run.stdout, run.stderr.decode(errors="replace")


def their_sound(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        channels = container.streams.audio[0].channels
    fill = ["-af", "aresample=async=1:first_pts=0"] if path.name in LATE else []
    raw, _ = ffmpeg(path, "-map", "0:a:0", *fill, "-c:a", "pcm_f32le", "-f", "f32le")
    return np.frombuffer(raw, "<f4").reshape(-1, channels).mean(axis=1)


@pytest.mark.parametrize("folder", FOLDERS)
def test_sound(shared_data: Path, folder: str):
    found = files(shared_data / folder, FILMS | SOUNDS)
    assert len(found) >= 8
    for path in found:
        try:
            ours = read_audio(path)[0].numpy()
        except MediaError:  # a film without sound
            raw, said = ffmpeg(path, "-map", "0:a:0", "-f", "f32le")
            assert not raw, path
            assert said, path
            continue
        theirs = their_sound(path)
        assert abs(len(ours) - len(theirs)) < LONGER, path
        both = min(len(ours), len(theirs))
        assert np.abs(ours[:both] - theirs[:both]).max() <= LOUDER, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_frames(shared_data: Path, folder: str):
    found = files(shared_data / folder, FILMS)
    assert len(found) >= 8
    for path in found:
        try:
            ours = video.read_frames(path, 2, "even").numpy()
        except MediaError:
            assert ffmpeg(path, "-map", "0:v:0", "-f", "null")[1], path
            continue
        with opened(path) as container:
            stream = video_stream(container, path)
            first, second = video.choose(path, video.survey(container, stream, path), 2, "even")
        chosen = ["-vf", f"select=eq(n\\,{first})+eq(n\\,{second})", "-fps_mode", "passthrough"]
        raw, _ = ffmpeg(path, "-map", "0:v:0", *chosen, "-pix_fmt", "rgb24", "-f", "rawvideo")
        theirs = np.frombuffer(raw, np.uint8).reshape(2, *ours.shape[2:], 3).transpose(0, 3, 1, 2)
        assert np.abs(ours.astype(int) - theirs).mean() <= BRIGHTER, path
