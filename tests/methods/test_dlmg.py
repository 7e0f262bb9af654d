"""DLMG: how modalities are matched, the two schedules of the mixture, what is refused (rivals.md, dlmg)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.methods.dlmg import heuristic_share, info_nce, pair_divergence
from g2d_pipeline.methods.joint import Joint
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.training import Data, train_student
from tests.conftest import TINY, make_data, recipe
from tests.methods.tiny import same

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, method: str = "dlmg", encoders: Any = None, **parameters: Any) -> Trained:
    encoders = encoders or dict.fromkeys(data.modalities, TINY)
    return train_student(
        data, encoders, {}, method=method, parameters=parameters, training=recipe(2), progress=False
    )


def linear_state(method: Method, names: str, task: str) -> State:
    torch.manual_seed(1)
    encoders = {m: Encoder(nn.Linear(6, 4), 4) for m in names}
    model = MultimodalModel(
        encoders, build_fusion("late", dict.fromkeys(names, 4), TASKS[task].outputs)
    ).double()

    def forward(inputs: dict[str, torch.Tensor]) -> Output:  # the model's own is float32
        features = {m: model.encoders[m].trunk(x) for m, x in inputs.items()}  # type: ignore[operator, union-attr]
        return Output(features, model.fusion(features))

    model.forward = forward  # type: ignore[method-assign, assignment]
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=4, epoch=2)  # type: ignore[arg-type]
    state.forward = lambda batch: model(batch.inputs)
    state.backward = lambda loss, retain_graph=False: loss.backward(retain_graph=retain_graph)
    method.on_fit_start(state)
    return state


def log_softmax(u: np.ndarray, axis: int = 1) -> np.ndarray:
    return (
        u
        - u.max(axis, keepdims=True)
        - np.log(np.exp(u - u.max(axis, keepdims=True)).sum(axis, keepdims=True))
    )


@pytest.mark.parametrize(
    ("k", "task", "matching"),
    [
        (2, "classification", "js"),
        (3, "classification", "js"),
        (2, "classification", "infonce"),
        (3, "regression", "infonce"),
    ],
)
def test_the_terms_equal_the_equations_in_numpy(k: int, task: str, matching: str) -> None:
    rng = np.random.default_rng(k)
    names = "abc"[:k]
    method = build("dlmg", {"matching": matching, "temperature": 0.5, "start": 0.8})
    state = linear_state(method, names, task)
    method.on_epoch_start(state)  # the second of four epochs: a_2 = 0.8 · 3/4
    x = {m: rng.normal(size=(5, 6)) for m in names}
    y = rng.integers(0, 3, 5) if task == "classification" else rng.normal(size=5)
    batch = Batch(torch.arange(5), {m: torch.tensor(v) for m, v in x.items()}, torch.tensor(y))
    terms = method.train_batch(batch, state)

    w = {n: v.detach().numpy() for n, v in state.model.state_dict().items()}
    f = {m: x[m] @ w[f"encoders.{m}.trunk.weight"].T + w[f"encoders.{m}.trunk.bias"] for m in names}
    u = {m: f[m] @ w[f"fusion.heads.{m}.weight"].T + w[f"fusion.heads.{m}.bias"] for m in names}
    whole = sum(u.values()) / k
    right = -log_softmax(whole)[np.arange(5), y].mean() if task == "classification" else 0.0
    loss = right if task == "classification" else ((whole[:, 0] - y) ** 2).mean()
    found = []
    for a, b in combinations(names, 2):
        if matching == "js":
            p, q = np.exp(log_softmax(u[a])), np.exp(log_softmax(u[b]))
            middle = (p + q) / 2
            found.append(np.mean([(r * np.log(r / middle)).sum(axis=1).mean() for r in (p, q)]))
        else:
            n, o = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (f[a], f[b]))
            s = n @ o.T / 0.5
            found.append(-(np.diag(log_softmax(s, 0)) + np.diag(log_softmax(s, 1))).mean() / 2)
    assert float(terms["task"].detach()) == pytest.approx(2 * 0.4 * loss, rel=1e-9)
    assert float(terms["matching"].detach()) == pytest.approx(2 * 0.6 * np.mean(found), rel=1e-9)


def test_identical_predictions_match_and_matching_is_symmetric() -> None:
    torch.manual_seed(0)
    task, (a, b) = TASKS["classification"], torch.randn(2, 6, 3, dtype=torch.float64)
    assert float(pair_divergence(task, a, a + 2)) == pytest.approx(0, abs=1e-12)  # the same softmax
    assert float(pair_divergence(task, a, b)) > 0
    torch.testing.assert_close(pair_divergence(task, a, b), pair_divergence(task, b, a))
    torch.testing.assert_close(info_nce(a, b, 0.1), info_nce(b, a, 0.1))
    assert info_nce(a, a, 0.01) < info_nce(a, b, 0.01)


def test_the_matching_weight_decays_to_a_last_share() -> None:
    assert [heuristic_share(0.8, e, 4) for e in (1, 2, 3, 4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "regression")])
def test_without_matching_it_is_joint_with_twice_the_loss_bit_for_bit(
    k: int, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(k, task)
    plain, matched = student(data, start=0), student(data)
    loss = Method.loss

    def doubled(self: Method, output: Output, batch: Batch, state: State) -> dict[str, torch.Tensor]:
        return {"task": 2 * loss(self, output, batch, state)["task"]}

    monkeypatch.setattr(Joint, "loss", doubled)
    joint = student(data, "joint")
    assert same(joint, plain)
    assert not same(joint, matched)


@pytest.mark.parametrize("matching", ["infonce", "js"])
def test_the_learned_weight_follows_the_slope_of_the_held_out_loss(matching: str) -> None:
    """Against a central difference of the loss after one plain step; the trial step leaves no trace."""
    rng = np.random.default_rng(0)
    method = build("dlmg", {"schedule": "learned", "start": 0.6, "weight_lr": 0.5, "matching": matching})
    state = linear_state(method, "ab", "classification")
    model = state.model
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def batch() -> Batch:
        inputs = {m: torch.tensor(rng.normal(size=(8, 6))) for m in "ab"}
        return Batch(torch.arange(8), inputs, torch.tensor(rng.integers(0, 3, 8)))

    train, held_out = batch(), batch()
    state.rows, state.batch = (lambda split: {"val": np.arange(8)}[split]), (lambda rows: held_out)
    before = [p.detach().clone() for p in model.parameters()]

    def held_out_loss(share: float) -> float:
        output = model(train.inputs)
        total = 2 * (
            (1 - share) * state.task.loss(output.logits, train.target) + share * method.match(output, state)
        )  # type: ignore[attr-defined]
        moved = {
            name: p - 0.2 * g
            for (name, p), g in zip(
                model.named_parameters(), torch.autograd.grad(total, [*model.parameters()]), strict=True
            )
        }
        logits = torch.func.functional_call(model, moved, (held_out.inputs,)).logits
        return float(state.task.loss(logits, held_out.target).detach())

    slope = (held_out_loss(0.6 + 1e-4) - held_out_loss(0.6 - 1e-4)) / 2e-4
    terms = method.train_batch(train, state)
    assert abs(slope) > 1e-4
    assert method.share == pytest.approx(0.6 - 0.5 * slope, rel=1e-6)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    total = terms["task"] + terms["matching"]
    for p, g in zip(
        model.parameters(),
        torch.autograd.grad(total_again(method, train, state), [*model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(p.grad, g)
    assert total.isfinite()


def total_again(method: Method, batch: Batch, state: State) -> torch.Tensor:
    """The loss of the batch at a_2 = 0.6."""
    output = state.forward(batch)
    return 2 * (0.4 * state.task.loss(output.logits, batch.target) + 0.6 * method.match(output, state))  # type: ignore[attr-defined, no-any-return]


def test_features_of_different_widths_are_projected_and_a_learned_weight_stays_a_share() -> None:
    data = make_data(2)
    encoders = {"a": MLP(widths=[8, 5], dropout=[]), "b": MLP(widths=[8, 3], dropout=[])}
    done = student(data, encoders=encoders, schedule="learned", every=2, weight_lr=1e6)
    assert np.isfinite(done.history["loss/total"]).all()
    assert done.model.state_dict().keys() == student(data, "joint", encoders).model.state_dict().keys()
