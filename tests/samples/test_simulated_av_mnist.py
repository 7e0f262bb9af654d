"""The simulated AV-MNIST arrays: the published types, equal bytes on every run, images that tell more than
sounds."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from g2d_pipeline.config import Split
from g2d_pipeline.sources.av_mnist.simulated import MISPLACED, make, misplace

ROWS: dict[Split, int] = {"train": 500, "val": 100, "test": 200}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    start = time.perf_counter()
    make(folder, ROWS, seed=0)
    assert time.perf_counter() - start < 20
    return folder


def test_shapes_and_types_are_the_published_ones(sample: Path) -> None:
    found = {p.relative_to(sample).as_posix(): np.load(p) for p in sample.rglob("*.npy")}
    assert {name: (a.shape, a.dtype.name) for name, a in found.items()} == {
        "image/train_data.npy": ((600, 784), "float64"),
        "image/test_data.npy": ((200, 784), "float64"),
        "audio/train_data.npy": ((600, 112, 112), "uint8"),
        "audio/test_data.npy": ((200, 112, 112), "uint8"),
        "train_labels.npy": ((600,), "uint8"),
        "test_labels.npy": ((200,), "uint8"),
    }
    for file in ("train", "test"):
        images = found[f"image/{file}_data.npy"]
        assert images.min() < 0 < images.max() < 255
        assert np.abs(images.mean(axis=0)).max() < 1e-9
        assert np.linalg.matrix_rank(images) == 3
        assert set(found[f"{file}_labels.npy"]) == set(range(10))
        assert found[f"audio/{file}_data.npy"].mean() > 128  # dark on white


def test_a_stated_share_of_sounds_is_misplaced() -> None:
    y = np.arange(5000, dtype=np.uint8) % 10
    said = misplace(y, np.random.default_rng(0))
    assert (said != y).mean() == pytest.approx(MISPLACED * 0.9, abs=0.02)
    assert (np.bincount(said) == np.bincount(y)).all()


def test_images_tell_more_than_sounds_and_both_something(sample: Path) -> None:
    y, y_test = (np.load(sample / f"{file}_labels.npy") for file in ("train", "test"))
    score = {}
    for kind in ("image", "audio"):
        x, x_test = (np.load(sample / f"{kind}/{file}_data.npy").astype(float) for file in ("train", "test"))
        if kind == "audio":
            x, x_test = (
                a.reshape(-1, 14, 8, 14, 8).mean(axis=(2, 4)).reshape(len(a), -1) for a in (x, x_test)
            )
        score[kind] = KNeighborsClassifier(10).fit(x, y).score(x_test, y_test)
    assert 0.55 < score["image"] < 0.85
    assert 0.3 < score["audio"] < score["image"] - 0.1
