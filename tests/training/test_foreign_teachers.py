"""A teacher of another modality, class list, normaliser or width is told before anything is read or
trained."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.config import MLP
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.training import Data, train_student, train_teacher
from tests.conftest import TINY, make_data, recipe


def teacher(data: Data, modality: str, encoder: MLP = TINY) -> Any:
    return train_teacher(data, modality, encoder, training=recipe(1), progress=False)


def student(data: Data, teachers: dict[str, Any], **more: Any) -> Any:
    return train_student(
        data, dict.fromkeys(data.modalities, TINY), teachers, training=recipe(1), progress=False, **more
    )


def other_classes(data: Data) -> Data:
    return dataclasses.replace(data, task=dataclasses.replace(data.task, class_names=("x", "y", "z")))  # type: ignore[type-var]


def other_normaliser(data: Data) -> Data:
    mean: dict[str, Any] = {"scale": 1.0, "mean": [0.5] * 6, "std": [2.0] * 6}
    return dataclasses.replace(data, normalisers=dict.fromkeys(data.modalities, mean))


def test_a_teacher_of_another_modality_is_named() -> None:
    data = make_data()
    teachers = {"a": teacher(data, "b"), "b": teacher(data, "b")}
    with pytest.raises(
        ConfigError, match=r"teacher of a: modalities = \['b'\], allowed is \['a'\]\. Train it on"
    ):
        student(data, teachers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_classes,
            r"teacher of a: task\.class_names = \['x', 'y', 'z'\], the student's is \['0', '1', '2'\]",
        ),
        (
            other_normaliser,
            r"teacher of a: normaliser = .*'std': \[2\.0.*, the student's is None.*Train it on",
        ),
    ],
)
def test_a_teacher_of_another_question_is_named(change: Any, message: str) -> None:
    data = make_data()
    teachers = {"a": teacher(change(data), "a"), "b": teacher(data, "b")}
    with pytest.raises(ConfigError, match=message):
        student(data, teachers)


def test_a_teacher_of_another_task_is_named() -> None:
    data = make_data()
    teachers = {m: teacher(make_data(task="regression"), m) for m in data.modalities}
    with pytest.raises(ConfigError, match=r"task\.name = 'regression', the student's is 'classification'"):
        student(data, teachers)


def test_another_width_is_a_mistake_for_distillation_and_none_for_ranking() -> None:
    data = make_data()
    wide = MLP(widths=[8, 7], dropout=[])
    teachers = {"a": teacher(data, "a", wide), "b": teacher(data, "b")}
    with pytest.raises(
        ConfigError, match=r"teacher of a: width = 7, the student's encoder makes 5\. .*projection=true"
    ):
        student(data, teachers)
    ranked = student(data, teachers, method="joint", smp={"tau": [1, 0]})  # features are not compared
    assert np.isfinite(ranked.history["loss/total"]).all()
