"""PMR: prototypes, who is pulled and who is slowed, quantile bins of a regression (rivals.md, pmr)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.methods import build
from g2d_pipeline.methods._scores import ratios
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.pmr import entropy_reward, prototype_weight, similarities, stratified
from g2d_pipeline.models import Classification, Output, Regression
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.streams import seeded
from tests.conftest import TINY, make_data, recipe
from tests.methods.tiny import softmax

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, method: str = "pmr", **parameters: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(
        data, encoders, {}, method=method, parameters=parameters, training=recipe(2), progress=False
    )


@pytest.mark.parametrize("rule", ["paper", "code"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_the_loss_equals_the_equations_in_numpy(k: int, task: str, rule: str) -> None:
    rng = np.random.default_rng(k)
    names, b = "abc"[:k], 9
    stored = torch.tensor(rng.integers(0, 3, 40) if task == "classification" else rng.normal(size=40))
    method = build("pmr", {"alpha": 1.5, "rule": rule, "entropy_weight": 0.3, "bins": 4})
    state = State(model=None, optimizer=None, task=TASKS[task], epochs=1, epoch=1)  # type: ignore[arg-type]
    state.rows, state.targets = (lambda split: np.arange(40)), (lambda rows: stored)
    method.on_fit_start(state)
    prototypes = {m: rng.normal(size=(3 if task == "classification" else 4, 5)) for m in names}
    method.prototypes = {m: torch.tensor(c) for m, c in prototypes.items()}  # type: ignore[attr-defined]
    y = stored[:b].numpy()
    bins = np.quantile(stored.numpy(), [0.25, 0.5, 0.75])
    label = y if task == "classification" else (y[:, None] > bins).sum(axis=1)
    f = {m: prototypes[m][label] + (i + 1) * 0.6 * rng.normal(size=(b, 5)) for i, m in enumerate(names)}
    l_s = rng.normal(size=(b, TASKS[task].outputs))
    features = {m: torch.tensor(x, requires_grad=True) for m, x in f.items()}
    terms = method.loss(Output(features, torch.tensor(l_s)), Batch(torch.arange(b), {}, stored[:b]), state)

    p, cross, entropies = {}, {}, {}
    for m in names:
        z = -np.sqrt(((f[m][:, None] - prototypes[m][None]) ** 2).sum(axis=2))
        of = softmax(z)
        p[m] = of[np.arange(b), label].mean()
        cross[m] = -np.log(of[np.arange(b), label]).mean()
        entropies[m] = -(of * np.log(of)).sum(axis=1).mean()
    ratio = {m: p[m] / np.mean([p[n] for n in names if n != m]) for m in names}
    weight = {
        m: 1.5 * (np.clip(1 / r - 1, 0, 1) if rule == "paper" else float(r < 1)) for m, r in ratio.items()
    }
    assert any(r < 1 for r in ratio.values())
    assert any(r > 1 for r in ratio.values())
    drawn = sum(weight[m] * cross[m] for m in names)
    slowed = -sum(0.3 * np.clip(ratio[m] - 1, 0, 1) * entropies[m] for m in names)
    assert float(terms["prototypes"].detach()) == pytest.approx(drawn, rel=1e-6)
    assert float(terms["entropy"].detach()) == pytest.approx(slowed, rel=1e-6)
    terms["prototypes"].backward()  # type: ignore[no-untyped-call]
    for m in names:  # who leads is not drawn
        assert bool(features[m].grad.any()) is bool(ratio[m] < 1)  # type: ignore[union-attr]


def test_two_modalities_are_compared_by_rho_and_its_inverse_and_equal_ones_left_alone() -> None:
    torch.testing.assert_close(ratios(torch.tensor([0.6, 0.2])), torch.tensor([3.0, 1 / 3]))
    equal = ratios(torch.tensor([0.3, 0.3, 0.3]))
    for rule in ("paper", "code"):
        assert torch.equal(prototype_weight(equal, 2.0, rule), torch.zeros(3))  # type: ignore[arg-type]
    assert torch.equal(entropy_reward(equal, 2.0), torch.zeros(3))
    assert prototype_weight(torch.tensor([0.1]), 2.0).tolist() == [2.0]  # clipped at α


def test_features_on_their_prototypes_have_the_least_loss() -> None:
    torch.manual_seed(0)
    prototypes, label = torch.randn(4, 6), torch.arange(4)
    least = F.cross_entropy(similarities(prototypes, prototypes), label)
    for size in (0.01, 0.3, 3.0):
        for _ in range(50):
            moved = prototypes + size * torch.randn(4, 6)
            assert F.cross_entropy(similarities(moved, prototypes), label) >= least - 1e-6


def test_a_share_of_each_class_is_drawn_and_at_least_one() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [2])
    rows = np.arange(100, 124)
    drawn = stratified(rows, labels, np.random.default_rng(0).permutation(24), 0.25)
    assert np.bincount(labels[drawn - 100]).tolist() == [5, 1, 1]
    assert drawn.tolist() == sorted(set(drawn.tolist()))


@pytest.mark.parametrize("task", TASKS)
def test_prototypes_are_class_means_of_clean_train_features_with_memory(task: str) -> None:
    """The first refresh has nothing to remember, the second only encoders before training."""
    data = make_data(2, task)
    method = build("pmr", {"share": 1.0, "memory": 0.4, "bins": 4})
    seen: list[dict[str, torch.Tensor]] = []
    means: list[dict[str, np.ndarray]] = []
    rows = data.rows["train"]
    y = data.task.encode(torch.as_tensor(np.asarray(data.target)))[rows].numpy()
    label = y if task == "classification" else (y[:, None] > np.quantile(y, [0.25, 0.5, 0.75])).sum(axis=1)
    refresh = method.on_epoch_start

    def watch(state: State) -> None:
        refresh(state)
        seen.append(method.prototypes)  # type: ignore[attr-defined]
        with torch.no_grad():
            model = state.model.eval()
            found = model({m: torch.from_numpy(data.arrays[m][rows]) for m in "ab"}).features
            model.train()
        means.append({m: np.stack([f.double().numpy()[label == c].mean(axis=0) for c in np.unique(label)])
                      for m, f in found.items()})  # fmt: skip

    method.on_epoch_start = watch  # type: ignore[method-assign]
    architecture = student(data, "joint").info["architecture"]
    with seeded(0, "model"):
        model = build_model(architecture)
    fit(model, data, method, training=recipe(4), progress=False)
    kept = [means[0], means[1]]
    for of in means[2:]:
        kept.append({m: 0.4 * kept[-1][m] + 0.6 * of[m] for m in "ab"})
    for ours, expected in zip(seen, kept, strict=True):
        for m in "ab":
            np.testing.assert_allclose(ours[m].numpy(), expected[m], rtol=1e-4, atol=1e-5)


def test_entropy_is_rewarded_in_the_first_epochs_alone() -> None:
    entropy = student(make_data(), entropy_epochs=1).history["loss/entropy"].fillna(0)
    assert entropy[0] < 0 == entropy[1]


def test_classes_that_train_lacks_and_targets_with_ties_have_no_prototypes() -> None:
    data = make_data(2)
    data.target[data.rows["train"][np.asarray(data.target)[data.rows["train"]] == 1]] = 2
    assert np.isfinite(student(data).history["loss/total"]).all()
    tied = make_data(2, "regression")
    tied.target[:] = np.where(tied.target > 0.2, 1.0, 0.0)
    two = Data.from_arrays(
        tied.arrays, tied.target, ["train"] * 64 + ["val"] * 16 + ["test"] * 16, task="regression"
    )
    assert np.isfinite(student(two).history["loss/total"]).all()
