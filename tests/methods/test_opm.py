"""OPM: the leader's features are dropped in the forward pass (rivals.md, opm)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.opm import drop_features, drop_probabilities, dropped_share
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 0.7, "identity", "mse"),
}


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("others", ["mean", "sum"])
def test_probabilities_equal_the_equation(k: int, others: str) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        s, base, alpha = rng.uniform(0.01, 1, k), float(rng.uniform(0.1, 1)), float(rng.uniform(0, 2))
        expected = []
        for position, of in enumerate(s):
            r = of / getattr(np.delete(s, position), others)()
            expected.append(np.clip(base * (1 + alpha * np.tanh(max(r - 1, 0))), 0, 1) if r > 1 else 0.0)
        found = drop_probabilities(torch.tensor(s), base, alpha, others).numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert found[s.argmin()] == 0


def test_samples_that_lose_every_modality_leave() -> None:
    features = {"a": torch.ones(4, 2), "b": 2 * torch.ones(4, 3)}
    kept = torch.tensor([[True, True], [False, True], [False, False], [True, False]])
    found, remaining = drop_features(features, kept)
    assert remaining.tolist() == [True, True, False, True]
    assert found["a"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert found["b"].tolist() == [[2, 2, 2], [2, 2, 2], [0, 0, 0]]
    assert dropped_share(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 3.0])) == pytest.approx(0.2)


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "classification"), (2, "regression")])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_loss_is_that_of_what_is_left_in_float64(k: int, task: str, rescale: bool) -> None:
    """q = 1: every feature of a leading modality is dropped, so that nothing is left to chance."""
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    model = MultimodalModel(
        {m: Encoder(nn.Identity(), 4) for m in names}, build_fusion("late", dict.fromkeys(names, 4), outputs)
    ).double()
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1, epoch=1)  # type: ignore[arg-type]
    method = build("opm", {"q_base": 1, "p_exe": 1, "rescale": rescale})
    method.on_fit_start(state)
    f = {m: rng.normal(size=(6, 4)) for m in names}
    y = rng.integers(0, 3, 6) if task == "classification" else rng.normal(size=6)
    w = {m: (h.weight.detach().numpy(), h.bias.detach().numpy()) for m, h in model.fusion.heads.items()}  # type: ignore[union-attr, operator]

    def loss(of: np.ndarray) -> float:  # type: ignore[type-arg]
        if task == "regression":
            return float(((of[:, 0] - y) ** 2).mean())
        return float((np.log(np.exp(of).sum(1)) - of[np.arange(6), y]).mean())

    alone = {m: f[m] @ w[m][0].T + w[m][1] for m in names}
    if task == "regression":
        s = {m: np.exp(-((alone[m][:, 0] - y) ** 2) / (2 * 0.7**2)).mean() for m in names}
    else:
        s = {m: (np.exp(u[np.arange(6), y]) / np.exp(u).sum(1)).mean() for m, u in alone.items()}
    ahead = [m for m in names if s[m] > np.mean([s[other] for other in names if other != m])]
    scale = 1 / (1 - len(ahead) / k) if rescale else 1.0
    left = {m: f[m] * (0.0 if m in ahead else scale) for m in names}
    expected = loss(np.mean([left[m] @ w[m][0].T + w[m][1] for m in names], axis=0))
    assert 0 < len(ahead) < k

    inputs = {m: torch.tensor(x, requires_grad=True) for m, x in f.items()}
    output = Output(inputs, model.fusion(inputs))
    terms = method.loss(output, Batch(torch.arange(6), {}, torch.tensor(y)), state)
    assert float(terms["task"].detach()) == pytest.approx(expected, rel=1e-10)
    terms["task"].backward()
    assert {m for m, x in inputs.items() if not x.grad.any()} == set(ahead)  # type: ignore[union-attr]


def test_about_q_of_the_leaders_features_are_dropped_and_p_exe_of_the_batches() -> None:
    torch.manual_seed(0)
    fusion = build_fusion("late", {"a": 3, "b": 3}, 3)
    for head in fusion.heads.values():  # type: ignore[union-attr, operator]
        head.weight.data.copy_(torch.eye(3))
    model = MultimodalModel({m: Encoder(nn.Identity(), 3) for m in "ab"}, fusion)
    state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=1, epoch=1)  # type: ignore[arg-type]
    y = torch.zeros(500, dtype=torch.long)
    fusion.requires_grad_(False)
    features = {
        "a": torch.tensor([[3.0, 0, 0]]).expand(500, 3),
        "b": torch.tensor([[0.5, 0, 0]]).expand(500, 3),
    }
    method = build("opm", {"q_base": 0.3, "alpha": 0, "p_exe": 0.5})
    method.on_fit_start(state)
    whole = Output(features, fusion(features))
    full = float(state.task.loss(whole.logits, y))
    without = float(state.task.loss(fusion(features | {"a": 0 * features["a"]}), y))
    losses = [float(method.loss(whole, Batch(y, {}, y), state)["task"]) for _ in range(60)]
    shares = np.array([(of - full) / (without - full) for of in losses])
    modulated = shares[shares > 1e-6]
    assert 0.3 < len(modulated) / 60 < 0.7
    assert modulated.mean() == pytest.approx(0.3, abs=0.02)
