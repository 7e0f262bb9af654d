"""Which of the student's logits are drawn to a teacher's: fused, each modality's own, or to the ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP, SmallCNN, SMPSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Batch, State, TeacherView
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, TeacherOutputs, fit, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.data import batches_of, epoch_rows
from g2d_pipeline.training.streams import seeded
from tests.conftest import REPOSITORY, TINY, make_data, recipe
from tests.methods.tiny import same

LOGITS = ("multimodal", "modality", "ensemble")


def teachers_of(data: Data, width: int = 5, equal: bool = False) -> dict[str, TeacherOutputs]:
    """Stored outputs of teachers that nobody trained."""
    rng, n, outputs = np.random.default_rng(1), len(data.target), data.task.outputs
    made = {}
    for m in data.modalities:
        logits = torch.from_numpy(rng.normal(size=(n, outputs)).astype(np.float32))
        feature = torch.from_numpy(rng.normal(size=(n, width)).astype(np.float32))
        made[m] = TeacherOutputs(feature, logits, torch.from_numpy(rng.random(n).astype(np.float32)))
    first = made[data.modalities[0]]
    return dict.fromkeys(made, first) if equal else made


def student(data: Data, teachers: dict[str, Any], parameters: dict[str, Any], **more: Any) -> Trained:
    settings = {"training": recipe(2), "progress": False, "parameters": parameters, **more}
    return train_student(data, dict.fromkeys(data.modalities, TINY), teachers, **settings)


@pytest.mark.parametrize("fusion", ["late", "concat"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("logits", LOGITS)
def test_the_loss_is_the_equation(logits: str, task: str, fusion: str) -> None:
    data, weights = make_data(3, task), {"a": 0.5, "b": 2.0, "c": 3.0}
    method = build("g2d", {"logits": logits, "modality_weights": weights, "beta": 0.3, "alpha": 0})
    trained = student(data, {}, {}, method="joint", fusion=fusion, training=recipe(1))
    model, t = trained.model, data.task
    state = State(model=model, optimizer=None, task=t, epochs=1)  # type: ignore[arg-type]
    with seeded(0, "method"):
        method.on_fit_start(state)
    rows = torch.arange(6)
    output = model({m: torch.from_numpy(np.asarray(data.arrays[m][:6])) for m in data.modalities})
    stored = teachers_of(data)
    views = {m: TeacherView(o.feature[rows], o.logits[rows], o.confidence[rows]) for m, o in stored.items()}  # type: ignore[index]
    target = t.encode(torch.as_tensor(data.target[:6]))
    term = method.loss(output, Batch(rows, {}, target, views), state)["logit_distillation"].item()

    def distance(student: torch.Tensor, teacher: torch.Tensor) -> float:
        if task == "regression":
            return t.distill(student, teacher, 1.0).item()
        p, q = (np.exp(x.detach().numpy().astype(float)) for x in (teacher, student))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        return float((p * np.log(p / q)).sum(1).mean())

    if logits == "ensemble":
        mean = sum(w / 5.5 * views[m].logits for m, w in weights.items())
        expected = distance(output.logits, mean)  # type: ignore[arg-type]
    elif logits == "multimodal":
        expected = sum(w * distance(output.logits, views[m].logits) for m, w in weights.items())
    else:
        own = task == "classification" and fusion == "late"
        heads = model.fusion.heads if own else method.heads.heads  # type: ignore[attr-defined]
        unimodal = {m: heads[m](output.features[m]) for m in weights}  # type: ignore[index, operator]
        expected = sum(w * distance(unimodal[m], views[m].logits) for m, w in weights.items())
        assert len(method.heads.heads) == (0 if own else 3)  # type: ignore[attr-defined]
    assert term == pytest.approx(0.3 * expected, rel=1e-4)


def test_with_one_modality_of_a_classification_the_three_are_one() -> None:
    data = make_data(1)
    teachers = teachers_of(data)
    multimodal, modality, ensemble = (student(data, teachers, {"logits": logits}) for logits in LOGITS)
    assert same(multimodal, ensemble)
    for name, value in multimodal.model.state_dict().items():  # the head's gradient is added up in two parts
        torch.testing.assert_close(modality.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_without_logit_distillation_the_three_are_one(task: str) -> None:
    data = make_data(2, task)
    teachers = teachers_of(data)
    first, *others = (student(data, teachers, {"logits": logits, "beta": 0}) for logits in LOGITS)
    assert all(same(first, other) for other in others)


def test_equal_teachers_are_their_own_ensemble() -> None:
    data = make_data(2)
    teachers = teachers_of(data, equal=True)
    halves = {"modality_weights": {"a": 0.5, "b": 0.5}, "alpha": 0}
    apart = student(data, teachers, halves | {"logits": "multimodal"}).model.state_dict()
    mean = student(data, teachers, halves | {"logits": "ensemble"}).model.state_dict()
    for name, value in apart.items():
        torch.testing.assert_close(mean[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("task", "fusion"), [("regression", "late"), ("classification", "film")])
def test_auxiliary_heads_learn_and_are_left_behind(task: str, fusion: str) -> None:
    data = make_data(2, task)
    method = build("g2d", {"logits": "modality"})
    with seeded(0, "model"):
        plain = student(data, {}, {}, method="joint", fusion=fusion, training=recipe(1))
        model = build_model(plain.info["architecture"])
    start: dict[str, torch.Tensor] = {}
    method.on_epoch_start = lambda state: (
        start
        or start.update(  # type: ignore[method-assign]
            {n: v.clone() for n, v in method.heads.state_dict().items()}  # type: ignore[attr-defined]
        )
    )
    fit(model, data, method, training=recipe(2), teachers=teachers_of(data), progress=False)
    after = method.heads.state_dict()  # type: ignore[attr-defined]
    assert {n.split(".")[1] for n in after} == {"a", "b"}
    assert all(not torch.equal(value, start[name]) for name, value in after.items())
    saved = student(data, teachers_of(data), {"logits": "modality"}, fusion=fusion)
    assert saved.model.state_dict().keys() == plain.model.state_dict().keys()


def test_a_weight_of_0_makes_no_head() -> None:
    data = make_data(2, "regression")
    method = build("g2d", {"logits": "modality", "modality_weights": {"a": 0}})
    model = student(data, {}, {}, method="joint", training=recipe(1)).model
    method.on_fit_start(State(model=model, optimizer=None, task=data.task, epochs=1))  # type: ignore[arg-type]
    assert list(method.heads.heads) == ["b"]  # type: ignore[attr-defined]


def test_a_suppressed_encoder_rests_while_its_head_learns() -> None:
    data = make_data(2, "regression")
    smp = SMPSettings(tau=[2, 0], ranking="dataset")
    with seeded(0, "model"):
        model = build_model(student(data, {}, {}, method="joint", training=recipe(1)).info["architecture"])
    start = {n: v.clone() for n, v in model.state_dict().items()}
    method = build("g2d", {"logits": "modality"})
    heads: dict[str, torch.Tensor] = {}
    method.on_epoch_start = lambda state: (
        heads
        or heads.update(  # type: ignore[method-assign]
            {n: v.clone() for n, v in method.heads.state_dict().items()}  # type: ignore[attr-defined]
        )
    )
    done = fit(model, data, method, training=recipe(2), smp=smp, teachers=teachers_of(data), progress=False)
    (rests,) = [m for m in data.modalities if done.history[f"kappa/{m}"].iloc[0] == 0]
    for name, value in done.model.named_parameters():
        if name.startswith(f"encoders.{rests}."):
            assert torch.equal(value, start[name]), name
    after = method.heads.state_dict()  # type: ignore[attr-defined]
    assert all(not torch.equal(value, heads[name]) for name, value in after.items())


@pytest.mark.parametrize(("task", "fusion"), [("classification", "late"), ("regression", "concat")])
def test_encoders_and_heads_start_as_the_teachers(task: str, fusion: str) -> None:
    data = make_data(3, task)
    trained = {
        m: train_teacher(data, m, TINY, training=recipe(n), progress=False) for n, m in enumerate("abc", 1)
    }
    teachers = {m: teacher_outputs(t, m) for m, t in trained.items()}
    plain = student(data, {}, {}, method="joint", fusion=fusion, training=recipe(1))
    with seeded(0, "model"):
        model = build_model(plain.info["architecture"])
    method = build("g2d", {"logits": "modality", "start": "teachers"})
    state = State(model, None, data.task, 1, teachers=teachers)  # type: ignore[arg-type]
    method.on_fit_start(state)
    heads = model.fusion if fusion == "late" else method.heads  # type: ignore[attr-defined]
    for m, teacher in trained.items():
        theirs = teacher.model.state_dict()
        for name, value in model.encoders[m].state_dict().items():
            assert torch.equal(value, theirs[f"encoders.{m}.{name}"]), (m, name)
        for name, value in heads.heads[m].state_dict().items():  # type: ignore[index, union-attr]
            assert torch.equal(value, theirs[f"fusion.heads.{m}.{name}"]), (m, name)


def test_starting_as_the_teachers_without_a_step_is_their_ensemble() -> None:
    data = make_data(2)
    teachers = {m: train_teacher(data, m, TINY, training=recipe(2), progress=False) for m in "ab"}
    ours = student(data, teachers, {"start": "teachers"}, training=recipe(1, lr=1e-30))
    ensemble = dict(student(data, teachers, {}, method="ume", training=recipe(1)).model.named_parameters())
    for (
        name,
        value,
    ) in ours.model.named_parameters():  # what is no parameter, a batch norm's statistics, moves
        assert torch.equal(value, ensemble[name]), name


def test_a_teacher_of_another_shape_is_no_start() -> None:
    data = make_data(2)
    teachers = {m: train_teacher(data, m, TINY, training=recipe(1), progress=False) for m in "a"}
    teachers["b"] = train_teacher(
        data, "b", MLP(widths=[9, 5], dropout=[]), training=recipe(1), progress=False
    )
    with pytest.raises(
        ConfigError, match=r"start = teachers: the teacher of b has another encoder .*teacher_enc"
    ):
        student(data, teachers, {"start": "teachers"})


def test_g2d_code_equals_a_loop_written_by_hand() -> None:
    """The authors' loop: all gradients, those of a suppressed encoder's convolutions times 0, then a step."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 48)
    inputs = {m: rng.normal(size=(48, 1, 8, 8)).astype(np.float32) + label[:, None, None, None] for m in "ab"}
    data = Data.from_arrays(inputs, label, ["train"] * 32 + ["val"] * 8 + ["test"] * 8)
    encoders = dict.fromkeys("ab", SmallCNN(widths=[4, 6]))
    training, epochs, single = recipe(4), 4, 2
    plain = train_student(data, encoders, {}, method="joint", training=recipe(1), progress=False)
    teachers = teachers_of(data, plain.model.encoders["a"].width)  # type: ignore[arg-type]
    settings = _variant("g2d_code")
    smp = SMPSettings(**(settings.pop("smp") | {"tau": [single, epochs - single]}))
    settings.pop("algorithm")
    ours = train_student(
        data,
        encoders,
        teachers,
        method="g2d",
        parameters=settings,
        smp=smp,
        training=training,
        progress=False,
    )

    with seeded(0, "model"):
        model = build_model(plain.info["architecture"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    x = {m: torch.from_numpy(a) for m, a in inputs.items()}
    y = torch.from_numpy(label)
    for epoch in range(1, epochs + 1):
        model.train()
        for rows in batches_of(epoch_rows(data.rows["train"], 0, epoch), 16):
            b = torch.from_numpy(np.asarray(rows))
            output = model({m: x[m][b] for m in "ab"})
            loss = F.cross_entropy(output.logits, y[b])
            for m, t in teachers.items():
                loss = loss + F.mse_loss(output.features[m], t.feature[b])  # type: ignore[index]
                kl = F.kl_div(output.logits.log_softmax(1), t.logits[b].softmax(1), reduction="batchmean")  # type: ignore[index]
                loss = loss + kl
            optimizer.zero_grad()
            loss.backward()
            if epoch <= single:
                confidence = {m: float(t.confidence[b].mean()) for m, t in teachers.items()}  # type: ignore[index]
                stronger = max("ab", key=confidence.__getitem__)
                for weight in model.encoders[stronger].parameters():
                    if weight.dim() == 4 and weight.grad is not None:
                        weight.grad *= 0
            optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-4, atol=2e-6)


def _variant(name: str) -> dict[str, Any]:
    text = (REPOSITORY / f"conf/base/methods/{name}.yml").read_text(encoding="utf-8")
    variant: dict[str, Any] = yaml.safe_load(text)["methods"][name]
    return variant
