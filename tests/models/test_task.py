"""Losses, confidence and scaling: equations against numpy, and properties 9, 10, 12 and 17 of the method's
notes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from g2d_pipeline.methods.g2d import feature_distillation, logit_distillation
from g2d_pipeline.models import Classification, Regression, regression_task, task_from_json

CLASSES = Classification(("a", "b", "c"))
VALUES = Regression(offset=0.1, scale=0.4, spread=0.1)
logits = st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3)


def test_cross_entropy_and_confidence_equal_numpy() -> None:
    z = np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 0.2]])
    y = np.array([1, 2])
    p = softmax(z, axis=1)[[0, 1], y]
    assert float(CLASSES.loss(torch.tensor(z), torch.tensor(y))) == pytest.approx(
        -np.log(p).mean(), rel=1e-12
    )
    np.testing.assert_allclose(CLASSES.confidence(torch.tensor(z), torch.tensor(y)).numpy(), p, rtol=1e-12)


def test_kl_hand_case_has_the_teacher_first() -> None:
    t, s = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 5.0, 0.0]])
    p, q = softmax(t, axis=1), softmax(s, axis=1)
    forward, backward = (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()
    found = float(logit_distillation(CLASSES, torch.tensor(s), torch.tensor(t)))
    assert found == pytest.approx(forward, rel=1e-9)
    assert abs(found - backward) > 0.1


@given(logits, logits, st.floats(-5, 5))
def test_kl_is_not_negative_and_zero_iff_logits_differ_by_a_constant(
    a: list[float], b: list[float], c: float
) -> None:
    s, t = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    assert float(CLASSES.distill(s, t, 1.0)) >= -1e-12
    assert float(CLASSES.distill(t + c, t, 1.0)) == pytest.approx(0, abs=1e-10)
    if float((s - t - (s - t).mean()).abs().max()) > 1e-2:
        assert float(CLASSES.distill(s, t, 1.0)) > 0


def test_bernoulli_kl_equals_the_formula_and_mse_is_an_option() -> None:
    t, s = (
        torch.tensor([[1.5], [-0.3]], dtype=torch.float64),
        torch.tensor([[0.2], [0.4]], dtype=torch.float64),
    )
    p, q = torch.sigmoid(t), torch.sigmoid(s)
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert float(VALUES.distill(s, t, 1.0)) == pytest.approx(float(expected), rel=1e-9)
    squared = Regression(0.1, 0.4, 0.1, "sigmoid", "mse").distill(s, t, 1.0)
    assert float(squared) == pytest.approx(float((p - q).square().mean()), rel=1e-9)


def test_temperature_is_rescaled_by_its_square() -> None:
    t, s = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert float(CLASSES.distill(s, t, 4.0)) == pytest.approx(
        float(CLASSES.distill(s / 4, t / 4, 1.0)) * 16, rel=1e-5
    )


@given(st.floats(0.1, 10))
def test_feature_distillation_is_quadratic(c: float) -> None:
    f, g = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    assert float(feature_distillation(f, f)) == 0
    assert float(feature_distillation(c * f, c * g)) == pytest.approx(
        c**2 * float(feature_distillation(f, g))
    )
    assert float(feature_distillation(f, g, "sum")) == pytest.approx(5 * float(feature_distillation(f, g)))


def test_no_gradient_reaches_a_teacher() -> None:
    s, t = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    (feature_distillation(s, t) + logit_distillation(CLASSES, s, t)).backward()
    assert t.grad is None
    assert s.grad is not None
    assert float(s.grad.abs().sum()) > 0


def test_confidence_of_perfect_and_uniform_teachers() -> None:
    y = torch.tensor([0, 2])
    perfect = torch.nn.functional.one_hot(y, 3).float() * 100
    assert CLASSES.confidence(perfect, y).tolist() == pytest.approx([1, 1])
    assert CLASSES.confidence(torch.zeros(2, 3), y).tolist() == pytest.approx([1 / 3, 1 / 3])


@given(st.floats(0, 0.4), st.floats(0.001, 0.4))
def test_regression_confidence_falls_with_the_error(error: float, more: float) -> None:
    y = torch.tensor([0.5])
    near = torch.logit(torch.tensor([[0.5 + error]], dtype=torch.float64))
    far = torch.logit(torch.tensor([[min(0.5 + error + more, 0.999)]], dtype=torch.float64))
    assert float(VALUES.confidence(far, y)) <= float(VALUES.confidence(near, y)) <= 1
    assert float(VALUES.confidence(torch.zeros(1, 1), y)) == 1
    scaled = error * VALUES.scale / VALUES.spread
    assert float(VALUES.confidence(near, y)) == pytest.approx(np.exp(-(scaled**2) / 2), rel=1e-4)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5))
def test_sigmoid_predictions_stay_in_the_train_range_in_original_units(z: list[float]) -> None:
    values = VALUES.predict(torch.tensor(z)[:, None])
    assert bool(((values >= 0.1 - 1e-9) & (values <= 0.5 + 1e-9)).all())


def test_scaling_is_inverted_and_scores_are_in_original_units() -> None:
    target = torch.tensor([0.1, 0.3, 0.5])
    encoded = VALUES.encode(target)
    assert encoded.tolist() == pytest.approx([0, 0.5, 1])
    predicted = torch.logit(torch.tensor([[0.25], [0.25], [0.75]]))
    errors = np.array([0.2, 0.2, 0.4]) - target.numpy()
    assert VALUES.score(predicted, encoded) == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)


def test_identity_output_standardises() -> None:
    task = regression_task({"min": 0, "max": 10, "mean": 4, "std": 2}, "identity")
    assert task.encode(torch.tensor([4.0, 6.0])).tolist() == [0, 1]
    assert task.predict(torch.tensor([[1.0]])).tolist() == [6]


def test_tasks_survive_json() -> None:
    assert task_from_json(CLASSES.to_json()) == CLASSES
    assert task_from_json(VALUES.to_json()) == VALUES


def test_a_constant_target_is_refused() -> None:
    with pytest.raises(ValueError, match="constant"):
        regression_task({"min": 1, "max": 1, "mean": 1, "std": 0}, "sigmoid")


@pytest.mark.parametrize(
    ("low", "high", "output", "expected"),
    [
        (0.0, 1.0, "auto", "sigmoid"),
        (0.05, 0.45, "auto", "sigmoid"),
        (-0.1, 0.9, "auto", "identity"),
        (0.0, 1.5, "auto", "identity"),
        (0.0, 1.5, "sigmoid", "sigmoid"),
        (0.0, 1.0, "identity", "identity"),
    ],
)
def test_the_output_follows_the_train_target_unless_it_is_said(low, high, output, expected) -> None:
    statistics = {"min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 3}
    task = regression_task(statistics, output)
    assert task.output == expected
    assert task == regression_task(statistics, expected)
