"""G²D's loss with all its options against numpy, UMT as a setting of it, teachers of another width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State, TeacherView
from g2d_pipeline.methods.g2d import feature_distillation
from g2d_pipeline.models import Classification, Encoder, MultimodalModel, Output, Regression, build_fusion
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.streams import seeded
from g2d_pipeline.training.teachers import TeacherOutputs
from tests.conftest import TINY, make_data, recipe
from tests.methods.tiny import same
from tests.test_resolve import configure

WIDE = MLP(widths=[8, 7], dropout=[])
TASKS = {"classification": Classification(("x", "y", "z")), "regression": Regression(0.1, 0.4, 0.1)}
Teachers = dict[str, TeacherOutputs]


@pytest.fixture(scope="module")
def taught() -> dict[str, tuple[Data, Teachers]]:
    """Task → data of two modalities and their teachers; "wide": the teacher of a has another width."""
    found = {}
    for task in TASKS:
        data = make_data(2, task)
        trained = {
            m: train_teacher(data, m, TINY, training=recipe(1), progress=False) for m in data.modalities
        }
        found[task] = (data, {m: teacher_outputs(t, m) for m, t in trained.items()})
    data, teachers = found["classification"]
    wide = train_teacher(data, "a", WIDE, training=recipe(1), progress=False)
    return found | {"wide": (data, teachers | {"a": teacher_outputs(wide, "a")})}


def student(data: Data, teachers: Teachers, **settings: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, TINY), teachers, **settings)


def reference(distance: str, reduction: str, s: np.ndarray, t: np.ndarray) -> float:  # type: ignore[type-arg]
    if distance == "cosine":
        lengths = np.sqrt((s**2).sum(1)) * np.sqrt((t**2).sum(1))
        return float((1 - (s * t).sum(1) / lengths).mean())
    each = (s - t) ** 2 if distance == "mse" else np.abs(s - t)
    return float(each.mean() if reduction == "mean" else each.sum(1).mean())


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("distance", "reduction"),
    [("mse", "mean"), ("mse", "sum"), ("l1", "mean"), ("l1", "sum"), ("cosine", "mean")],
)
def test_the_loss_is_the_equation_with_weights_a_modality(
    k: int, task: str, distance: str, reduction: str
) -> None:
    rng = np.random.default_rng(k)
    names, outputs = "abc"[:k], TASKS[task].outputs
    f_s, f_t = ({m: rng.normal(size=(6, 4)) for m in names} for _ in range(2))
    l_s, l_t = rng.normal(size=(6, outputs)), {m: rng.normal(size=(6, outputs)) for m in names}
    weights = dict(zip(names, (0.5, 2.0, 3.0), strict=False))
    parameters = {
        "alpha": 0.7,
        "beta": 0.3,
        "temperature": 2.0,
        "feature_loss": distance,
        "reduction": reduction,
    }
    method = build("g2d", parameters | {"modality_weights": weights})

    def tensor(x: Any) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64)

    encoders = {m: Encoder(nn.Identity(), 4) for m in names}
    model = MultimodalModel(encoders, build_fusion("late", dict.fromkeys(names, 4), outputs))
    state = State(model=model, optimizer=None, task=TASKS[task], epochs=1)  # type: ignore[arg-type]
    method.on_fit_start(state)
    views = {m: TeacherView(tensor(f_t[m]), tensor(l_t[m]), torch.ones(6)) for m in names}
    target = (
        torch.tensor([0, 1, 2, 0, 1, 2]) if task == "classification" else torch.linspace(0, 1, 6).double()
    )
    output = Output({m: tensor(f) for m, f in f_s.items()}, tensor(l_s))
    terms = method.loss(output, Batch(torch.arange(6), {}, target, views), state)

    feature = sum(w * reference(distance, reduction, f_s[m], f_t[m]) for m, w in weights.items())
    logit = 0.0
    for m, w in weights.items():
        # Two classes for a Bernoulli: the logits of "yes" and of "no" (0).
        pair = [x if outputs > 1 else np.hstack([x, 0 * x]) for x in (l_t[m] / 2, l_s / 2)]
        log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in pair)
        logit += w * float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()) * 4
    assert float(terms["feature_distillation"]) == pytest.approx(0.7 * feature, rel=1e-12)
    assert float(terms["logit_distillation"]) == pytest.approx(0.3 * logit, rel=1e-10)


def test_the_cosine_distance_forgets_lengths_and_no_distance_reaches_the_teacher() -> None:
    f, g = torch.randn(4, 5), torch.randn(4, 5)
    near = feature_distillation(f, g, distance="cosine")
    torch.testing.assert_close(near, feature_distillation(3 * f, 0.2 * g, distance="cosine"))
    assert float(feature_distillation(f, 2 * f, distance="cosine")) == pytest.approx(0, abs=1e-6)
    for distance in ("mse", "l1", "cosine"):
        s, t = f.clone().requires_grad_(), g.clone().requires_grad_()
        feature_distillation(s, t, distance=distance).backward()  # type: ignore[arg-type]
        assert s.grad is not None
        assert t.grad is None


@pytest.mark.parametrize("task", TASKS)
def test_modality_weights_of_1_change_no_bit_and_of_0_leave_the_teachers_out(
    taught: dict[str, tuple[Data, Teachers]], task: str
) -> None:
    data, teachers = taught[task]
    plain = student(data, teachers)
    assert same(
        plain, student(data, teachers, parameters={"modality_weights": {"a": 1.0}, "projection": True})
    )
    none = student(data, teachers, parameters={"modality_weights": {"a": 0, "b": 0}})
    assert same(none, student(data, {}, method="joint"))
    assert [name for name in none.history if name.startswith("loss/")] == ["loss/task", "loss/total"]
    assert not same(plain, student(data, teachers, parameters={"modality_weights": {"a": 0}}))


def test_umt_is_the_task_loss_and_the_squared_distances_without_smp(
    taught: dict[str, tuple[Data, Teachers]],
) -> None:
    umt = configure(method="umt", alpha=0.7).methods["umt"]
    assert (umt.smp, umt.fusion.name, umt.parameters["beta"]) == (None, "late", 0.0)
    for task in TASKS:
        data, teachers = taught[task]
        own = {"method": umt.algorithm, "parameters": umt.parameters, "fusion": umt.fusion, "smp": umt.smp}
        ours = student(data, teachers, **own)
        other = build("joint")

        def loss(output, batch, state, teachers=teachers):  # type: ignore[no-untyped-def]
            squares = [(output.features[m] - t.feature[batch.index]) ** 2 for m, t in teachers.items()]
            return {
                "task": state.task.loss(output.logits, batch.target),
                "umt": 0.7 * sum(s.mean() for s in squares),
            }

        other.loss = loss  # type: ignore[method-assign]
        with seeded(0, "model"):
            model = build_model(ours.info["architecture"])
        theirs = fit(model, data, other, training=recipe(2), progress=False)
        for name, value in theirs.model.state_dict().items():
            torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_teacher_of_another_width_is_refused_without_a_projection_and_followed_with_one(
    taught: dict[str, tuple[Data, Teachers]],
) -> None:
    data, teachers = taught["wide"]
    with pytest.raises(ConfigError, match=r"teacher of a: width = 7, .* makes 5.* projection=true"):
        student(data, teachers)
    found = student(data, teachers, parameters={"projection": True}, training=recipe(8))
    distances = found.history["loss/feature_distillation"].to_numpy()
    assert distances[-1] < distances[0]
    plain = student(data, {}, method="joint").model.state_dict()  # what is kept is a student like any other
    assert {name: v.shape for name, v in found.model.state_dict().items()} == {
        n: v.shape for n, v in plain.items()
    }


def test_only_what_differs_is_projected_and_the_projection_learns(
    taught: dict[str, tuple[Data, Teachers]],
) -> None:
    data, teachers = taught["wide"]
    start: dict[str, torch.Tensor] = {}
    method = build("g2d", {"projection": True})
    method.on_epoch_start = lambda state: start.update(  # type: ignore[method-assign]
        {n: v.clone() for n, v in method.projections.state_dict().items()}  # type: ignore[attr-defined]
    )
    with seeded(0, "model"):
        model = build_model(student(data, {}, method="joint", training=recipe(1)).info["architecture"])
    fit(model, data, method, training=recipe(1), teachers=teachers, progress=False)
    assert {name: tuple(v.shape) for name, v in start.items()} == {"a.weight": (7, 5), "a.bias": (7,)}
    assert all(not torch.equal(v, start[n]) for n, v in method.projections.state_dict().items())  # type: ignore[attr-defined]


def test_a_modality_may_have_another_encoder_as_its_teacher() -> None:
    wide = {"name": "small_cnn", "widths": [4, 32]}
    c = configure({"datasets.av_digits.modalities.audio.teacher_encoder": wide}, projection=True)
    teacher, student = (
        c.teachers().runs["audio/seed0"].encoder,
        c.distill().runs["g2d/seed0"].encoders["audio"],
    )
    assert teacher.widths == [4, 32]  # type: ignore[union-attr]
    assert teacher != student
    assert c.distill().runs["g2d/seed0"].parameters["projection"] is True
