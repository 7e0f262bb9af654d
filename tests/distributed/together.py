"""What the processes of the tests do: many trainings in one start."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP, RunOptions, Transformer
from g2d_pipeline.training import Data, train_student, train_teacher
from g2d_pipeline.training.distributed import Group
from tests.conftest import make_data, recipe

PLAIN = MLP(widths=[16, 8], dropout=[], norm="none")  # no batch norm, no dropout: only rounding differs
USUAL = MLP(widths=[8, 5], dropout=[0.3])  # with batch norm
CNN = {"name": "tests.distributed.plain_cnn"}
SEQUENCES = Transformer(width=8, layers=2, heads=2, feedforward=16, dropout=0.0)
BATCH = 12  # of all processes together; the last one of 64 samples has 4
Case = dict[str, Any]


def data_of(case: Case) -> Data:
    """Vectors; maps or sequences where the encoder wants them, changed at random where the case says how."""
    data = make_data(*case.get("data", (2, "classification")))
    if case.get("encoder") == CNN:
        arrays = {m: x.reshape(-1, 1, 2, 3) for m, x in data.arrays.items()}
        data = replace(data, arrays=arrays, augment=case.get("augment", {}))
    if case.get("encoder") == SEQUENCES:  # three steps of a feature, all of them real
        steps = {m: np.stack([x[:, :3], np.ones_like(x[:, :3])], axis=1) for m, x in data.arrays.items()}
        normalisers = {m: {"scale": 1.0, "mean": [0.0, 0.0], "std": [1.0, 1.0]} for m in steps}
        data = replace(data, arrays=steps, normalisers=normalisers)
    return data


def teachers_of(data: Data, encoder: Any = PLAIN) -> dict[str, Trained]:
    return {m: train_teacher(data, m, encoder, training=recipe(2), progress=False) for m in data.modalities}


def train(case: Case, options: RunOptions, devices: int) -> dict[str, Any]:
    """The weights and history of a student, `BATCH` samples a step on all of the devices together."""
    of = dict(case)
    data = data_of(of)
    for key in ("data", "augment"):
        of.pop(key, None)
    encoders = dict.fromkeys(data.modalities, of.pop("encoder", PLAIN))
    changes = {"batch_size": BATCH // devices} | of.pop("training", {})
    training = recipe(of.pop("epochs", 3)).model_copy(update=changes)
    done = train_student(data, encoders, training=training, seed=3, options=options, **of)
    history = done.history.select_dtypes("number").fillna(-1.0)
    return {"weights": done.model.state_dict(), "history": history.to_dict("list")}


def train_all(options: RunOptions, cases: dict[str, Case]) -> dict[str, Any]:
    """Every case on all processes; each of them must end with the same bits."""
    group, made = Group(), {}
    for name, case in cases.items():
        made[name] = train(case, options, group.world)
        bits = digest(made[name]["weights"])
        if group.agree(bits) != bits:
            raise AssertionError(f"{name}: processes ended with different weights")
    return made


def digest(weights: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights.values())).hexdigest()
