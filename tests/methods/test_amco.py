"""AMCo: what the prediction depends on too much is masked (rivals.md, amco)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.methods import build
from g2d_pipeline.methods.amco import dependence_shares, mask_features, masked_share
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 0.7, "identity", "mse"),
}


@pytest.mark.parametrize("k", [2, 3])
def test_shares_equal_the_equation_and_sum_to_one(k: int) -> None:
    rng = np.random.default_rng(k)
    u, y = {m: rng.normal(size=(7, 3)) for m in "abc"[:k]}, rng.integers(0, 3, 7)
    p = np.exp(np.hstack(list(u.values())))
    p /= p.sum(axis=1, keepdims=True)
    logits = {m: torch.tensor(x) for m, x in u.items()}
    found = dependence_shares(TASKS["classification"], logits, torch.tensor(y)).numpy()
    np.testing.assert_allclose(found, p.reshape(7, k, 3).sum(axis=2).mean(axis=0), rtol=1e-12)
    assert found.sum() == pytest.approx(1)
    v, t = {m: rng.normal(size=(7, 1)) for m in "abc"[:k]}, rng.normal(size=7)
    s = np.array([np.exp(-((x[:, 0] - t) ** 2) / (2 * 0.7**2)).mean() for x in v.values()])
    found = dependence_shares(
        TASKS["regression"], {m: torch.tensor(x) for m, x in v.items()}, torch.tensor(t)
    ).numpy()
    np.testing.assert_allclose(found, s / s.sum(), rtol=1e-12)


def test_the_masked_share_grows_to_all_and_the_mask_is_one_for_all_samples() -> None:
    assert [masked_share(0.3 * x, 0.3) for x in (0, 1 / 3, 1, 5)] == pytest.approx([0, 0.5, 1, 1])
    masked = mask_features(torch.ones(4, 6), torch.tensor([1, 4]))
    assert masked.tolist() == [[1, 0, 1, 1, 0, 1]] * 4


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "classification"), (2, "regression")])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_terms_equal_their_formulas_in_float64(k: int, task: str, rescale: bool) -> None:
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    model = MultimodalModel(
        {m: Encoder(nn.Identity(), 5) for m in names}, build_fusion("late", dict.fromkeys(names, 5), outputs)
    ).double()
    w = {m: (h.weight.detach().numpy(), h.bias.detach().numpy()) for m, h in model.fusion.heads.items()}  # type: ignore[union-attr, operator]
    y = rng.integers(0, 3, 6) if task == "classification" else rng.normal(size=6)
    f = {m: 0.01 * rng.normal(size=(6, 5)) for m in names}
    # Modality b leads: its logits are great, or right.
    f["b"] = (
        rng.normal(size=(6, 5)) * 9
        if task == "classification"
        else np.outer(y, w["b"][0][0] / (w["b"][0] ** 2).sum())
    )
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=10, epoch=3)  # type: ignore[arg-type]
    method = build("amco", {"unimodal_weight": 0.5, "rescale": rescale})
    method.on_fit_start(state)
    inputs = {m: torch.tensor(x) for m, x in f.items()}
    torch.manual_seed(1)
    batch = Batch(torch.arange(6), {}, torch.tensor(y))
    terms = method.loss(Output(inputs, model.fusion(inputs)), batch, state)

    share = math.sin(math.pi / 2 * min(0.3, 2 / 10) / 0.3)
    torch.manual_seed(1)
    gone = torch.randperm(5)[: int(5 * share)].numpy()
    assert len(gone) == 4
    left = {m: x.copy() for m, x in f.items()}
    left["b"][:, gone] = 0
    left["b"] *= 1 / (1 - share) if rescale else 1.0
    u = {m: left[m] @ w[m][0].T + w[m][1] for m in names}

    def loss(of: np.ndarray) -> float:  # type: ignore[type-arg]
        if task == "regression":
            return float(((of[:, 0] - y) ** 2).mean())
        return float((np.log(np.exp(of).sum(1)) - of[np.arange(6), y]).mean())

    expected = {"task": loss(np.mean(list(u.values()), axis=0))} | {
        f"task_{m}": 0.5 * loss(u[m]) for m in names
    }
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)


def looked_at() -> tuple[State, list[Output], torch.Tensor]:
    """Epoch 5 of 10, where p = 1; three batches: a leads, b leads, neither does."""
    model = MultimodalModel(
        {m: Encoder(nn.Identity(), 4) for m in "ab"}, build_fusion("late", {"a": 4, "b": 4}, 3)
    )
    for head in model.fusion.heads.values():  # type: ignore[union-attr, operator]
        nn.init.ones_(head.weight)
    state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=10, epoch=5)  # type: ignore[arg-type]
    one, none = torch.ones(8, 4), torch.zeros(8, 4)
    batches = [{"a": one, "b": none}, {"a": none, "b": one}, {"a": none, "b": none}]
    return state, [Output(f, model.fusion(f)) for f in batches], torch.zeros(8, dtype=torch.long)


@pytest.mark.parametrize(
    ("hold", "expected"), [("batch", [["a"], ["b"], []]), ("epoch", [["a"], ["a", "b"], ["a", "b"]])]
)
def test_the_leader_is_masked_in_its_batch_or_to_the_end_of_the_epoch(
    hold: str, expected: list[list[str]]
) -> None:
    state, outputs, y = looked_at()
    method = build("amco", {"hold": hold})
    method.on_fit_start(state)
    for _ in range(2):
        method.on_epoch_start(state)
        masked = [method._masked(output, Batch(y, {}, y), 1.0, state) for output in outputs]  # type: ignore[attr-defined]
        assert [sorted(of) for of in masked] == expected
        assert not any(f.any() for of in masked for f in of.values())


def test_the_codes_schedule_counts_the_batches_of_an_epoch() -> None:
    state, outputs, y = looked_at()
    method = build("amco", {"progress": "batches"})
    method.on_fit_start(state)
    for _ in range(2):
        method.on_epoch_start(state)
        for done, output in enumerate(outputs):
            assert method._share(state) == pytest.approx(masked_share(done * 4 / 10, 0.3))  # type: ignore[attr-defined]
            method.loss(output, Batch(y, {}, y), state)
    assert build("amco", {"greatest_share": 0.6})._share(state) == 0.6  # type: ignore[attr-defined]
