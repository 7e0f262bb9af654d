"""MMPareto: the min-norm direction of two losses, its magnitude, what heads and fusion get (rivals.md,
mmpareto)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.mmpareto import keep_magnitude, pareto_direction, pareto_weights
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.training import fit
from tests.conftest import make_data, recipe

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def linear_model(names: str, outputs: int, fusion: str) -> MultimodalModel:
    torch.manual_seed(3)
    encoders = {m: Encoder(nn.Linear(6, 4), 4) for m in names}
    return MultimodalModel(encoders, build_fusion(fusion, dict.fromkeys(names, 4), outputs))


def test_the_weights_are_those_of_the_shortest_mixture_where_gradients_conflict() -> None:
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 10001)
    conflicts = 0
    for _ in range(40):
        g_0, g_u = rng.normal(size=(2, 5)) * rng.lognormal(size=(2, 1))
        weight = pareto_weights(torch.tensor(g_0), torch.tensor(g_u)).numpy()
        if g_0 @ g_u > 0:
            np.testing.assert_array_equal(weight, [0.5, 0.5])
            continue
        conflicts += 1
        lengths = np.linalg.norm(grid[:, None] * g_0 + (1 - grid[:, None]) * g_u, axis=1)
        assert weight[0] == pytest.approx(grid[lengths.argmin()], abs=1e-4)
        assert np.linalg.norm(weight[0] * g_0 + weight[1] * g_u) <= lengths.min() + 1e-12
    assert conflicts > 10


def test_the_direction_hurts_neither_loss() -> None:
    rng = np.random.default_rng(1)
    for scale in (1e-4, 1.0, 1e4):
        for g_0, g_u in rng.normal(size=(50, 2, 6)) * np.array([[1.0], [scale]]):
            h = pareto_direction(torch.tensor(g_0), torch.tensor(g_u)).numpy()
            for g in (g_0, g_u):
                assert h @ g >= -1e-12 * np.linalg.norm(h) * np.linalg.norm(g)


def test_equal_gradients_are_added_and_opposite_or_no_ones_cancel_out() -> None:
    g = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(pareto_direction(g, g), 2 * g)
    assert torch.equal(pareto_direction(g, -g), torch.zeros(3))
    assert torch.equal(pareto_direction(torch.zeros(3), torch.zeros(3)), torch.zeros(3))
    assert torch.equal(keep_magnitude(torch.zeros(3), g), torch.zeros(3))
    torch.testing.assert_close(
        keep_magnitude(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0])), torch.tensor([6.0, 8.0])
    )
    assert torch.equal(
        keep_magnitude(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])), torch.tensor([3.0, 4.0])
    )


def slope(task: str, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """∂ loss / ∂ logits."""
    if task == "regression":
        return 2 * (logits - y[:, None]) / len(y)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) / len(y)


@pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
@pytest.mark.parametrize(
    ("k", "task", "fusion"),
    [
        (2, "classification", "late"),
        (3, "classification", "concat"),
        (2, "regression", "concat"),
        (3, "regression", "late"),
    ],
)
def test_every_gradient_equals_the_equations_in_numpy(k: int, task: str, fusion: str, rescale: str) -> None:
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    model = linear_model(names, outputs, fusion)
    method = build("mmpareto", {"rescale": rescale, "unimodal_weight": 0.8})
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    model.double(), method.heads.double()  # type: ignore[attr-defined]
    for p in model.parameters():  # so that modalities contradict each other
        p.data.mul_(3)

    def forward(batch: Batch) -> Output:  # the model's own is float32
        features = {m: model.encoders[m].trunk(x) for m, x in batch.inputs.items()}  # type: ignore[operator, union-attr]
        return Output(features, model.fusion(features))

    state.forward = forward
    state.backward = lambda loss, retain_graph=False: loss.backward(retain_graph=retain_graph)
    conflicts = 0
    for _ in range(10):
        model.zero_grad(), method.heads.zero_grad()  # type: ignore[attr-defined]
        x = {m: rng.normal(size=(2, 6)) for m in names}
        y = rng.integers(0, 3, 2) if task == "classification" else rng.normal(size=2)
        method.train_batch(
            Batch(torch.arange(2), {m: torch.tensor(v) for m, v in x.items()}, torch.tensor(y)), state
        )
        method.after_backward(state)

        w = {n: v.detach().numpy() for n, v in model.state_dict().items()}
        f = {m: x[m] @ w[f"encoders.{m}.trunk.weight"].T + w[f"encoders.{m}.trunk.bias"] for m in names}
        if fusion == "late":
            head = {m: (w[f"fusion.heads.{m}.weight"], w[f"fusion.heads.{m}.bias"]) for m in names}
            part = {m: head[m][0] / k for m in names}
            whole = sum(f[m] @ head[m][0].T + head[m][1] for m in names) / k
        else:
            own_heads = method.heads.heads  # type: ignore[attr-defined]
            head = {
                m: (own_heads[m].weight.detach().numpy(), own_heads[m].bias.detach().numpy()) for m in names
            }
            part = dict(zip(names, np.split(w["fusion.head.weight"], k, axis=1), strict=True))
            whole = sum(f[m] @ part[m].T for m in names) + w["fusion.head.bias"]
        d_whole = slope(task, whole, y)
        for m in names:
            d_own = 0.8 * slope(task, f[m] @ head[m][0].T + head[m][1], y)
            g_0, g_u = ([d.T @ x[m], d.sum(axis=0)] for d in (d_whole @ part[m], d_own @ head[m][0]))
            flat_0, flat_u = (np.concatenate([t.ravel() for t in g]) for g in (g_0, g_u))
            if flat_0 @ flat_u > 0:
                of_0 = 0.5
            else:
                conflicts += 1
                of_0 = np.clip((flat_u - flat_0) @ flat_u / ((flat_0 - flat_u) ** 2).sum(), 0, 1)
            for i, kind in enumerate(("weight", "bias")):
                h = 2 * (of_0 * g_0[i] + (1 - of_0) * g_u[i])
                if rescale == "tensor":
                    h = h * max(1, np.linalg.norm(g_0[i] + g_u[i]) / np.linalg.norm(h))
                elif rescale == "encoder":
                    all_h = 2 * (of_0 * flat_0 + (1 - of_0) * flat_u)
                    h = h * max(1, np.linalg.norm(flat_0 + flat_u) / np.linalg.norm(all_h))
                found = model.get_parameter(f"encoders.{m}.trunk.{kind}").grad
                np.testing.assert_allclose(found.numpy(), 1.5 * h, rtol=1e-9, atol=1e-12)  # type: ignore[union-attr]
            if fusion == "late":
                expected, found = (
                    (d_whole / k + d_own).T @ f[m],
                    model.get_parameter(f"fusion.heads.{m}.weight").grad,
                )
            else:
                expected, found = d_own.T @ f[m], own_heads[m].weight.grad
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)  # type: ignore[union-attr]
    assert conflicts > 0


def test_two_halves_of_a_batch_accumulated_are_the_batch() -> None:
    data = make_data(2)
    found = []
    for size, accumulation in ((16, 1), (8, 2)):
        training = TrainingSettings(
            **recipe(2, batch_size=size).model_dump() | {"accumulation": accumulation}
        )
        model = linear_model("ab", 3, "late")
        found.append(
            fit(model, data, build("mmpareto"), training=training, progress=False).model.state_dict()
        )
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)
