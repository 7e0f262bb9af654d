"""A small simulated MIS-ME folder to break, a small spoken_mnist folder to break, and the real digits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from g2d_pipeline.config import SpokenMNIST
from g2d_pipeline.sources.mis_me import simulated as simulation
from tests.sources.raw_folders import MISMECopy, write_idx


@pytest.fixture(scope="session")
def digits_data(shared_data: Path) -> Path:
    """The folder with the real fsdd and mnist_t10k."""
    folder = shared_data
    if not (folder / "fsdd/recordings").is_dir() or not (folder / "mnist_t10k").is_dir():
        pytest.skip(f"real data: no fsdd/recordings and mnist_t10k in {folder} (set G2D_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def whole_mis_me(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mis_me")
    simulation.make(folder, {"train": 24, "val": 6, "test": 9}, seed=0)
    return folder


@pytest.fixture
def copy(whole_mis_me: Path, tmp_path: Path) -> MISMECopy:
    shutil.copytree(whole_mis_me, tmp_path / "raw")
    return MISMECopy(tmp_path)


@pytest.fixture
def spoken(tmp_path: Path) -> tuple[Path, SpokenMNIST]:
    """20 takes × 10 digits × 1 speaker of a few bytes, 300 images of 4×4: the folder and its settings."""
    root = tmp_path / "raw"
    (root / "fsdd/recordings").mkdir(parents=True)
    (root / "mnist_t10k").mkdir()
    for digit in range(10):
        for take in range(20):
            (root / f"fsdd/recordings/{digit}_ann_{take}.wav").write_bytes(b"RIFF" + bytes([digit, take]))
    labels = np.arange(300) % 10
    write_idx(root / "mnist_t10k/t10k-labels-idx1-ubyte.gz", labels)
    write_idx(
        root / "mnist_t10k/t10k-images-idx3-ubyte.gz", np.broadcast_to(labels[:, None, None], (300, 4, 4))
    )
    return root, SpokenMNIST(raw_dir="raw", pairs={"train": 150, "val": 50, "test": 60})
