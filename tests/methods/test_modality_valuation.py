"""Modality valuation: Shapley values, who is re-sampled how often, masked copies (rivals.md,
modality_valuation)."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods import build
from g2d_pipeline.methods._shapley import shapley
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.modality_valuation import ALL, contributions, copies, shares
from g2d_pipeline.models import Classification, Output, Regression, build_fusion
from g2d_pipeline.training import Data, train_student
from tests.conftest import TINY, make_data, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(
    data: Data, method: str = "modality_valuation", folder: Path | None = None, **parameters: Any
) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    settings: dict[str, Any] = {"training": recipe(2), "progress": False, "folder": folder}
    return train_student(data, encoders, {}, method=method, parameters=parameters, **settings)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_shapley_values_are_mean_marginal_contributions_over_all_orders(k: int) -> None:
    rng, names = np.random.default_rng(k), "abcd"[:k]
    worth: dict[frozenset[str], float] = {}

    def value(some: frozenset[str]) -> float:
        assert some not in worth  # asked once
        worth[some] = float(rng.normal())
        return worth[some]

    found = shapley(names, value)
    orders = list(permutations(names))
    for m in names:
        before = [frozenset(order[: order.index(m)]) for order in orders]
        expected = np.mean([worth[some | {m}] - worth[some] for some in before])
        assert found[m] == pytest.approx(expected, abs=1e-12)
    assert sum(found.values()) == pytest.approx(worth[frozenset(names)] - worth[frozenset()], abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k", [2, 3])
def test_contributions_equal_the_equations_in_numpy_and_sum_to_the_value_of_all(k: int, task: str) -> None:
    torch.manual_seed(k)
    names, outputs, b = "abc"[:k], TASKS[task].outputs, 40
    fusion = build_fusion("concat", dict.fromkeys(names, 4), outputs).double()
    f = {m: torch.randn(b, 4, dtype=torch.float64) for m in names}
    y = torch.randint(0, 3, (b,)) if task == "classification" else torch.randn(b, dtype=torch.float64)
    with torch.no_grad():
        phi, alone = contributions(TASKS[task], fusion, Output(f, fusion(f)), y)

    weight, bias = (p.detach().numpy() for p in fusion.parameters())

    def v(kept: str) -> np.ndarray:
        parts = [f[m].numpy() if m in kept else np.zeros((b, 4)) for m in names]
        logits = np.concatenate(parts, 1) @ weight.T + bias
        good = (
            logits.argmax(1) == y.numpy()
            if task == "classification"
            else np.exp(-((logits[:, 0] - y.numpy()) ** 2) / 2)
        )
        return len(kept) * good.astype(np.float64)

    for i, m in enumerate(names):
        rest = [n for n in names if n != m]
        if k == 2:
            expected = (v(m) + v(names) - v(rest[0])) / 2  # as the published code writes it
        else:
            one, two = rest
            expected = (v(names) - v(one + two) + v(m)) / 3 + (v(m + one) - v(one) + v(m + two) - v(two)) / 6
        np.testing.assert_allclose(phi[i], expected, atol=1e-12)
    np.testing.assert_allclose(phi.sum(0), v(names), atol=1e-12)
    assert alone.shape == (k, b)
    if k == 2 and task == "classification":
        assert set(phi.unique().tolist()) <= {-0.5, 0.0, 0.5, 1.0, 1.5}


def test_the_less_it_contributes_the_more_copies() -> None:
    found = copies(torch.tensor([1.5, 1.0, 0.5, 0.0, -0.5], dtype=torch.float64))
    assert found.tolist() == [0, 0, 1, 2, 3]  # the authors' code, for all values that k = 2 has
    two = shares(torch.tensor([0.9, 0.3], dtype=torch.float64), 0.5)
    np.testing.assert_allclose(two, [0, 0.5 * 2 / 3 * 0.6], atol=1e-15)
    three = shares(torch.tensor([0.9, 0.3, 0.6], dtype=torch.float64), 1.0)
    np.testing.assert_allclose(three, [0, 2 / 3 * 0.45, 0], atol=1e-15)
    assert shares(torch.tensor([0.4, 0.4], dtype=torch.float64), 1.0).tolist() == [0, 0]


def valued(level: str, phi: Tensor, rows: np.ndarray, **parameters: Any) -> tuple[Any, np.ndarray]:
    """The method after it chose the rows of an epoch, with these contributions by place of the row."""
    method: Any = build("modality_valuation", {"level": level, "start_epoch": 1, **parameters})
    model: Any = type("Model", (), {"modalities": "ab"})
    state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=1, epoch=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    at = {int(row): i for i, row in enumerate(rows)}
    method._value = lambda of, state: (phi[:, [at[int(row)] for row in of]], torch.zeros(2, len(of)))
    return method, method.rows(rows, state)


def test_every_sample_is_met_whole_once_and_as_often_alone_as_its_contributions_say() -> None:
    torch.manual_seed(0)
    rows = np.array([7, 2, 9, 4])
    phi = torch.tensor([[1.5, 1.0, 0.0, -0.5], [0.5, 1.0, 0.0, 0.5]], dtype=torch.float64)
    method, chosen = valued("sample", phi, rows)
    assert sorted(chosen) == sorted([7, 7, 2, *[9] * 5, *[4] * 5])
    met: dict[int, list[int]] = {int(row): [] for row in rows}
    for batch in torch.from_numpy(np.random.default_rng(0).permutation(chosen)).split(4):
        for row, whom in zip(batch.tolist(), method._take(batch).tolist(), strict=True):
            met[row].append(whom)
    assert {row: sorted(of) for row, of in met.items()} == {
        7: [ALL, 1], 2: [ALL], 9: [ALL, 0, 0, 1, 1], 4: [ALL, 0, 0, 0, 1],
    }  # fmt: skip


def test_modality_level_gives_random_copies_to_the_weaker_modality_alone() -> None:
    torch.manual_seed(0)
    rows = np.arange(200)
    phi = torch.tensor([[0.9], [0.4]], dtype=torch.float64).expand(2, 200)
    method, chosen = valued("modality", phi, rows, alpha=0.5, part_ratio=0.1)
    assert len(chosen) == 200 + 33  # 0.5 · ⅔ · (0.9 − 0.4) · 200
    assert sorted(set(method.alone.tolist())) == [ALL, 1]
    assert int((method.alone == ALL).sum()) == 200


def test_a_copy_has_the_features_of_its_modality_alone() -> None:
    torch.manual_seed(0)
    task = TASKS["classification"]
    fusion = build_fusion("concat", {"a": 4, "b": 4}, 3)
    model: Any = type("Model", (), {"modalities": "ab", "fusion": fusion})
    state = State(model=model, optimizer=None, task=task, epochs=1, epoch=1)  # type: ignore[arg-type]
    method: Any = build("modality_valuation", {"start_epoch": 1})
    method.on_fit_start(state)
    method.alone, method.following = torch.tensor([ALL, 0, 1]), torch.tensor([0, 1, 2])
    f = {m: torch.randn(3, 4, requires_grad=True) for m in "ab"}
    y = torch.tensor([0, 1, 2])
    loss = method.loss(Output(f, fusion(f)), Batch(torch.arange(3), {}, y), state)["task"]
    keep = {"a": torch.tensor([[1.0], [1], [0]]), "b": torch.tensor([[1.0], [0], [1]])}
    expected = torch.nn.functional.cross_entropy(fusion({m: f[m] * keep[m] for m in "ab"}), y)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    assert f["a"].grad is not None and not f["a"].grad[2].any() and f["a"].grad[:2].any(dim=1).all()  # noqa: PT018


@pytest.mark.parametrize("level", ["sample", "modality"])
def test_stopped_within_an_epoch_it_goes_on_with_the_same_copies(tmp_path: Path, level: str) -> None:
    data = make_data(3, n=60)
    settings = {"start_epoch": 1, "level": level, "alpha": 5.0}
    expected = student(data, **settings)
    with pytest.raises(InterruptedRun):
        interrupt_in_batch(5, lambda: student(data, folder=tmp_path, **settings))
    assert same(expected, student(data, folder=tmp_path, **settings))


@pytest.mark.parametrize("level", ["sample", "modality"])
def test_renaming_and_reversing_the_modalities_permutes_the_choice(level: str) -> None:
    torch.manual_seed(3)
    rows = np.arange(30)
    phi, confidence = torch.randint(-1, 4, (2, 30)).double() / 2, torch.rand(2, 30)
    phi[0] -= 0.5
    found = []
    for flip in (False, True):
        method: Any = build("modality_valuation", {"level": level, "start_epoch": 1, "alpha": 3.0})
        model: Any = type("Model", (), {"modalities": "ab"})
        state = State(model=model, optimizer=None, task=TASKS["classification"], epochs=1, epoch=1)  # type: ignore[arg-type]
        method.on_fit_start(state)
        value = (phi.flip(0), confidence.flip(0)) if flip else (phi, confidence)
        method._value = lambda of, state, value=value: tuple(part[:, of] for part in value)
        torch.manual_seed(4)
        chosen = method.rows(rows, state)
        found.append(
            (chosen, torch.where(method.alone == ALL, ALL, 1 - method.alone) if flip else method.alone)
        )
    assert np.array_equal(found[0][0], found[1][0])
    assert len(found[0][0]) > 30
    assert torch.equal(found[0][1], found[1][1])
