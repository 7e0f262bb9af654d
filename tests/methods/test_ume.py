"""UME: the mean of the unimodal teachers, nothing trained on top (rivals.md, ume)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import MLP
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.training import Data, teacher_outputs, train_student, train_teacher
from g2d_pipeline.training.teachers import TeacherOutputs
from tests.conftest import TINY, make_data, recipe
from tests.test_resolve import configure


@cache
def given(k: int = 2, task: str = "classification") -> tuple[Data, dict[str, Trained]]:
    """Data and a teacher of each modality."""
    data = make_data(k, task)
    return data, {
        m: train_teacher(data, m, TINY, training=recipe(1), progress=False) for m in data.modalities
    }


def ensemble(data: Data, teachers: Any, **settings: Any) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    settings = {"training": recipe(3), "progress": False, "method": "ume", **settings}
    return train_student(data, encoders, teachers, **settings)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("k", [2, 3])
def test_predictions_are_the_mean_of_the_teachers_remembered_logits(k: int, task: str) -> None:
    data, teachers = given(k, task)
    student = ensemble(data, teachers)
    rows = np.asarray(student.outputs["row"])
    remembered = np.stack([np.asarray(teacher_outputs(t, m).logits)[rows] for m, t in teachers.items()])
    mean = remembered.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(np.asarray(student.outputs["logits/multi"]), mean, rtol=1e-5, atol=1e-6)
    for m, of in zip(teachers, remembered, strict=True):
        np.testing.assert_allclose(np.asarray(student.outputs[f"logits/{m}"]), of, rtol=1e-5, atol=1e-6)
    assert len(student.history) == 1
    assert student.history["learning"][0] == ""  # no encoder learnt
    own = student.model.state_dict()
    for teacher in teachers.values():
        assert all(torch.equal(value, own[name]) for name, value in teacher.model.state_dict().items())


def test_the_mean_of_softmaxes_is_an_option_of_the_fusion() -> None:
    data, teachers = given()
    student = ensemble(data, teachers, fusion={"name": "late", "average": "probabilities"})
    rows = np.asarray(student.outputs["row"])
    of = [torch.as_tensor(teacher_outputs(t, m).logits)[rows].softmax(dim=1) for m, t in teachers.items()]
    found = torch.as_tensor(student.outputs["logits/multi"]).softmax(dim=1)
    torch.testing.assert_close(found, (of[0] + of[1]) / 2)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_in_weighted_fusion_a_teacher_counts_by_its_precision_on_val(task: str) -> None:
    data, teachers = given(3, task)
    student = ensemble(data, teachers, fusion="weighted")
    val, target = data.rows["val"], data.task.encode(torch.as_tensor(data.target))
    logits = {m: torch.as_tensor(np.asarray(teacher_outputs(t, m).logits)) for m, t in teachers.items()}
    inverse = np.array([1 / float(data.task.loss(x[val], target[val])) for x in logits.values()])
    weights = inverse / inverse.sum()
    rows = np.asarray(student.outputs["row"])
    expected = sum(w * x[rows] for w, x in zip(weights, logits.values(), strict=True))
    torch.testing.assert_close(student.outputs["logits/multi"], expected, rtol=1e-4, atol=1e-5)
    assert weights[0] != weights[1]


def test_with_one_modality_it_is_the_teacher() -> None:
    data, teachers = given(1)
    student = ensemble(data, teachers)
    on_val = student.predictions.query("part == 'a'").drop(columns="part").reset_index(drop=True)
    of_teacher = teachers["a"].predictions.drop(columns="part").reset_index(drop=True)
    assert on_val.equals(of_teacher)


def test_another_encoder_is_refused_by_name_with_the_remedy() -> None:
    data, teachers = given()
    narrow = MLP(widths=[9, 5], dropout=[])
    teachers = teachers | {"b": train_teacher(data, "b", narrow, training=recipe(1), progress=False)}
    expected = r"teacher of b has another encoder .*0.weight is \[9, 6\] in .* and \[8, 6\].*teacher_encoder"
    with pytest.raises(ConfigError, match=expected):
        ensemble(data, teachers)


def test_a_copy_that_answers_differently_is_refused() -> None:
    data, teachers = given()
    of = teacher_outputs(teachers["a"], "a")
    other = TeacherOutputs(of.feature, torch.as_tensor(of.logits) + 1, of.confidence, of.model)
    with pytest.raises(ConfigError, match="copy of the teacher of a answers differently on val"):
        ensemble(data, teachers | {"a": other})


def test_what_it_cannot_do_is_told() -> None:
    data, teachers = given()
    of = teacher_outputs(teachers["b"], "b")
    with pytest.raises(ConfigError, match="teacher of b, and only its stored outputs are given: give the tr"):
        ensemble(data, teachers | {"b": TeacherOutputs(of.feature, of.logits, of.confidence)})
    with pytest.raises(ConfigError, match=r"not defined for fusion concat\. It works with: late, weighted"):
        ensemble(data, teachers, fusion="concat")
    with pytest.raises(
        ConfigError, match="ume trains nothing, so SMP has nothing to schedule: say smp=false"
    ):
        ensemble(data, teachers, smp={"tau": [1, 1]})
    with pytest.raises(ValueError, match="need a teacher for each of"):
        ensemble(data, {})


def test_its_yaml_leaves_no_warm_up_where_the_data_set_has_one() -> None:
    plateau = {"name": "plateau", "warmup": 5}
    for schedule in (plateau, {"name": "step", "warmup": 5}):
        c = configure(
            {"datasets.av_digits.training.lr_schedule": schedule}, dataset="av_digits", method="ume"
        )
        assert c.methods["ume"].training.lr_schedule.warmup == 0
        assert c.methods["joint"].training.lr_schedule.warmup == 5
        assert c.methods["ume"].needs_teachers
