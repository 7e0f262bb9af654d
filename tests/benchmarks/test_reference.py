"""Ours, with remembered teachers, gives the weights of the published way of working."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.reference import Rows, confidence, divergence, task_loss, train_reference
from g2d_pipeline.config import MLP, SmallCNN, SMPSettings, Strict
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.models import Regression, Task
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, teacher_outputs, train_teacher
from g2d_pipeline.training.data import epoch_rows
from tests.conftest import recipe

ENCODERS: dict[str, tuple[tuple[int, ...], Strict]] = {
    "sound": ((1, 9, 7), SmallCNN(widths=[4, 6], grid=1)),
    "table": ((6,), MLP(widths=[8, 5], dropout=[])),
    "picture": ((3, 6, 6), SmallCNN(widths=[5, 4], grid=2)),
}
SIGNAL = {"sound": 0.15, "table": 0.7, "picture": 0.15}  # a class: about equally sure teachers
PHASES = {2: [3, 2], 3: [2, 1, 2]}  # epochs of four steps: twenty steps over every boundary


def made_up(k: int, task: str) -> Data:
    """80 samples, 64 of them train, of k modalities that all tell a little of the target: the ranking
    changes."""
    rng = np.random.default_rng(k)
    label = rng.integers(0, 3, 80)
    inputs = {
        m: (rng.normal(size=(80, *shape)) + label.reshape(-1, *[1] * len(shape)) * SIGNAL[m]).astype(
            np.float32
        )
        for m, (shape, _) in list(ENCODERS.items())[:k]
    }
    target = label if task == "classification" else 0.2 + 0.1 * label + 0.02 * rng.normal(size=80)
    return Data.from_arrays(inputs, target, ["train"] * 64 + ["val"] * 8 + ["test"] * 8, task=task)


def spread(task: Task) -> float | None:
    """s of the confidence, in units of the scaled target; None for classification."""
    return task.spread / task.scale if isinstance(task, Regression) else None


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "classification"), (2, "regression")])
def test_twenty_steps_of_ours_give_the_weights_of_the_reference(k: int, task: str) -> None:
    """float32 on both sides; weights and running statistics are of order 1, and differ by 1e-6 at most.

    The teachers' answers are not the same bits: ours were remembered from batches of another size.
    """
    data = made_up(k, task)
    encoders = {m: ENCODERS[m][1] for m in data.modalities}
    teachers = {
        m: train_teacher(data, m, e, training=recipe(2), seed=1, device="cpu", progress=False)
        for m, e in encoders.items()
    }
    modalities = {
        m: {"encoder": e.model_dump(), "shape": list(data.shape(m)), "normaliser": None}
        for m, e in encoders.items()
    }
    torch.manual_seed(0)
    model = build_model({"modalities": modalities, "fusion": "late", "task": data.task.to_json()})
    start, theirs = copy.deepcopy(model).state_dict(), copy.deepcopy(model)

    fitted = fit(
        model,
        data,
        build_method("g2d", {"alpha": 0.7, "beta": 1.3}),
        training=recipe(sum(PHASES[k]), lr=0.05, momentum=0.9, weight_decay=1e-3),
        smp=SMPSettings(tau=PHASES[k], ranking="batch", update="zero_grad"),
        teachers={m: teacher_outputs(t, m) for m, t in teachers.items()},
        seed=3,
        device="cpu",
        progress=False,
    )
    with torch.random.fork_rng():
        train_reference(
            theirs,
            Rows(data.arrays, data.task.encode(torch.as_tensor(data.target))),
            {m: t.model for m, t in teachers.items()},
            phases=PHASES[k],
            order=lambda epoch: epoch_rows(data.rows["train"], 3, epoch).tolist(),
            alpha=0.7,
            beta=1.3,
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-3,
            batch_size=16,
            spread=spread(data.task),
        )

    ours = fitted.model.state_dict()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert not torch.equal(value, start[name]), f"{name} never moved: nothing was compared"
    kappa = fitted.history[[f"kappa/{m}" for m in data.modalities]].to_numpy()[: sum(PHASES[k][:-1])]
    assert ((kappa > 0) & (kappa < 1)).any(), "no epoch in which the ranking changed from batch to batch"


@pytest.mark.parametrize("regression", [False, True])
def test_a_teacher_who_says_the_same_costs_nothing_and_a_right_one_is_sure(regression: bool) -> None:
    width, s = (1, 0.2) if regression else (4, None)
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 5, width, generator=generator)
    assert float(divergence(logits, logits, s)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(logits, other, s)) > 1e-2
    right = torch.sigmoid(logits[:, 0]) if regression else logits.argmax(1)
    sharp = logits if regression else nn.functional.one_hot(right, width) * 50.0
    assert confidence(sharp, right, s).tolist() == pytest.approx([1.0] * 5)
    assert float(task_loss(sharp, right, s)) == pytest.approx(0, abs=1e-6)
    wrong: Any = 1 - right if regression else (right + 1) % width
    assert float(confidence(sharp, wrong, s).max()) < float(confidence(sharp, right, s).min())
