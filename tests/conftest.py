"""Fixtures of the whole suite: where shared real data lie, and small data to train on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from joblib.externals import loky

from g2d_pipeline.config import MLP, SGD, SmallCNN, TrainingSettings
from g2d_pipeline.training import Data
from tests.e2e.project import context

REPOSITORY = Path(__file__).resolve().parents[1]
settings.register_profile("suite", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("suite")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings and images; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}: set G2D_SHARED_DATA")
    return folder


def _begin_worker(environment: dict[str, str], follow: Callable[[int], None]) -> None:
    """Begin a worker as loky does: with this environment, and to end with the process that started it."""
    os.environ.clear()
    os.environ.update(environment)
    follow(os.getppid())


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """loky's workers are forked from a server that has imported torch, which takes seconds."""
    original = loky.ProcessPoolExecutor

    def executor(workers: int, initializer: Any, initargs: Any, env: dict[str, str]) -> Any:
        begin = (os.environ | env, initializer)
        return original(workers, context=context(), initializer=_begin_worker, initargs=begin)

    monkeypatch.setattr(loky, "ProcessPoolExecutor", executor)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests go first, so that no worker begins one when the others are done."""
    long = {item.path for item in items if item.get_closest_marker("e2e") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def read_audio(path: Path, content: bytes | None = None) -> tuple[torch.Tensor, int]:
    """`audio.read_audio`, as a tensor."""
    from g2d_pipeline.features.kinds import audio

    wave, rate = audio.read_audio(path, content)
    return torch.from_numpy(wave), rate


def prepare_wave(wave: torch.Tensor, rate: int, settings: Any, key: str) -> torch.Tensor:
    """A decoded recording `[T']` at `rate` Hz as the spectrogram of a store is made of it: `[T]` float32."""
    from g2d_pipeline.features.kinds import audio

    waves = torch.zeros(1, settings.samples)
    audio.put(wave.numpy(), rate, settings, key, waves[0].numpy())
    return audio.finish(waves, settings, [key])[0]


def make_data(
    k: int = 2, task: str = "classification", n: int = 96, seed: int = 0, names: str = "abcdefg"
) -> Data:
    """`n` samples of k modalities of 6 numbers each, the first one telling most of the target, the last one
    least."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    inputs = {}
    for position in range(k):
        x = rng.normal(size=(n, 6)).astype(np.float32)
        x[np.arange(n), label] += 3.0 / (position + 1)
        inputs[names[position]] = x
    split = np.array(["train"] * (n * 2 // 3) + ["val"] * (n // 6) + ["test"] * (n - n * 2 // 3 - n // 6))
    target = label if task == "classification" else 0.1 + 0.1 * label + rng.normal(size=n) * 0.01
    return Data.from_arrays(inputs, target, split, task=task)


TINY = MLP(widths=[8, 5], dropout=[])
CNN = SmallCNN(widths=[4, 6])


def recipe(
    epochs: int = 3, lr: float = 0.05, momentum: float = 0.9, weight_decay: float = 1e-3, batch_size: int = 16
) -> TrainingSettings:
    return TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=SGD(lr=lr, momentum=momentum, weight_decay=weight_decay),
        selection="last",
    )
