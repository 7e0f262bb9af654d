"""Gradient-Blending: weights from G and O, the loss, copies that learn alone (rivals.md, gblending)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import SGD
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.methods.gblending import Branches, at_least, blend
from g2d_pipeline.models import Classification, Output, Regression
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.optimisation import build_optimizer
from tests.conftest import TINY, make_data, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, method: str = "gblending", epochs: int = 2, **settings: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    return train_student(
        data, encoders, {}, method=method, training=recipe(epochs), progress=False, **settings
    )


def model_of(data: Data, fusion: str = "late") -> Any:
    modalities = {
        m: {"encoder": TINY.model_dump(), "shape": [6], "normaliser": None} for m in data.modalities
    }
    torch.manual_seed(0)
    return build_model({"modalities": modalities, "fusion": fusion, "task": data.task.to_json()})


def fitted(data: Data, epochs: int = 1, fusion: str = "late", batch_size: int = 16, **parameters: Any) -> Any:
    method = build("gblending", parameters)
    fit(model_of(data, fusion), data, method, training=recipe(epochs, batch_size=batch_size), progress=False)
    return method


@pytest.mark.parametrize("k", [2, 3])
def test_weights_are_gain_over_overfitting_squared(k: int) -> None:
    rng = np.random.default_rng(k)
    names = ["multi", *"abc"[:k]]
    start, end = rng.uniform(1, 2, (k + 1, 2)), rng.uniform(0.2, 1, (k + 1, 2))  # train, val
    before = {m: (float(t), float(v)) for m, (t, v) in zip(names, start, strict=True)}
    after = {m: (float(t), float(v)) for m, (t, v) in zip(names, end, strict=True)}
    found = blend(before, after, floor=1e-9)
    g = start[:, 1] - end[:, 1]
    o = (end[:, 1] - end[:, 0]) - (start[:, 1] - start[:, 0])
    np.testing.assert_allclose(list(found.values()), (g / o**2) / (g / o**2).sum(), rtol=1e-12)
    assert list(found) == names
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_a_branch_that_only_overfits_weighs_nothing_and_one_that_does_not_at_all_is_finite() -> None:
    before = dict.fromkeys(("multi", "a", "b"), (1.0, 1.0))
    after = {"multi": (0.5, 0.6), "a": (0.1, 1.3), "b": (0.8, 0.8)}
    found = blend(before, after, floor=0.01)
    assert found["a"] == 0
    np.testing.assert_allclose(found["b"] / found["multi"], (0.2 / 0.01**2) / (0.4 / 0.1**2), rtol=1e-9)
    assert blend(before, after, 0.01, gain="absolute")["a"] > 0  # what the code does
    assert blend(before, after | {"multi": (float("nan"), float("nan"))}, 0.01) == {
        "multi": 0,
        "a": 0,
        "b": 1,
    }
    assert blend(before, before, 0.01) == {}
    raised = at_least(found, 0.02)
    assert raised["a"] == 0.02
    assert sum(raised.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["late", "concat"])
@pytest.mark.parametrize("k", [2, 3])
def test_the_loss_equals_the_equation_in_numpy(k: int, fusion: str, task: str) -> None:
    data = make_data(k, task)
    model = model_of(data, fusion).double()
    weights = dict(zip(["multi", *data.modalities], [0.5, 0.3, 0.2, 0.7], strict=False))
    method: Any = build("gblending", {"weights": weights})
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    method.heads.double()
    b, c = 9, TASKS[task].outputs
    y = torch.randint(0, 3, (b,)) if task == "classification" else torch.randn(b, dtype=torch.float64)
    f = {m: torch.randn(b, 5, dtype=torch.float64) for m in data.modalities}
    terms = method.loss(Output(f, model.fusion(f)), Batch(torch.arange(b), {}, y), state)

    def task_loss(logits: Any) -> float:
        if task == "regression":
            return float(np.mean((logits[:, 0] - y.numpy()) ** 2))
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(b), y.numpy()]))

    def linear(layer: Any, x: Any) -> Any:
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    heads = model.fusion.heads if fusion == "late" else method.heads.heads
    u = {m: linear(heads[m], f[m].numpy()) for m in f}
    whole = np.concatenate([f[m].numpy() for m in f], 1)
    logits = sum(u.values()) / k if fusion == "late" else linear(model.fusion.head, whole)
    assert logits.shape == (b, c)
    total = sum(weights.values())
    expected = {"task": weights["multi"] / total * task_loss(logits)}
    expected |= {f"task_{m}": weights[m] / total * task_loss(u[m]) for m in f}
    assert {n: float(v.detach()) for n, v in terms.items()} == pytest.approx(expected, rel=1e-9)


def test_the_copy_of_a_modality_learns_as_the_modality_alone_and_the_model_stays() -> None:
    data = make_data(n=48)
    model = model_of(data, "concat")
    start = copy.deepcopy(model.state_dict())
    method: Any = build("gblending")
    settings = SGD(lr=0.05, momentum=0.9, weight_decay=1e-3)
    state = State(model=model, optimizer=None, task=data.task, epochs=1, batch_size=16)  # type: ignore[arg-type]
    x = {m: torch.from_numpy(np.asarray(data.arrays[m])) for m in data.modalities}
    y = torch.from_numpy(np.asarray(data.target))
    state.rows = lambda split: data.rows[split]
    state.batch = lambda rows: Batch(torch.from_numpy(rows), {m: x[m][rows] for m in x}, y[rows])
    state.new_optimizer = lambda p: build_optimizer(settings, [{"params": list(p)}], torch.device("cpu"))
    method.on_fit_start(state)
    state.optimizer = build_optimizer(settings, method.parameter_groups(model), torch.device("cpu"))
    branches = Branches(method.heads, state)
    alone = torch.nn.Sequential(copy.deepcopy(model.encoders["a"]), copy.deepcopy(method.heads.heads["a"]))
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for rows in np.split(data.rows["train"], 2):
        branches.learn(state.batch(rows))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(alone(x["a"][rows]), y[rows]).backward()
        optimizer.step()
    alone.eval()
    found = branches.losses(state)["a"]
    for value, split in zip(found, ("train", "val"), strict=True):
        rows = data.rows[split]
        expected = float(torch.nn.functional.cross_entropy(alone(x["a"][rows]), y[rows]).detach())
        assert value == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert not state.optimizer.state


def test_a_modality_of_noise_is_given_almost_no_weight() -> None:
    data = make_data(n=300)
    noise = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    data = Data.from_arrays({"a": data.arrays["a"], "b": noise}, data.target, _splits(data))
    weights = fitted(data, measure="offline", branch_epochs=8, least=0.0).weights
    assert sum(weights.values()) == pytest.approx(1, abs=1e-9)
    assert weights["b"] < 0.02, weights


def _splits(data: Data) -> Any:
    split = np.empty(len(data.target), dtype="U5")
    for name, rows in data.rows.items():
        split[rows] = name
    return split


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"super_epoch": 2}, [(1, 2), (3, 2), (5, 1)]),
        ({"super_epoch": 2, "branch_epochs": 4}, [(1, 4), (3, 4), (5, 4)]),
        ({"measure": "offline"}, [(1, 5)]),
        ({"weights": {"a": 1, "multi": 2}}, []),
    ],
)
def test_when_it_measures_and_for_how_long(
    settings: dict[str, Any], expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def measure(self: Any, epochs: int, state: State) -> dict[str, float]:
        asked.append((state.epoch, epochs))
        return {"multi": 0.5, "a": 0.5, "b": 0.0} if state.epoch == 1 else {}  # later none gained: they stay

    monkeypatch.setattr("g2d_pipeline.methods.gblending.GBlending._measure", measure)
    method = fitted(make_data(n=48), epochs=5, **settings)
    assert asked == expected
    share = 0.97
    kept = {"multi": 0.5 * share + 0.01, "a": 0.5 * share + 0.01, "b": 0.01}
    assert method.weights == pytest.approx(kept if expected else {"multi": 2 / 3, "a": 1 / 3, "b": 0})


def test_killed_after_a_second_measurement_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    data, settings = make_data(n=60), {"parameters": {"super_epoch": 1}, "fusion": "concat", "epochs": 3}
    expected = student(data, **settings)
    with pytest.raises(InterruptedRun):
        interrupt_in_batch(5, lambda: student(data, folder=tmp_path, **settings))
    assert same(expected, student(data, folder=tmp_path, **settings))
