"""MLA: turns on every batch, the head's projection, weights by certainty (rivals.md, mla)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.mla import regularisation_at, squared_error, update_projection
from g2d_pipeline.models import Encoder, MultimodalModel, build_fusion
from g2d_pipeline.training import Data, fit, train_student
from tests.conftest import TINY, make_data, recipe

SHARED = {"name": "shared", "combine": "entropy"}


def linear_model(data: Data, fusion: dict[str, Any] | str = SHARED) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: Encoder(nn.Sequential(nn.Linear(6, 5)), 5) for m in data.modalities}
    return MultimodalModel(
        encoders, build_fusion(fusion, dict.fromkeys(data.modalities, 5), data.task.outputs)
    )


def student(data: Data, **settings: Any) -> dict[str, torch.Tensor]:
    trained = train_student(
        data, dict.fromkeys(data.modalities, TINY), {}, training=recipe(2), progress=False, **settings
    )
    return trained.model.state_dict()


def test_the_projection_is_a_step_of_recursive_least_squares() -> None:
    rng = np.random.default_rng(0)
    ours, p = torch.eye(5), np.eye(5)
    for step, r in enumerate(rng.normal(size=(4, 5))):
        lam = 0.1 ** (1 + step / 4)
        assert regularisation_at(step / 4) == pytest.approx(lam)
        before = p @ r
        ours = update_projection(ours, torch.tensor(r, dtype=torch.float32), lam)
        p = p - np.outer(p @ r, p @ r) / (lam + r @ p @ r)
        np.testing.assert_allclose(ours.numpy(), p, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(p @ r, before * lam / (lam + r @ before), atol=1e-12)


@pytest.mark.parametrize(
    ("k", "task", "options"),
    [
        (2, "classification", {}),
        (3, "classification", {}),
        (2, "regression", {"error_memory": 0.5}),
        (3, "regression", {"project_bias": True}),
        (2, "classification", {"project_bias": True, "regularisation": 0.01}),
        (3, "classification", {"remember": "current", "normalise_projection": True}),
        (2, "classification", {"project_head": False}),
    ],
)
def test_an_epoch_equals_the_equations_in_numpy(k: int, task: str, options: dict[str, Any]) -> None:
    """Linear encoders, plain SGD: forward, gradients, projection and steps by hand in float64."""
    data = make_data(k, task)
    model = linear_model(data)
    w = {name: v.detach().double().numpy().copy() for name, v in model.state_dict().items()}
    training = recipe(1, momentum=0, weight_decay=0, lr=0.1)
    fitted = fit(model, data, build_method("mla", options), training=training, progress=False)

    bias = int(options.get("project_bias", False))
    projection, means = np.eye(5 + bias), []
    errors = dict.fromkeys(data.modalities, 0.0)
    target = data.task.encode(torch.as_tensor(np.asarray(data.target))).double().numpy()
    order = np.random.default_rng([0, 1, 1]).permutation(data.rows["train"])
    losses = {m: [] for m in data.modalities}  # type: ignore[var-annotated]
    for step, rows in enumerate(np.split(order, 4)):
        y = target[rows]
        inputs = {m: np.asarray(data.arrays[m])[rows].astype(np.float64) for m in data.modalities}
        for m, x in inputs.items():
            f = x @ w[f"encoders.{m}.trunk.0.weight"].T + w[f"encoders.{m}.trunk.0.bias"]
            u = f @ w["fusion.head.weight"].T + w["fusion.head.bias"]
            if task == "classification":
                p = np.exp(u - u.max(axis=1, keepdims=True))
                p /= p.sum(axis=1, keepdims=True)
                losses[m].append(-np.log(p[np.arange(16), y.astype(int)]).mean())
                d_u = (p - np.eye(3)[y.astype(int)]) / 16
            else:
                p = 1 / (1 + np.exp(-u))
                losses[m].append(((p[:, 0] - y) ** 2).mean())
                d_u = 2 * (p - y[:, None]) * p * (1 - p) / 16
                scale, spread = data.task.scale, data.task.spread  # type: ignore[attr-defined]
                error = ((p[:, 0] - y) ** 2).mean() * (scale / spread) ** 2
                memory = options.get("error_memory", 0.9) if step else 0.0
                errors[m] = memory * errors[m] + (1 - memory) * error
            means.append(np.append(f.mean(axis=0), 1) if bias else f.mean(axis=0))
            head = np.hstack([d_u.T @ f, d_u.sum(axis=0)[:, None]])
            if len(means) > 1 and options.get("project_head", True):
                r = means[-1] if options.get("remember") == "current" else means[-2]
                lam = options.get("regularisation", 0.1) ** (1 + step / 4)
                projection = projection - np.outer(projection @ r, projection @ r) / (
                    lam + r @ projection @ r
                )
                if options.get("normalise_projection"):
                    projection /= np.sqrt((projection**2).sum())
                head[:, : 5 + bias] = head[:, : 5 + bias] @ projection.T
            d_f = d_u @ w["fusion.head.weight"]
            w["fusion.head.weight"] -= 0.1 * head[:, :5]
            w["fusion.head.bias"] -= 0.1 * head[:, 5]
            w[f"encoders.{m}.trunk.0.weight"] -= 0.1 * d_f.T @ x
            w[f"encoders.{m}.trunk.0.bias"] -= 0.1 * d_f.sum(axis=0)
    if task == "regression":
        w["fusion.errors"] = np.array(list(errors.values()))
    for name, value in fitted.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), w[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for m, values in losses.items():
        assert fitted.history[f"loss/task_{m}"][0] == pytest.approx(np.mean(values), abs=1e-5)
        assert fitted.history[f"grad_norm/{m}"][0] > 0


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_head_leaves_the_modality_before_alone(k: int, bias: bool) -> None:
    """To 1e-5 of the unprojected update where λ is small; with `project_bias` what it says, u, stays."""
    data = make_data(k)
    method: Any = build_method("mla", {"regularisation": 1e-7, "project_bias": bias})
    project = method.after_backward
    changes: list[float] = []

    def watched(state: Any) -> None:
        def change() -> float:
            gradient = (
                torch.cat([head.weight.grad, head.bias.grad[:, None]], dim=1) if bias else head.weight.grad
            )
            return float((gradient @ before).norm())

        head, before = state.model.fusion.head, method.before
        free, is_first = change(), method.turns == 0
        project(state)
        if not is_first:
            changes.append(change() / free)

    method.after_backward = watched
    training = recipe(2, momentum=0, weight_decay=0)
    fit(linear_model(data), data, method, training=training, progress=False)
    assert len(changes) == 2 * 4 * k - 1
    assert max(changes) < 1e-5


def test_a_modality_alone_without_projection_is_joint_training_bit_for_bit() -> None:
    data = make_data(1)
    joint = student(data, method="joint", fusion="shared")
    free = student(data, method="mla", fusion="shared", parameters={"project_head": False})
    assert all(torch.equal(value, free[name]) for name, value in joint.items())
    projected = student(data, method="mla", fusion="shared")
    assert not torch.equal(joint["fusion.head.weight"], projected["fusion.head.weight"])


def test_squared_errors_are_in_units_of_the_targets_variance() -> None:
    data = make_data(2, "regression")
    logits, target = torch.tensor([[0.3], [-1.0]]), torch.tensor([0.2, 0.9])
    of: Any = data.task
    expected = np.mean((1 / (1 + np.exp([-0.3, 1.0])) - [0.2, 0.9]) ** 2) * (of.scale / of.spread) ** 2
    assert float(squared_error(data.task, logits, target)) == pytest.approx(expected, rel=1e-4)
