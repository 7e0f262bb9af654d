"""Frozen teachers: their answers are remembered by row and looked up, or asked for where the input is
augmented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from g2d_pipeline.artefacts import Trained, TrainedFolder
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import TeacherView
from g2d_pipeline.models import MultimodalModel, Task
from g2d_pipeline.training.data import Array, Data, take


@dataclass(frozen=True)
class TeacherOutputs:
    """A frozen teacher's answers on every row of the store: feature `[N, D]`, logits `[N, C]`, confidence ρ
    `[N]`.

    Tensors, or arrays that may be memory-mapped. `model`: the teacher itself, needed where its modality is
    augmented."""

    feature: Tensor | Array
    logits: Tensor | Array
    confidence: Tensor | Array
    model: MultimodalModel | None = None

    def view(self, rows: npt.NDArray[np.int64], device: torch.device) -> TeacherView:
        """The remembered answers on `rows` `[B]`."""
        return TeacherView(*(take(a, rows).to(device) for a in (self.feature, self.logits, self.confidence)))


def teacher_outputs(teacher: TeacherOutputs | Trained | TrainedFolder, modality: str) -> TeacherOutputs:
    """What a teacher remembers of every row of the store, and its model."""
    if isinstance(teacher, TeacherOutputs):
        return teacher
    outputs: Mapping[str, Tensor | Array]
    if isinstance(teacher, TrainedFolder):
        outputs, model = teacher.outputs(), teacher.model()
    else:
        outputs, model = teacher.outputs, teacher.model
    feature, logits, confidence = (
        outputs[f"{what}/{modality}"] for what in ("feature", "logits", "confidence")
    )
    return TeacherOutputs(feature, logits, confidence, model)


def check_teacher(
    teacher: TeacherOutputs | Trained | TrainedFolder, modality: str, data: Data
) -> TeacherOutputs | Trained | TrainedFolder:
    """The teacher, if it was trained for the student's question; remembered outputs alone can not be asked.

    Raises ConfigError where it is of another modality, task, class list or normaliser.
    """
    if isinstance(teacher, TeacherOutputs):
        return teacher
    of = teacher.info
    remedy = "Train it on the student's data: kedro run --pipeline teachers."
    if list(of["modalities"]) != [modality]:
        raise ConfigError(
            f"teacher of {modality}: modalities = {of['modalities']}, allowed is {[modality]}. {remedy}"
        )
    theirs, ours = of["architecture"]["task"], data.task.to_json()
    for key in dict.fromkeys(["name", "class_names", *theirs]):
        if theirs.get(key) != ours.get(key):
            raise ConfigError(
                f"teacher of {modality}: task.{key} = {theirs.get(key)!r}, the student's is "
                f"{ours.get(key)!r}. {remedy}"
            )
    normaliser = of["architecture"]["modalities"][modality]["normaliser"]
    if normaliser != data.normalisers[modality]:
        raise ConfigError(
            f"teacher of {modality}: normaliser = {normaliser}, the student's is "
            f"{data.normalisers[modality]}: "
            f"it was trained on other features. {remedy}"
        )
    return teacher


def check_outputs(modality: str, teacher: TeacherOutputs, width: int, data: Data, projecting: bool) -> None:
    """Raise ConfigError where remembered answers fit neither the samples, nor the task, nor the encoder's
    `width`.

    `projecting`: another width is no mistake, the method projects it or does not look.
    """
    rows, found = (int(n) for n in teacher.feature.shape)
    if rows != len(data.target):
        raise ConfigError(
            f"teacher of {modality}: has outputs of {rows} samples, the data have {len(data.target)}: train "
            "it on "
            "the same"
        )
    if found != width and not projecting:
        raise ConfigError(
            f"teacher of {modality}: width = {found}, the student's encoder makes {width}. Give both the "
            "same "
            "encoder, or say projection=true."
        )
    if teacher.logits.shape[1] != data.task.outputs:
        raise ConfigError(
            f"teacher of {modality}: outputs = {teacher.logits.shape[1]}, the task has {data.task.outputs}"
        )


def online_teachers(data: Data, teachers: Mapping[str, TeacherOutputs], teacher_view: str) -> tuple[str, ...]:
    """The modalities whose teachers see the augmented batch: everywhere else a look-up equals the forward.

    Raises ValueError where such a teacher comes without its model.
    """
    live = tuple(m for m in teachers if teacher_view == "augmented" and data.augmented(m))
    for m in live:
        if teachers[m].model is None:
            raise ValueError(
                f"{m} is augmented and its teacher should see the augmented batch, but only its outputs are "
                "given: give the trained teacher itself, or say teacher_view=clean"
            )
    return live


def run_teacher(model: MultimodalModel, modality: str, x: Tensor, target: Tensor, task: Task) -> TeacherView:
    """A teacher's outputs on the batch `x` `[B, …]` itself, in evaluation mode and without gradient."""
    with torch.inference_mode():
        output = model({modality: x})
        confidence = task.confidence(output.logits, target)
    # Tensors made in inference mode cannot take part in a loss: copies can.
    return TeacherView(output.features[modality].clone(), output.logits.clone(), confidence.clone())
