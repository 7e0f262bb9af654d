"""OGM and OGM-GE: the leader's gradient is held back (rivals.md, ogm)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Method, State
from g2d_pipeline.methods.ogm import coefficients, gradient_noise
from g2d_pipeline.models import Encoder, MultimodalModel, build_fusion
from g2d_pipeline.training import Data, fit
from tests.conftest import CNN, make_data, recipe
from tests.methods.tiny import student


def by_hand(s: np.ndarray, alpha: float) -> np.ndarray:  # type: ignore[type-arg]
    kappa = []
    for position, of in enumerate(s):
        r = of / np.delete(s, position).mean()
        kappa.append(1 - np.tanh(alpha * r) if r > 1 else 1.0)
    return np.array(kappa)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_coefficients_equal_the_equation_and_the_weakest_is_never_held(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        s, alpha = rng.uniform(0.05, 1, k), float(rng.uniform(0.05, 2))
        found = coefficients(torch.tensor(s), alpha).numpy()
        np.testing.assert_allclose(found, by_hand(s, alpha), rtol=1e-12)
        assert found[s.argmin()] == 1.0
        assert found[s.argmax()] < 1.0
    assert coefficients(torch.full((k,), 0.3, dtype=torch.float64), 0.5).tolist() == [1.0] * k  # a tie
    assert coefficients(torch.zeros(k, dtype=torch.float64), 0.5).tolist() == [1.0] * k
    leads = [float(coefficients(torch.tensor([lead, *[0.2] * (k - 1)]), 0.3)[0]) for lead in (0.3, 0.5, 0.9)]
    assert leads == sorted(leads, reverse=True)
    assert leads[0] > leads[-1]


def test_noise_has_the_gradients_own_spread_and_no_mean() -> None:
    torch.manual_seed(0)
    gradient = 3 + 0.02 * torch.randn(100, 100)
    noise = gradient_noise(gradient)
    assert float(noise.std() / gradient.std()) == pytest.approx(1, abs=0.03)
    assert abs(float(noise.mean())) < 4 * 0.02 / 100
    assert gradient_noise(torch.tensor([5.0])).tolist() == [0.0]


def watched(k: int, task: str, options: dict[str, Any], training: TrainingSettings) -> tuple[Any, ...]:
    """An epoch with linear encoders, late fusion: data, weights at its start, gradients before and after,
    history."""
    data = make_data(k, task)
    torch.manual_seed(0)
    encoders = {m: Encoder(nn.Sequential(nn.Linear(6, 5)), 5) for m in data.modalities}
    model = MultimodalModel(
        encoders, build_fusion("late", dict.fromkeys(data.modalities, 5), data.task.outputs)
    )
    start = {n: v.detach().double().numpy().copy() for n, v in model.state_dict().items()}
    method = build("ogm", options)
    steps: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    modulate = method.after_backward

    def after_backward(state: State) -> None:
        before = {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}
        modulate(state)
        steps.append(
            (before, {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None})
        )

    method.after_backward = after_backward  # type: ignore[method-assign]
    fitted = fit(model, data, method, training=training, progress=False)
    return data, start, steps, fitted.history


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "classification"), (2, "regression")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_encoder_gradients_are_scaled_by_the_equation_in_float64(
    k: int, task: str, accumulation: int
) -> None:
    """The first step; with accumulation the scores are those of all its samples."""
    training = recipe(1, batch_size=16 // accumulation).model_copy(update={"accumulation": accumulation})
    data, w, steps, history = watched(k, task, {"alpha": 0.4}, training)
    rows = np.random.default_rng([0, 1, 1]).permutation(data.rows["train"])[:16]
    y = data.task.encode(torch.as_tensor(np.asarray(data.target))).double().numpy()[rows]
    s = []
    for m in data.modalities:
        f = np.asarray(data.arrays[m])[rows].astype(np.float64) @ w[f"encoders.{m}.trunk.0.weight"].T
        f += w[f"encoders.{m}.trunk.0.bias"]
        u = f @ w[f"fusion.heads.{m}.weight"].T + w[f"fusion.heads.{m}.bias"]
        if task == "classification":
            p = np.exp(u) / np.exp(u).sum(axis=1, keepdims=True)
            s.append(p[np.arange(16), y.astype(int)].mean())
        else:
            error = (1 / (1 + np.exp(-u[:, 0])) - y) * data.task.scale / data.task.spread
            s.append(np.exp(-(error**2) / 2).mean())
    kappa = dict(zip(data.modalities, by_hand(np.array(s), 0.4), strict=True))
    assert min(kappa.values()) < 1 == max(kappa.values())
    before, after = steps[0]
    for name, gradient in before.items():
        of = kappa[name.split(".")[1]] if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(after[name], gradient * of, rtol=1e-5, atol=0)
        assert of != 1.0 or torch.equal(after[name], gradient)
    assert len(steps) == 4
    assert all(0 < history[f"kappa/{m}"][0] <= 1 for m in data.modalities)
    assert min(history[f"kappa/{m}"][0] for m in data.modalities) < 1


def test_the_noise_is_on_the_modulated_encoder_or_always_on_all() -> None:
    for noise in ("modulated", "always"):
        _, _, steps, _ = watched(2, "classification", {"alpha": 0.4, "ge": True, "noise": noise}, recipe(1))
        encoder = "encoders.{}.trunk.0.weight"
        changed = [
            {m for m in "ab" if not torch.equal(b[encoder.format(m)], a[encoder.format(m)])} for b, a in steps
        ]
        assert all(len(of) == (1 if noise == "modulated" else 2) for of in changed), changed
        assert all(
            torch.equal(b[f"fusion.heads.{m}.weight"], a[f"fusion.heads.{m}.weight"])
            for b, a in steps
            for m in "ab"
        )


def test_conv_only_leaves_everything_else_alone() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 48)
    images = {
        m: (rng.normal(size=(48, 1, 6, 6)) + label[:, None, None, None]).astype(np.float32) for m in "ab"
    }
    data = Data.from_arrays(images, label, np.array(["train"] * 32 + ["val"] * 8 + ["test"] * 8))
    seen: list[tuple[str, int, bool]] = []
    method: Method = build("ogm", {"alpha": 0.5, "ge": True, "noise": "always", "scope": "conv_only"})
    modulate = method.after_backward

    def after_backward(state: State) -> None:
        before = {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}
        modulate(state)
        seen.extend((n, p.dim(), torch.equal(before[n], p.grad))  # type: ignore[arg-type]
                    for n, p in state.model.named_parameters() if n in before)  # fmt: skip

    method.after_backward = after_backward  # type: ignore[method-assign]
    model = student(data, CNN, method="joint").model
    fit(model, data, method, training=recipe(1), progress=False)
    assert {dim for _, dim, still in seen if not still} == {4}
    assert all(still == (dim != 4) for _, dim, still in seen)
