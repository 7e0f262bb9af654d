"""MSES: the losses of all heads, who stops when, and that what has stopped stays to the bit (rivals.md,
mses)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State, Validation
from g2d_pipeline.methods.mses import MSES, patience_step
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, train_student
from g2d_pipeline.training.streams import seeded
from g2d_pipeline.training.trainer import FitResult
from tests.conftest import TINY, make_data, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

TASKS = {
    "classification": Classification(("x", "y", "z")),
    "regression": Regression(0, 1, 1, "identity", "mse"),
}


def student(data: Data, method: str = "mses", **settings: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, TINY), {}, method=method, **settings)


def misleading(*modalities: str, k: int = 2) -> Data:
    """What these modalities say on train is wrong on val: the better they learn, the worse they get."""
    data = make_data(k)
    val = data.rows["val"]
    for m in modalities:
        x = np.array(data.arrays[m])
        x[val, :3] = -4 * x[val, :3]
        data.arrays[m] = x
    return data


class Watched(MSES):
    """Notes after each epoch what there is to check."""

    def on_fit_start(self, state: State) -> None:
        super().on_fit_start(state)
        log.clear()

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        for (
            m
        ) in state.model.modalities:  # no graph through what has stopped, the whole one through the others
            head = state.model.fusion.heads[m].weight  # type: ignore[union-attr, operator, index]
            assert output.features[m].requires_grad is head.requires_grad is (m not in self.stopped)
        return super().loss(output, batch, state)

    def on_validation(self, validation: Validation, state: State) -> None:
        losses = {
            m: float(state.task.loss(validation.logits[m], validation.target)) for m in state.model.modalities
        }
        before = {name: t.clone() for name, t in state.model.state_dict().items()}
        momentum = {
            name: s["momentum_buffer"].clone()
            for name, p in state.model.named_parameters()
            if (s := state.optimizer.state.get(p))
        }
        super().on_validation(validation, state)
        after = {name: t.clone() for name, t in state.model.state_dict().items()}
        log.append({"losses": losses, "before": before, "after": after, "momentum": momentum})


log: list[dict[str, Any]] = []


def watched(data: Data, epochs: int, fusion: str = "late", **parameters: Any) -> tuple[Watched, FitResult]:
    method = Watched(MSES.Parameters(**parameters))
    with seeded(0, "model"):
        model = build_model(student(data, "joint", fusion=fusion, training=recipe(1)).info["architecture"])
    return method, fit(model, data, method, training=recipe(epochs), progress=False)


def of(modality: str, names: Any) -> list[str]:
    return [n for n in names if n.split(".")[0] in ("encoders", "fusion") and modality in n.split(".")]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["late", "sum", "weighted"])
def test_the_loss_equals_the_equation_in_numpy(k: int, task: str, fusion: str) -> None:
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    method = build("mses", {"weights": {"b": 0.3}})
    model = MultimodalModel(
        {m: Encoder(nn.Identity(), 4) for m in names}, build_fusion(fusion, dict.fromkeys(names, 4), outputs)
    ).double()
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    f = {m: rng.normal(size=(5, 4)) for m in names}
    y = rng.integers(0, 3, 5) if task == "classification" else rng.normal(size=5)
    features = {m: torch.tensor(x) for m, x in f.items()}
    terms = method.loss(
        Output(features, model.fusion(features)), Batch(torch.arange(5), {}, torch.tensor(y)), state
    )

    weights = {name: p.detach().numpy() for name, p in model.fusion.named_parameters()}
    u = {m: f[m] @ weights[f"heads.{m}.weight"].T + weights[f"heads.{m}.bias"] for m in names}
    whole = sum(u.values())
    if fusion != "sum":
        whole = whole / k

    def loss(logits: np.ndarray) -> float:
        if task == "classification":
            return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(5), y]).mean())
        return float(((logits[:, 0] - y) ** 2).mean())

    expected = {"task": loss(whole)} | {f"task_{m}": (0.3 if m == "b" else 1.0) * loss(u[m]) for m in names}  # type: ignore[arg-type]
    assert {n: float(t.detach()) for n, t in terms.items()} == pytest.approx(
        expected, rel=1e-6
    )  # 1/k is a float32


def test_patience_counts_epochs_without_a_strictly_lower_loss() -> None:
    best, waited = float("inf"), 0
    for loss, expected in ((3.0, 0), (2.0, 0), (2.0, 1), (float("nan"), 2), (2.5, 3), (1.9, 0), (9.0, 1)):
        best, waited = patience_step(loss, best, waited)
        assert waited == expected
    assert best == 1.9


def test_a_weight_of_0_leaves_no_term() -> None:
    history = student(make_data(), parameters={"weights": {"a": 0, "b": 0}}).history
    assert [c for c in history if c.startswith("loss/")] == ["loss/task", "loss/total"]


@pytest.mark.parametrize(
    ("fusion", "restore"), [("late", True), ("sum", False), ("weighted", True), ("cosine", False)]
)
def test_a_modality_that_overfits_from_the_first_epoch_stops_and_then_no_bit_of_it_moves(
    fusion: str, restore: bool
) -> None:
    epochs = (
        4 if fusion == "cosine" else 7
    )  # with its scale of 15 "a" overfits, too, and stops after the fifth
    method, done = watched(misleading("b"), epochs, fusion, patience=2, restore_best=restore)
    losses = [epoch["losses"]["b"] for epoch in log]
    assert losses[0] < losses[1] < losses[2]  # it does rise from the first epoch
    assert method.stopped == {"b": 3}
    names = of("b", log[0]["after"])
    assert any(n.startswith("encoders.b") for n in names)
    assert any(n.startswith("fusion.heads.b") for n in names)
    assert any("running_mean" in n for n in names)
    frozen = log[0 if restore else 2]["before"]
    for epoch in (log[2]["after"], *[e["before"] for e in log[3:]], done.model.state_dict()):
        assert all(torch.equal(epoch[n], frozen[n]) for n in names)
    for name in log[2]["momentum"]:
        moves = not torch.equal(log[-1]["momentum"][name], log[2]["momentum"][name])
        assert moves is (name not in names), name
    assert all(
        not torch.equal(log[-1]["after"][n], log[2]["after"][n]) for n in of("a", names_of_weights(done))
    )
    history = done.history
    assert history["learning"].tolist() == ["a+b"] * 3 + ["a"] * (epochs - 3)
    assert (history["grad_norm/b"] > 0).tolist() == [True] * 3 + [False] * (epochs - 3)
    assert (history["grad_norm/a"] > 0).all()
    assert (history["loss/task_b"].fillna(0) > 0).tolist() == [True] * 3 + [False] * (epochs - 3)
    assert all(p.requires_grad for p in done.model.parameters())


def names_of_weights(done: FitResult) -> list[str]:
    return [n for n, p in done.model.named_parameters() if p.dim() == 2]


@pytest.mark.parametrize("restore", [True, False])
def test_training_ends_when_all_have_stopped_and_what_was_restored_is_scored(restore: bool) -> None:
    method, done = watched(misleading("a", "b", "c", k=3), 9, patience=2, restore_best=restore)
    assert method.stopped == {"a": 3, "b": 3, "c": 3}
    assert len(done.history) == (4 if restore else 3)  # an epoch without batches for the scores
    expected = log[0]["before"] if restore else log[2]["before"]
    assert all(torch.equal(t, expected[n]) for n, t in done.model.state_dict().items())
    if restore:
        assert done.history["learning"].iloc[3] == ""
        np.testing.assert_array_equal(done.history["val/multi"].iloc[3], done.history["val/multi"].iloc[0])
        assert log[3]["losses"] == log[0]["losses"]


def test_stopped_and_called_again_after_a_modality_is_frozen_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    data = misleading("b")
    settings: dict[str, Any] = {"training": recipe(5), "parameters": {"patience": 1}}
    expected = student(data, **settings)
    assert expected.history["learning"].iloc[-1] == "a"
    with pytest.raises(InterruptedRun):  # 4 batches an epoch: in the third one
        interrupt_in_batch(11, lambda: student(data, folder=tmp_path, **settings))
    again = student(data, folder=tmp_path, **settings)
    assert same(expected, again)
    assert again.history.equals(expected.history)


def test_gradients_of_several_batches_can_be_accumulated() -> None:
    data = misleading("b")
    training = recipe(4).model_copy(update={"accumulation": 3})
    done = student(data, training=training, parameters={"patience": 1})
    assert done.history["learning"].tolist() == ["a+b"] * 2 + ["a"] * 2
    assert np.isfinite(done.history["loss/total"]).all()
