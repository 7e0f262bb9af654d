"""What methods log with `state.log` becomes columns of the history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from g2d_pipeline.evaluation.analyses import normalised
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, FitResult, fit, history
from g2d_pipeline.training.teachers import TeacherOutputs
from tests.conftest import TINY, make_data, recipe
from tests.training.test_equalities import plain_model


class Logging(Method):
    """Logs κ in the first epoch, a number in every batch but the first, a tensor in each."""

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if state.epoch == 1:
            state.log(f"kappa/{state.model.modalities[0]}", 0.25)
        state.log("norm", output.logits.new_tensor(3.0).requires_grad_())
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches > 1:
            state.log("number", float(self.batches))
        return super().loss(output, batch, state)


def trained(teachers: dict[str, TeacherOutputs] | None = None) -> FitResult:
    data = make_data()
    modality = {"encoder": TINY.model_dump(mode="json"), "shape": [6], "normaliser": None}
    architecture = {"modalities": dict.fromkeys(data.modalities, modality), "fusion": "late"}
    torch.manual_seed(0)
    model = build_model(architecture | {"task": data.task.to_json()})
    options = {"training": recipe(2), "teachers": teachers, "device": "cpu", "progress": False}
    return fit(model, data, Logging(), **options)


def test_logged_values_are_means_over_the_batches_that_logged_them() -> None:
    history = trained().history
    first = next(iter(make_data().modalities))
    assert history[f"kappa/{first}"].tolist() == [0.25, 1.0]
    assert history["norm"].tolist() == [3.0, 3.0]
    assert history["number"].tolist() == [3.0, 6.5]  # four batches an epoch: of 2, 3, 4, and of 5 … 8


def test_a_column_of_the_history_itself_cannot_be_logged() -> None:
    with pytest.raises(ValueError, match="loss/task"):
        State(model=None, optimizer=None, task=None, epochs=1).log("loss/task", torch.tensor(1.0))  # type: ignore[arg-type]


def test_the_alignment_with_teachers_of_the_same_width_is_recorded_by_epoch() -> None:
    data, rng = make_data(), np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(96, width)).astype(np.float32)) for width in (5, 4))
    answers = torch.zeros(96, 3), torch.full((96,), 0.5)
    result = trained({"a": TeacherOutputs(a, *answers), "b": TeacherOutputs(b, *answers)})
    rows = data.rows["val"]
    with torch.no_grad():
        own = result.model.encoders["a"](torch.from_numpy(data.arrays["a"][rows])).numpy()
    cosine = (normalised(own) * normalised(a.numpy()[rows])).sum(axis=1).mean()
    assert result.history["val/cosine/a"].iloc[-1] == pytest.approx(cosine)
    assert result.history["val/cosine/a"].nunique() == 2
    assert "val/cosine/b" not in result.history
    without = trained().model.state_dict()
    assert all(torch.equal(x, without[name]) for name, x in result.model.state_dict().items())


def norms_of_steps(data: Data, batch_size: int) -> tuple[FitResult, dict[int, list[dict[str, float]]]]:
    """A joint training, and by epoch the norms that each of its steps had, computed beside it."""
    norms: dict[int, list[dict[str, float]]] = {}
    method = build("joint")

    def note(state: State) -> None:
        of_step = {
            m: float(torch.cat([p.grad.flatten() for p in e.parameters() if p.grad is not None]).norm())
            for m, e in state.model.encoders.items()
        }
        norms.setdefault(state.epoch, []).append(of_step)

    method.after_backward = note  # type: ignore[method-assign]
    training = recipe(2).model_copy(update={"batch_size": batch_size})
    return fit(plain_model(data), data, method, training=training, progress=False), norms


@pytest.mark.parametrize(("short", "every"), [(True, 4), (False, 1)])
def test_gradient_norms_are_means_over_steps_of_short_ones_over_every_fourth(
    short: bool, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()
    if not short:
        monkeypatch.setattr(history, "SHORT", 1)
    result, norms = norms_of_steps(data, batch_size=12)
    for m in data.modalities:
        for epoch, steps in norms.items():
            assert len(steps) > 4
            expected = np.mean([step[m] for step in steps[::every]])
            assert result.history[f"grad_norm/{m}"][epoch - 1] == pytest.approx(expected, rel=1e-5)
    assert result.history.get("grad_norm_every", pd.Series([1, 1])).tolist() == [every, every]
