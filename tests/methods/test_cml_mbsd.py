"""CML and MBSD: two losses between predictions of the same batch (rivals.md, cml and mbsd)."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.cml import nested, rise
from g2d_pipeline.methods.mbsd import disagreement, distance, kl_to_stronger
from g2d_pipeline.models import Classification, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.training import Data, train_student
from tests.conftest import TINY, recipe
from tests.methods.tiny import softmax

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, method: str, **parameters: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(
        data, encoders, {}, method=method, parameters=parameters, training=recipe(2), progress=False
    )


def task_loss(task: str, logits: np.ndarray, y: np.ndarray) -> float:
    if task == "classification":
        return float(-np.log(softmax(logits)[np.arange(len(y)), y]).mean())
    return float(((logits[:, 0] - y) ** 2).mean())


def true_confidence(task: str, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = (
        softmax(logits)[np.arange(len(y)), y]
        if task == "classification"
        else np.exp(-((logits[:, 0] - y) ** 2) / 2)
    )
    return found


def setting(k: int, task: str) -> tuple[dict[str, np.ndarray], np.ndarray, Output, Batch, State, Any]:
    """Features and targets in numpy, and the same as the method sees them; concat fusion, float64."""
    torch.manual_seed(k)
    rng = np.random.default_rng(k)
    names, b = "abc"[:k], 30
    fusion = build_fusion("concat", dict.fromkeys(names, 4), TASKS[task].outputs).double()
    f = {m: rng.normal(size=(b, 4)) * (i + 1) for i, m in enumerate(names)}
    y = rng.integers(0, 3, b) if task == "classification" else rng.normal(size=b)
    model = MultimodalModel({}, fusion)
    type_of_model: Any = type("Model", (), {"modalities": tuple(names), "fusion": fusion,
                                            "unimodal_logits": model.unimodal_logits})  # fmt: skip
    features = {m: torch.tensor(x, requires_grad=True) for m, x in f.items()}
    state = State(model=type_of_model, optimizer=None, task=TASKS[task], epochs=1, epoch=1)  # type: ignore[arg-type]
    return (
        f,
        y,
        Output(features, fusion(features)),
        Batch(torch.arange(b), {}, torch.tensor(y)),
        state,
        fusion,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_cml_equals_its_equation_in_numpy(k: int, task: str) -> None:
    f, y, output, batch, state, fusion = setting(k, task)
    names, b = list(f), len(y)
    method: Any = build("cml", {"weight": 0.3})
    method._order = lambda output, total: names
    terms = {name: term.detach() for name, term in method.loss(output, batch, state).items()}

    weight, bias = (p.detach().numpy() for p in fusion.parameters())
    logits = []
    for size in range(k, 0, -1):
        parts = [f[m] if i < size else np.zeros((b, 4)) for i, m in enumerate(names)]
        logits.append(np.concatenate(parts, axis=1) @ weight.T + bias)
    assert float(terms["task"]) == pytest.approx(
        np.mean([task_loss(task, of, y) for of in logits]), rel=1e-10
    )
    total = 0.0
    for more, less in pairwise(logits):
        if task == "classification":
            of_more, of_less = softmax(more).max(1), softmax(less).max(1)
            right = more.argmax(1) == y
            assert 0 < right.sum() < b
        else:
            of_more, of_less = true_confidence(task, more, y), true_confidence(task, less, y)
            right = np.ones(b, dtype=bool)
        total += np.maximum(of_less - of_more, 0)[right].mean()
    assert total > 0
    assert float(terms["rise"]) == pytest.approx(0.3 * total, rel=1e-10)
    whole: Any = build("cml", {"weight": 0.3, "losses": "whole"})
    whole._order = lambda output, total: names
    assert float(whole.loss(output, batch, state)["task"].detach()) == pytest.approx(
        task_loss(task, logits[0], y), rel=1e-10
    )


def test_cml_monotone_confidence_costs_nothing_and_only_right_samples_count() -> None:
    task = TASKS["classification"]
    sure, unsure = torch.tensor([[4.0, 0, 0], [0, 4.0, 0]]), torch.tensor([[2.0, 0, 0], [0, 1.0, 0]])
    y = torch.tensor([0, 1])
    assert float(rise(task, sure, unsure, y)) == 0
    assert float(rise(task, unsure, sure, y)) > 0
    assert float(rise(task, unsure, sure, torch.tensor([2, 2]))) == 0  # the superset is right on none
    first = (sure.softmax(1).max(1).values - unsure.softmax(1).max(1).values)[0]
    assert float(rise(task, unsure, sure, torch.tensor([0, 2]))) == pytest.approx(float(first))


def test_cml_removes_each_modality_in_turn_in_random_order() -> None:
    assert nested(["c", "a", "b"]) == [frozenset("abc"), frozenset("ac"), frozenset("c")]
    method: Any = build("cml")
    output = Output(
        {m: torch.full((2, 3), size) for m, size in (("a", 1.0), ("b", 3.0), ("c", 2.0))}, torch.zeros(2, 3)
    )
    renamed = Output(
        {m: output.features[of] for m, of in (("x", "c"), ("y", "b"), ("z", "a"))}, output.logits
    )
    torch.manual_seed(0)
    orders = [method._order(output) for _ in range(60)]
    torch.manual_seed(0)
    others = [method._order(renamed) for _ in range(60)]
    assert len({tuple(order) for order in orders}) == 6
    assert [[{"x": "c", "y": "b", "z": "a"}[m] for m in order] for order in others] == orders


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_mbsd_equals_its_equation_in_numpy(k: int, task: str) -> None:
    f, y, output, batch, state, fusion = setting(k, task)
    b = len(y)
    method = build("mbsd", {"unimodal_weight": 0.5, "distill_weight": 2.0})
    terms = {name: term.detach() for name, term in method.loss(output, batch, state).items()}
    weight, bias = (p.detach().numpy() for p in fusion.parameters())
    u = {m: x @ weight[:, 4 * i : 4 * i + 4].T + bias for i, (m, x) in enumerate(f.items())}
    for m, logits in u.items():
        assert float(terms[f"task_{m}"]) == pytest.approx(0.5 * task_loss(task, logits, y), rel=1e-10)
    apart, behind = [], []
    for one, two in combinations(u, 2):
        rho = {m: true_confidence(task, u[m], y) for m in (one, two)}
        for i in range(b):
            w = abs(rho[one][i] - rho[two][i])
            if task == "classification" and y[i] not in (u[one][i].argmax(), u[two][i].argmax()):
                w = 0.0
            strong, weak = (one, two) if rho[one][i] > rho[two][i] else (two, one)
            p, q = softmax(u[strong])[i], softmax(u[weak])[i]
            kl = (
                (p * np.log(p / q)).sum()
                if task == "classification"
                else (u[strong][i, 0] - u[weak][i, 0]) ** 2 / 2
            )
            apart.append(w * ((u[one][i] - u[two][i]) ** 2).mean())
            behind.append(w * kl)
    assert float(terms["distance"]) == pytest.approx(2 * np.mean(apart), rel=1e-10)
    assert float(terms["kl_to_stronger"]) == pytest.approx(2 * np.mean(behind), rel=1e-10)
    whole = task_loss(task, output.logits.detach().numpy(), y)
    assert float(terms["task"]) == pytest.approx(whole, rel=1e-10)


def test_mbsd_moves_the_weak_towards_the_strong_and_both_together() -> None:
    task, y = TASKS["classification"], torch.tensor([0, 0, 1])
    a = torch.tensor([[3.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]], requires_grad=True)
    b = torch.tensor([[1.0, 0, 0], [0, 3.0, 0], [0, 0, 2.0]], requires_grad=True)
    w = disagreement(task, a, b, y)
    assert float(w[0]) > 0
    assert w[1:].tolist() == [0, 0]  # neither is right
    one, two = torch.autograd.grad(kl_to_stronger(task, a, b, y).sum(), [a, b])
    assert not one[0].any()  # a is the strong one in the first sample
    assert two[0].any()
    assert one[2].any() == (task.confidence(a, y)[2] < task.confidence(b, y)[2])
    one, two = torch.autograd.grad(distance(task, a, b).sum(), [a, b])
    torch.testing.assert_close(one, -two)
    assert one[0].any()
