"""Stores of clips, sequences, vectors and float pictures: the same path as recordings and pictures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from g2d_pipeline.config import (
    AudioFeatures,
    FeaturizeSettings,
    ImageFeatures,
    RunOptions,
    SequenceFeatures,
    VectorFeatures,
    VideoFeatures,
)
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import chunks, files, media, open_store, write_store, writing
from g2d_pipeline.features.kinds import video

N = 10
VIDEO = VideoFeatures(frames=2, size=[8, 12])
SOUND = AudioFeatures(sample_rate=8_000, seconds=0.5, n_fft=64, hop_length=64)
SEQUENCE = SequenceFeatures(steps=4)
PICTURE = ImageFeatures(size=[5, 4], channels=1)


class Folder:
    """A raw folder of `N` samples in three clips with sound, `N` sequences, an array of vectors and one of
    pictures."""

    def __init__(self, root: Path, make_clip: Any) -> None:
        rng = np.random.default_rng(3)
        self.root = root
        self.modalities: dict[str, Any] = {
            "face": VIDEO, "voice": SOUND, "words": SEQUENCE, "summary": VectorFeatures(), "digit": PICTURE,
        }  # fmt: skip
        for k in range(2):
            sound = 0.3 * rng.standard_normal((1, 16_000)).astype(np.float32)
            make_clip(f"{k}.mp4", pictures=10 + k, sound=sound).rename(root / f"{k}.mp4")
        (root / "frames").mkdir()
        for i in range(3):
            Image.new("RGB", (9, 7), (40 * i, 0, 9)).save(root / f"frames/{i}.png")
        self.lengths = rng.integers(1, 7, N)
        for i, length in enumerate(self.lengths):
            np.save(root / f"{i}.npy", rng.normal(5, 2, (length, 3)))
        np.save(root / "vectors.npy", rng.normal(-1, 3, (N, 6)))
        np.save(root / "digits.npy", rng.normal(0, 30, (N, 20)))
        self.table = pd.DataFrame({
            "sample_id": [f"s{i}" for i in range(N)],
            "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 2,
            "target": np.arange(N) % 3,
            "face": [["0.mp4", "1.mp4", "frames"][i % 3] for i in range(N)],
            "voice": [["0.mp4", "1.mp4"][i % 2] for i in range(N)],
            "words": [f"{i}.npy" for i in range(N)],
            "summary": [f"vectors.npy#{i}" for i in range(N)],
            "digit": [f"digits.npy#{i}" for i in range(N)],
        })  # fmt: skip

    def write(self, folder: Path, only: str | None = None, workers: int = 1) -> Path:
        modalities = {m: s for m, s in self.modalities.items() if only in (None, m)}
        self.meta = {
            "dataset": "made_up", "task": "classification", "class_names": ["a", "b", "c"],
            "target": {"name": "label", "unit": ""}, "source": "raw", "columns": {m: [m] for m in modalities},
            "counts": {s: int((self.table["split"] == s).sum()) for s in ("train", "val", "test")},
        }  # fmt: skip
        options = RunOptions(device="cpu", progress=False, compute={"workers": workers})
        settings = FeaturizeSettings(dataset="made_up", modalities=modalities, options=options)
        write_store(folder, self, self.root, settings)
        return folder


@pytest.fixture
def raw(tmp_path: Path, make_clip: Any) -> Folder:
    (tmp_path / "raw").mkdir()
    return Folder(tmp_path / "raw", make_clip)


def test_a_store_of_every_kind(raw: Folder, tmp_path: Path):
    store = open_store(raw.write(tmp_path / "store"))
    store.verify()
    forms = {m: (str(a.dtype), a.shape) for m, a in store.arrays.items()}
    assert forms == {
        "face": ("uint8", (N, 3, 2, 8, 12)),
        "voice": ("float32", (N, 1, 33, 63)),
        "words": ("float32", (N, 4, 4)),
        "summary": ("float32", (N, 6)),
        "digit": ("float32", (N, 1, 5, 4)),
    }
    normalisers = {m: about["normaliser"] for m, about in store.meta["modalities"].items()}
    train = store.rows("train")

    face = store.arrays["face"][train] / 255
    assert normalisers["face"]["scale"] == 1 / 255
    np.testing.assert_allclose(normalisers["face"]["mean"], face.mean(axis=(0, 2, 3, 4)))
    np.testing.assert_allclose(normalisers["face"]["std"], face.std(axis=(0, 2, 3, 4)))

    words = store.arrays["words"]
    assert words[:, 3].sum(axis=1).tolist() == np.minimum(raw.lengths, 4).tolist()
    steps = np.concatenate([np.load(raw.root / f"{i}.npy")[:4] for i in train]).astype(np.float32)
    np.testing.assert_allclose(normalisers["words"]["mean"], [*steps.mean(axis=0, dtype=float), 0], rtol=1e-6)
    np.testing.assert_allclose(normalisers["words"]["std"], [*steps.std(axis=0, dtype=float), 1], rtol=1e-6)

    vectors = np.load(raw.root / "vectors.npy")
    np.testing.assert_allclose(normalisers["summary"]["mean"], vectors[train].mean(axis=0), rtol=1e-6)
    assert np.array_equal(store.arrays["summary"], vectors.astype(np.float32))

    digits = np.load(raw.root / "digits.npy").astype(np.float32)
    assert np.array_equal(store.arrays["digit"][:, 0], digits.reshape(N, 5, 4))
    assert normalisers["digit"]["scale"] == 1

    longer = [i for i in range(N) if raw.lengths[i] > 4]
    lost = sum(raw.lengths[i] - 4 for i in longer)
    assert store.meta["notes"] == [
        f"words: {len(longer)} of 10 samples have sequences longer than `steps`, whose end is left out "
        f"({lost} steps in all): {', '.join(f's{i}' for i in longer[:5])}"
        + (", …" if len(longer) > 5 else "")
    ]


def test_a_clip_of_several_samples_is_decoded_once(
    raw: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decoded: list[str] = []
    original = video.read_frames
    monkeypatch.setattr(
        video, "read_frames", lambda path, *of: decoded.append(path.name) or original(path, *of)
    )
    store = open_store(raw.write(tmp_path / "store", only="face"))
    assert decoded == ["0.mp4", "1.mp4", "frames"]
    assert store.meta["modalities"]["face"]["statistics"] == {"distinct": 3}
    assert np.array_equal(store.arrays["face"][0], store.arrays["face"][9])


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_any_number_of_workers_writes_the_same_bytes(
    raw: Folder, tmp_path: Path, contents: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    whole = contents(raw.write(tmp_path / "whole"))
    monkeypatch.setattr(media, "CHUNK", 2)
    chunked = contents(raw.write(tmp_path / "chunked"))
    assert chunked == whole
    monkeypatch.setattr(media, "START_UP", -1.0)
    assert contents(raw.write(tmp_path / "many", workers=2)) == whole


class Killed(BaseException):
    """As a signal would end the run."""


def test_a_killed_run_goes_on(
    raw: Folder, tmp_path: Path, contents: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    whole = contents(raw.write(tmp_path / "whole"))
    monkeypatch.setattr(media, "CHUNK", 2)
    original, calls = chunks.run, []

    def interrupted(job: Any) -> Any:
        calls.append(job.cells)
        if len(calls) > 5:
            raise Killed
        return original(job)

    monkeypatch.setattr(chunks, "run", interrupted)
    with pytest.raises(Killed):
        raw.write(tmp_path / "partial")
    again: list[Any] = []
    monkeypatch.setattr(chunks, "run", lambda job: again.append(job.cells) or original(job))
    assert contents(raw.write(tmp_path / "partial")) == whole
    assert len(again) == 2 + 1 + 5 + 5 + 5 - 5


@pytest.mark.parametrize("change", ["a picture of a folder", "a clip", "a sequence"])
def test_what_has_changed_is_decoded_again(
    raw: Folder, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch, make_clip: Any
):
    only = "words" if change == "a sequence" else "face"
    monkeypatch.setattr(media, "CHUNK", 1)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_write_index", None)  # everything is decoded, then the run dies
        with pytest.raises(TypeError):
            raw.write(tmp_path / "store", only=only)
    if change == "a clip":
        make_clip("new.mp4", pictures=12).rename(raw.root / "1.mp4")
    elif change == "a sequence":
        np.save(raw.root / "7.npy", np.ones((3, 3)))
    else:
        Image.new("RGB", (9, 8)).save(raw.root / "frames/1.png")
        for i in (0, 2):
            Image.new("RGB", (9, 8), (0, 3, i)).save(raw.root / f"frames/{i}.png")
    ran: list[Any] = []
    original = chunks.run
    monkeypatch.setattr(chunks, "run", lambda job: ran.extend(job.cells) or original(job))
    raw.write(tmp_path / "store", only=only)
    assert ran == [{"a clip": "1.mp4", "a sequence": "7.npy"}.get(change, "frames")]


def test_bad_cells_are_told_together(raw: Folder, tmp_path: Path):
    np.save(raw.root / "1.npy", np.zeros((2, 5)))
    np.save(raw.root / "3.npy", np.zeros((0, 3)))
    np.save(raw.root / "4.npy", np.array([[1, "x", None]], object), allow_pickle=True)
    with pytest.raises(DataError) as caught:
        raw.write(tmp_path / "store", only="words")
    assert str(caught.value).splitlines()[:4] == [
        "3 of 10 sequences of modality 'words' can not be used (3 of 10 samples, 30.00%; max_bad_fraction "
        "allows 0.00%):",
        "  - 1.npy (sample s1) has 5 features a step, the first sequence of the modality 3",
        "  - 3.npy (sample s3) has no steps: its length is 0",
        "  - 4.npy (sample s4) holds pickled Python objects, which are never loaded: save plain numbers",
    ]
    (raw.root / "0.npy").unlink()
    with pytest.raises(DataError, match=r"1 of 10 sequences .*\n.*0.npy \(sample s0\) is missing"):
        raw.write(tmp_path / "store", only="words")


def test_bad_clips_are_told_with_their_samples(raw: Folder, tmp_path: Path):
    (raw.root / "1.mp4").write_bytes((raw.root / "1.mp4").read_bytes()[:900])
    for file in (raw.root / "frames").iterdir():
        file.unlink()
    with pytest.raises(DataError) as caught:
        raw.write(tmp_path / "store", only="face")
    message = str(caught.value)
    assert "2 of 3 clips of modality 'face' can not be used" in message
    assert "1.mp4 (sample s1 and 2 more) can not be decoded" in message
    assert "frames (sample s2 and 2 more) is a folder without pictures" in message


def test_what_is_not_finite_is_noted(raw: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    raw.modalities["words"] = SequenceFeatures(steps=6)
    np.save(raw.root / "1.npy", np.array([[-np.inf, 1, np.nan]]))
    np.save(raw.root / "8.npy", np.zeros((2, 3)))
    raw.table.loc[3, "words"] = "1.npy"
    with caplog.at_level(logging.WARNING):
        store = open_store(raw.write(tmp_path / "store", only="words"))
    assert store.meta["notes"] == [
        "words: 1 of 10 samples have sequences that are zero throughout: s8",
        "words: 2 of 10 samples have sequences with values that are not finite, stored as 0 (4 in all): "
        "s1, s3",
    ]
    assert "not finite" in caplog.text


def test_bad_vectors_and_float_pictures_are_told(raw: Folder, tmp_path: Path):
    vectors, digits = np.load(raw.root / "vectors.npy"), np.load(raw.root / "digits.npy")
    vectors[2, 3] = np.nan
    digits[5, 0] = np.inf
    np.save(raw.root / "vectors.npy", vectors)
    np.save(raw.root / "digits.npy", digits)
    with pytest.raises(
        DataError, match=r"1 of 10 vectors .*\n.*vectors.npy#2 \(sample s2\) holds 1 values that are not"
    ):
        raw.write(tmp_path / "store", only="summary")
    with pytest.raises(
        DataError, match=r"1 of 10 pictures .*\n.*digits.npy#5 \(sample s5\) holds 1 values that are not"
    ):
        raw.write(tmp_path / "store", only="digit")


def test_given_normalisers_are_kept(raw: Folder, tmp_path: Path):
    raw.modalities["face"] = VideoFeatures(frames=2, size=[8], mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1])
    store = open_store(raw.write(tmp_path / "store", only="face"))
    expected = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    assert store.meta["modalities"]["face"]["normaliser"] == expected


def test_principal_components_of_float_pictures(raw: Folder, tmp_path: Path):
    raw.modalities["digit"] = ImageFeatures(size=[5, 4], channels=1, pca_energy=0.5)
    store = open_store(raw.write(tmp_path / "store", only="digit"))
    train = np.load(raw.root / "digits.npy").astype(np.float32)[:6]
    kept = store.arrays["digit"][:6].reshape(6, -1)
    assert (
        np.linalg.matrix_rank(kept, tol=1e-3) == store.meta["modalities"]["digit"]["statistics"]["components"]
    )
    assert kept.std() > 0.2 * train.std()  # the values' own units


def test_space_is_looked_for_beforehand(raw: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for only, needed in (("face", N * 3 * 2 * 8 * 12), ("words", N * 4 * 4 * 4), ("digit", N * 20 * 4)):
        monkeypatch.setattr(
            files.shutil, "disk_usage", lambda _, n=needed: type("Usage", (), {"free": n - 1})()
        )
        with pytest.raises(DataError, match=r"Make room"):
            raw.write(tmp_path / f"full {only}", only=only)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, n=needed: type("Usage", (), {"free": n})())
        raw.write(tmp_path / f"room {only}", only=only)


def test_real_films_give_both_modalities(shared_data: Path, tmp_path: Path, make_clip: Any):
    (tmp_path / "raw").mkdir()
    raw = Folder(tmp_path / "raw", make_clip)
    raw.root = shared_data
    clips = ["grid_clips/bbaf2n.mpg", "ravdess_av/small/01-01-01-01-01-01-01.mp4", "grid_clips/lbax4n.mpg"]
    raw.table["face"] = raw.table["voice"] = [clips[i % 3] for i in range(N)]
    raw.modalities = {"face": VideoFeatures(frames=3, pick="published", size=[32]), "voice": SOUND}
    store = open_store(raw.write(tmp_path / "store"))
    assert store.arrays["face"].shape == (N, 3, 3, 32, 32)
    expected = video.read_frames(shared_data / clips[1], 3, "published")
    assert abs(int(store.arrays["face"][1].mean()) - int(expected.float().mean())) <= 1
    digest = hashlib.sha256(store.arrays["voice"][0].tobytes()).hexdigest()
    assert digest != hashlib.sha256(store.arrays["voice"][1].tobytes()).hexdigest()
    assert store.meta["notes"] == []
