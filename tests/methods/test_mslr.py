"""MSLR: the three strategies, and that equal rates are joint training (rivals.md, mslr)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import Adam, StepSchedule
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods.base import State
from g2d_pipeline.methods.mslr import MSLR, dynamic, smooth
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.streams import seeded
from g2d_pipeline.training.trainer import FitResult
from tests.conftest import TINY, make_data, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

RATES = {"a": 0.9, "b": 1.4, "c": 0.7}


def student(data: Data, method: str = "mslr", **settings: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, TINY), {}, method=method, **settings)


class Watched(MSLR):
    """Notes the learning rate of each group, as it holds at the end of each epoch."""

    def on_epoch_end(self, state: State) -> None:
        rates.append([group["lr"] for group in state.optimizer.param_groups])


rates: list[list[float]] = []


def watched(data: Data, training: Any, **parameters: Any) -> tuple[np.ndarray, FitResult]:
    """Learning rates `[epochs, k + 1]`, those of the encoders and the rest's."""
    rates.clear()
    with seeded(0, "model"):
        model = build_model(student(data, "joint", training=recipe(1)).info["architecture"])
    done = fit(model, data, Watched(MSLR.Parameters(**parameters)), training=training, progress=False)
    return np.array(rates), done


@pytest.mark.parametrize(
    ("k", "task", "fusion"),
    [(2, "classification", "film"), (3, "classification", "late"), (2, "regression", "film")],
)
def test_a_step_of_an_encoder_is_its_factor_times_that_of_joint_training(
    k: int, task: str, fusion: str
) -> None:
    data = make_data(k, task)
    one_step = recipe(1, lr=0.5, momentum=0.0, batch_size=96)
    own = {m: RATES[m] for m in data.modalities}
    still = recipe(1, lr=1e-30, momentum=0.0, batch_size=96)

    def weights(method: str, training: Any, **more: Any) -> dict[str, np.ndarray]:
        done = student(data, method, training=training, fusion=fusion, **more)
        return {n: t.double().numpy() for n, t in done.model.state_dict().items()}

    start, joint = weights("joint", still), weights("joint", one_step)
    found = weights("mslr", one_step, parameters={"rates": own})
    for name, before in start.items():
        if "running" in name or "num_batches" in name:
            continue
        factor = own[name.split(".")[1]] if name.startswith("encoders.") else 1.0
        expected = before + factor * (joint[name] - before)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=3e-7, err_msg=name)
    moved = max(abs(joint[n] - start[n]).max() for n in start if n.startswith("encoders.a") and "weight" in n)
    assert moved > 1e-4  # far above the tolerance


def test_equal_rates_are_joint_bit_for_bit() -> None:
    update = {"clip_norm": 0.1, "optimizer": Adam(lr=0.01, weight_decay=0.01)}
    data, training = make_data(3, "regression"), recipe(2).model_copy(update=update)
    ones = dict.fromkeys(data.modalities, 1)
    joint = student(data, "joint", training=training)
    for neutral in (
        {},
        {"rates": ones},
        {"rates": ones, "strategy": "smooth"},
        {"strategy": "dynamic", "window": 1},
    ):
        assert same(joint, student(data, training=training, parameters=neutral)), neutral
    assert not same(joint, student(data, training=training, parameters={"rates": {"b": 1.01}}))
    longer = training.model_copy(
        update={"epochs": 3}
    )  # a mean of one value is that value: epoch 2 is the same yet
    assert not same(
        student(data, "joint", training=longer),
        student(data, training=longer, parameters={"strategy": "dynamic"}),
    )


def test_rates_are_kept_or_go_evenly_to_the_common_one_under_any_schedule() -> None:
    training = recipe(4, lr=0.1).model_copy(update={"lr_schedule": StepSchedule(every=2, gamma=0.5)})
    data, common = make_data(3), np.array([0.1, 0.1, 0.05, 0.05])[:, None]
    kept, done = watched(data, training, rates=RATES)
    np.testing.assert_allclose(kept, common * [0.9, 1.4, 0.7, 1.0], rtol=1e-12)
    np.testing.assert_allclose(done.history["lr"], common[:, 0], rtol=1e-12)
    t = np.linspace(0, 1, 4)[:, None]
    smoothed, _ = watched(data, training, rates=RATES, strategy="smooth")
    np.testing.assert_allclose(smoothed, common * ((1 - t) * [0.9, 1.4, 0.7, 1.0] + t), rtol=1e-12)
    assert smooth(0.3, 0.0) == 0.3


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "regression")])
def test_dynamic_rates_follow_the_validation_metric_over_its_running_mean(k: int, task: str) -> None:
    data = make_data(k, task)
    found, done = watched(data, recipe(6, lr=0.01), rates={"b": 1.4}, strategy="dynamic", window=3)
    assert (found[:, k] == 0.01).all()
    for i, m in enumerate(data.modalities):
        metric, base = done.history[f"val/{m}"].to_numpy(), 0.01 * (1.4 if m == "b" else 1.0)
        assert found[0, i] == pytest.approx(base)
        for epoch in range(1, 6):
            last = metric[max(0, epoch - 3) : epoch]
            ratio = last[-1] / last.mean() if task == "classification" else last.mean() / last[-1]
            assert found[epoch, i] == pytest.approx(base * ratio, rel=1e-9)
    assert np.ptp(found[:, :k]) > 0.0005


def test_the_dynamic_factor_is_defined_where_the_metric_is_zero() -> None:
    assert dynamic([], True) == dynamic([0.0, 0.0], True) == dynamic([0.0], False) == 1.0
    assert dynamic([0.5, 0.0], True) == 0.0
    assert dynamic([0.0, 0.5], True) == 2.0
    assert dynamic([0.4, 0.0], False) == 2.0  # without error: as much as there can be of an accuracy
    assert dynamic([1.0, 3.0], False) == pytest.approx(2 / 3)


def test_stopped_in_an_epoch_and_called_again_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    data = make_data()
    settings: dict[str, Any] = {
        "training": recipe(4),
        "parameters": {"rates": {"a": 0.2}, "strategy": "dynamic"},
    }
    expected = student(data, **settings)
    with pytest.raises(InterruptedRun):  # 4 batches an epoch: in the third one
        interrupt_in_batch(10, lambda: student(data, folder=tmp_path, **settings))
    again = student(data, folder=tmp_path, **settings)
    assert same(expected, again)
    assert again.history.equals(expected.history)
