"""Trainings that tests run in processes of their own, to be killed. Imported by a fork server, once."""

from __future__ import annotations

import functools
import io
import logging
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2d_pipeline.artefacts import write_trained
from g2d_pipeline.config import (
    MLP,
    Adam,
    ImageAugment,
    SmallCNN,
    StepSchedule,
    TabularAugment,
    TrainingSettings,
)
from g2d_pipeline.training import Data, train_student, train_teacher

DROPPING = MLP(widths=[8, 5], dropout=[0.3])
ENCODERS: dict[str, Any] = {"image": SmallCNN(widths=[4, 6], grid=1), "table": DROPPING}


def made_up(n: int = 120) -> Data:
    """An augmented image and a table that is not, three classes."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, n)
    image = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    image[np.arange(n), 0, label] += 1.5
    table = rng.normal(size=(n, 6)).astype(np.float32)
    table[np.arange(n), label] += 1.0
    split = np.repeat(["train", "val", "test"], [n * 2 // 3, n // 6, n - n * 2 // 3 - n // 6])
    return Data.from_arrays(
        {"image": image, "table": table}, label, split, augment={"image": ImageAugment(flip=0.5, noise=0.1)}
    )


def recipe(**changes: Any) -> TrainingSettings:
    settings = {
        "epochs": 6,
        "batch_size": 16,
        "optimizer": Adam(lr=0.01),
        "lr_schedule": StepSchedule(every=2, gamma=0.5),
    }
    return TrainingSettings(**(settings | changes))


# name → how the student is trained
STUDENTS: dict[str, dict[str, Any]] = {
    "g2d": {"method": "g2d", "smp": {"tau": [3]}},
    "remembering": {"method": "g2d", "smp": {"tau": [3], "suppressed_norm": "frozen", "ranking": "dataset"}},
    "averaged": {
        "method": "g2d",
        "smp": {"tau": [3], "ranking": "epoch", "update": "zero_grad"},
        "training": {
            "ema": 0.9,
            "accumulation": 3,
            "clip_norm": 1.0,
            "lr_schedule": {"name": "plateau", "patience": 0},
        },
    },
    "alternating": {"method": "tests.training.alternating"},
}


@functools.cache
def image_teachers() -> dict[str, Any]:
    """The teachers of `made_up`."""
    data, encoders = made_up(), ENCODERS
    training = recipe(epochs=1)
    return {m: train_teacher(data, m, encoders[m], training=training, progress=False) for m in encoders}


def train(name: str, folder: Path | None, **changes: Any) -> Any:
    """Teachers, then the student `name`, checkpointed in `folder`."""
    torch.set_num_threads(1)
    data = made_up()
    if name == "alternating":
        data = Data.from_arrays(dict.fromkeys("ab", data.arrays["table"]), data.target, _splits(data),
                                augment={"a": TabularAugment(noise=0.1)})  # fmt: skip
        encoders: dict[str, Any] = {"a": DROPPING, "b": DROPPING}
        teachers: dict[str, Any] = {}
    else:
        encoders, teachers = ENCODERS, image_teachers()
    of = dict(STUDENTS[name])
    training = recipe(**of.pop("training", {}))
    return train_student(
        data, encoders, teachers, training=training, seed=3, progress=False, folder=folder, **(of | changes)
    )


def _splits(data: Data) -> list[str]:
    split = np.empty(len(data.target), dtype="<U5")
    for name, rows in data.rows.items():
        split[rows] = name
    return split.tolist()


def train_to_the_end(name: str, folder: Path, minutes: float, workers: int) -> None:
    """What a run of the pipeline does: train, write what was trained. `begun` is there when the imports are
    over."""
    (folder / "begun").touch()
    trained = train(name, folder, checkpoint_minutes=minutes, workers=workers)
    write_trained(folder, trained)
    (folder / "ended").touch()


def train_on_a_full_disk(name: str, folder: Path) -> None:
    """Train while no file may grow beyond 8 kB (a checkpoint does); what was logged goes to `log.txt`
    afterwards."""
    said = io.StringIO()
    logging.getLogger("g2d_pipeline").addHandler(logging.StreamHandler(said))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        trained = train(name, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write_trained(folder, trained)
    (folder / "log.txt").write_text(said.getvalue())
