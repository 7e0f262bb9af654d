"""The simulated CREMA-D folder: equal bytes on every run, the published layout, voices and faces worth
learning."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from g2d_pipeline.sources.crema_d.clips import EMOTIONS, Clip
from g2d_pipeline.sources.crema_d.simulated import STEP, make

CLIPS = 120


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    start = time.process_time()
    make(folder, CLIPS, seed=0)
    assert time.process_time() - start < 15
    return folder


def rows(folder: Path, split: str) -> list[tuple[str, str]]:
    return [(name, label) for name, label in csv.reader((folder / f"{split}.csv").read_text().splitlines())]


def film(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_layout_and_counts(sample: Path) -> None:
    listed = rows(sample, "train") + rows(sample, "test")
    names = sorted(name for name, _ in listed)
    assert len(set(names)) == CLIPS
    assert names == sorted(p.stem for p in sample.glob("AudioWAV/*.wav"))
    assert names == sorted(p.stem for p in sample.glob("VideoFlash/*.flv"))
    clips = [clip for name in names if (clip := Clip.parse(name))]
    assert {clip.actor for clip in clips} == {str(1001 + k) for k in range(6)}
    assert {clip.level for clip in clips if clip.sentence == "IEO"} == {"XX", "LO", "MD", "HI"}
    assert all(EMOTIONS[clip.target] == dict(listed)[clip.name] for clip in clips)
    for split, least in (("train", 14), ("test", 3)):
        assert all(sum(label == e for _, label in rows(sample, split)) >= least for e in EMOTIONS)
    assert (sample / "train.csv").read_bytes().count(b"\r\n") == len(rows(sample, "train"))
    assert (sample / "stat.csv").read_bytes() == b"\xef\xbb\xbfNEU\r\nHAP\r\nSAD\r\nFEA\r\nDIS\r\nANG\r\n"
    assert sum(p.stat().st_size for p in sample.rglob("*") if p.is_file()) < 15e6


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("SentenceFilenames.csv", ["Stimulus_Number", "Filename"]),
        ("VideoDemographics.csv", ["ActorID", "Age", "Sex", "Race", "Ethnicity"]),
        (
            "processedResults/summaryTable.csv",
            ["", "FileName", "VoiceVote", "VoiceLevel", "FaceVote", "FaceLevel"],
        ),
    ],
)
def test_tables_have_the_published_columns(sample: Path, file: str, header: list[str]) -> None:
    lines = list(csv.reader((sample / file).read_text().splitlines()))
    assert lines[0][: len(header)] == header
    assert len(lines) - 1 == (6 if "ActorID" in header else CLIPS)


def test_lengths_and_formats_are_those_of_the_recordings(sample: Path) -> None:
    seconds = []
    for path in sorted(sample.glob("AudioWAV/*.wav")):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        seconds.append(info.duration)
    assert (min(seconds), max(seconds)) == (1.27, 5.0)
    assert any(s < 1.5 for s in seconds)
    assert any(2 < s < 3 for s in seconds)
    assert sum(s > 3 for s in seconds) >= 2
    extracted = set()
    for path in sorted(sample.glob("VideoFlash/*.flv"))[::6]:
        frames = film(path)
        assert len(frames) == round(
            soundfile.info(sample / f"AudioWAV/{path.stem}.wav").duration * 30_000 / 1001
        )
        extracted.add(-(-len(frames) // STEP))
    assert extracted >= {2, 3}


def test_where_flv_can_not_be_written_there_are_mp4_and_pictures(tmp_path: Path) -> None:
    make(tmp_path, 12, seed=0, film="mp4")
    for path in tmp_path.glob("VideoFlash/*.mp4"):
        pictures = sorted(p.name for p in (tmp_path / f"Image-01-FPS/{path.stem}").iterdir())
        assert pictures == [f"{k:05d}.jpg" for k in range(0, len(film(path)), STEP)]
    assert len(list(tmp_path.glob("Image-01-FPS/*"))) == 12


def test_voices_and_faces_tell_the_emotion_but_not_always(sample: Path) -> None:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    voices, faces, labels = [], [], []
    for name, label in rows(sample, "train") + rows(sample, "test"):
        wave, _ = soundfile.read(sample / f"AudioWAV/{name}.wav")
        windows = wave[: len(wave) // 512 * 512].reshape(-1, 512) * np.hanning(512)
        spectrum = np.log(np.abs(np.fft.rfft(windows)) + 1e-4)
        voices.append(np.r_[spectrum.mean(0), spectrum.std(0)])
        picture = film(sample / f"VideoFlash/{name}.flv")[STEP].reformat(40, 30, "gray")
        faces.append(picture.to_ndarray().ravel() / 255)
        labels.append(label)
    model = make_pipeline(StandardScaler(), PCA(20, random_state=0), LogisticRegression(C=0.3, max_iter=2000))
    voice, face = (cross_val_score(model, np.array(x), labels, cv=5).mean() for x in (voices, faces))
    assert 0.55 < voice < 0.95
    assert 0.55 < face < 0.95


def test_many_clips_need_more_actors(tmp_path: Path) -> None:
    from g2d_pipeline.sources.crema_d.simulated import _clips

    names = [clip.name for clip in _clips(600)]
    assert len(set(names)) == 600
    assert len({name[:4] for name in names}) == 8
