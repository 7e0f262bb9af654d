"""Partial suppression, what κ acts on, and phases that end by themselves (g2d.md §4, §5; Table 6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import SmallCNN, SMPSettings
from g2d_pipeline.models.multimodal import scale_gradient
from g2d_pipeline.training import Data, TeacherOutputs, train_student
from g2d_pipeline.training.smp import partial_kappa
from tests.conftest import TINY, make_data, recipe


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5))
def test_partial_kappa_is_one_for_the_weaker_and_below_one_minus_tanh_one_for_the_stronger(
    rho: list[float],
) -> None:
    for position, kappa in enumerate(partial_kappa(rho)):
        others = np.delete(np.float64(rho), position)
        ratio = rho[position] * len(others) / others.sum()
        if ratio <= 1 + 1e-12:
            assert kappa == 1.0 or kappa == pytest.approx(1 - math.tanh(ratio))
        else:
            assert kappa == pytest.approx(1 - np.tanh(ratio), abs=1e-9)
            assert kappa < 1 - math.tanh(1) + 1e-9


def test_partial_kappa_decreases_in_the_ratio() -> None:
    found = [partial_kappa([rho, 0.2])[0] for rho in (0.1, 0.2, 0.3, 0.5, 0.9)]
    assert found == sorted(found, reverse=True)
    assert found[:2] == [1.0, 1.0]
    assert found[3] == pytest.approx(1 - math.tanh(2.5))


def test_a_scaled_gradient_leaves_the_value_alone() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert torch.equal(x, y)
    (y * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((4, 3), 0.75))  # type: ignore[arg-type]


def constant_teachers(data: Data, confidence: dict[str, float]) -> dict[str, TeacherOutputs]:
    n = len(data.target)
    return {
        m: TeacherOutputs(torch.zeros(n, 5), torch.zeros(n, 3), torch.full((n,), c))
        for m, c in confidence.items()
    }


def joint(data: Data, teachers: Any = None, smp: dict[str, Any] | None = None, **settings: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False} | settings
    encoders = settings.pop("encoders", dict.fromkeys(data.modalities, TINY))
    return train_student(data, encoders, teachers or {}, method="joint", smp=smp, **settings)


def test_partial_suppression_with_equal_confidences_is_joint_bit_for_bit() -> None:
    data = make_data(3)
    plain = joint(data)
    partial = joint(
        data, constant_teachers(data, dict.fromkeys("abc", 0.4)), {"suppression": "partial", "tau": "all"}
    )
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, partial.model.state_dict()[name]), name
    assert partial.info["smp"]["phases"] == [2, 0]


@pytest.mark.parametrize("k", [2, 3])
def test_partial_suppression_scales_the_encoder_gradient_alone(k: int) -> None:
    """One step of plain SGD: the encoder's change is κ times that of joint training, heads change as in
    it."""
    data = make_data(k, n=48)
    plain = recipe(1, momentum=0.0, weight_decay=0.0, batch_size=64)
    rho = {"a": 0.6, "b": 0.2, "c": 0.3}
    teachers = constant_teachers(data, {m: rho[m] for m in data.modalities})
    zero = joint(
        data,
        training=plain.model_copy(update={"optimizer": plain.optimizer.model_copy(update={"lr": 1e-12})}),
    )
    whole = joint(data, training=plain)
    partial = joint(data, teachers, {"suppression": "partial", "tau": "all"}, training=plain)
    expected = dict(zip(data.modalities, partial_kappa([rho[m] for m in data.modalities]), strict=True))
    assert min(expected.values()) < 1
    states = [t.model.state_dict() for t in (zero, whole, partial)]
    for name, start in states[0].items():
        if not name.endswith(("weight", "bias")):
            continue
        kappa = expected[name.split(".")[1]] if name.startswith("encoders.") else 1.0
        change, other = states[1][name] - start, states[2][name] - start
        torch.testing.assert_close(other, change * kappa, rtol=1e-4, atol=1e-6)
    for m, kappa in expected.items():
        assert partial.history[f"kappa/{m}"][0] == pytest.approx(kappa)


def pictures() -> Data:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    inputs = {m: rng.normal(size=(60, 1, 8, 8)).astype(np.float32) + label[:, None, None, None] for m in "ab"}
    return Data.from_arrays(inputs, label, ["train"] * 40 + ["val"] * 10 + ["test"] * 10)


@pytest.mark.parametrize("update", ["skip", "zero_grad"])
def test_conv_only_holds_convolutions_and_nothing_else(update: str) -> None:
    """As the authors' code: batch norm's weights and statistics of the suppressed encoder keep learning."""
    data = pictures()
    encoders = dict.fromkeys("ab", SmallCNN(widths=[4, 6]))
    teachers = {
        m: TeacherOutputs(torch.zeros(60, 6 * 4), torch.zeros(60, 3), torch.full((60,), c))
        for m, c in {"a": 0.9, "b": 0.1}.items()
    }
    training = recipe(2, momentum=0.0, weight_decay=0.0)
    smp = {"tau": [2, 0], "scope": "conv_only", "update": update}
    start = joint(data, training=recipe(1, lr=1e-12, momentum=0.0, weight_decay=0.0), encoders=encoders)
    widths = start.model.encoders["a"].width
    teachers = {
        m: TeacherOutputs(torch.zeros(60, widths), t.logits, t.confidence) for m, t in teachers.items()
    }  # type: ignore[arg-type]
    after = joint(data, teachers, smp, training=training, encoders=encoders).model
    for (name, before), now in zip(start.model.named_parameters(), after.parameters(), strict=True):
        held = name.startswith("encoders.a.") and before.dim() == 4
        moved = (now - before).abs().max() > 1e-9
        assert bool(moved) is not held, name
        assert now.requires_grad
    means = [n for n in after.state_dict() if n.startswith("encoders.a.") and n.endswith("running_mean")]
    assert all(after.state_dict()[n].abs().sum() > 0 for n in means)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": "all"}, "goes with suppression=partial"),
        ({"tau": "quarter"}, "or half, all"),
        ({"scope": "conv_only", "suppression": "partial"}, "goes with suppression=complete"),
        ({"tau": "auto"}, "or half, all"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SMPSettings(**settings)
