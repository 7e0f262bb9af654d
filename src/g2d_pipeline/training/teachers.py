"""Frozen teachers: outputs are stored by row and looked up, or computed where the input is augmented."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from g2d_pipeline.artefacts import Trained, TrainedFolder
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import Method, TeacherView
from g2d_pipeline.models import MultimodalModel, Task
from g2d_pipeline.training.data import Array, Data, Rows, take


@dataclass(frozen=True)
class TeacherOutputs:
    """A frozen teacher's outputs by row of the store: feature `[N, D]`, logits `[N, C]`, confidence ρ `[N]`.

    Tensors or (memory-mapped) arrays. `model`: the teacher itself, needed where its modality is augmented."""

    feature: Tensor | Array
    logits: Tensor | Array
    confidence: Tensor | Array
    model: MultimodalModel | None = None

    def view(self, rows: Rows, device: torch.device) -> TeacherView:
        """The stored outputs on `rows` `[B]`."""
        return TeacherView(*(take(a, rows).to(device) for a in (self.feature, self.logits, self.confidence)))


def teacher_outputs(teacher: TeacherOutputs | Trained | TrainedFolder, modality: str) -> TeacherOutputs:
    """A teacher's stored outputs on every row of the store, and its model."""
    if isinstance(teacher, TeacherOutputs):
        return teacher
    outputs: Mapping[str, Tensor | Array]
    if isinstance(teacher, TrainedFolder):
        outputs, model = teacher.outputs(), teacher.model()
    else:
        outputs, model = teacher.outputs, teacher.model
    feature, logits, confidence = (outputs[f"{n}/{modality}"] for n in ("feature", "logits", "confidence"))
    return TeacherOutputs(feature, logits, confidence, model)


def check_teacher(teacher: TeacherOutputs | Trained | TrainedFolder, modality: str, data: Data) -> None:
    """Raise ConfigError where a teacher is of another modality, task, class list or normaliser than the
    student's; stored outputs alone do not say."""
    if isinstance(teacher, TeacherOutputs):
        return
    architecture, modalities = teacher.info["architecture"], list(teacher.info["modalities"])
    teacher_task, task = architecture["task"], data.task.to_json()
    faults = []
    if modalities != [modality]:
        faults.append(f"modalities = {modalities}, allowed is {[modality]}")
    for key in dict.fromkeys(["name", "class_names", *teacher_task]):
        if teacher_task.get(key) != task.get(key):
            faults.append(f"task.{key} = {teacher_task.get(key)!r}, the student's is {task.get(key)!r}")
    described, expected = architecture["modalities"].get(modality, {}), data.normalisers.get(modality)
    if (stored := described.get("normaliser")) != expected:
        faults.append(f"normaliser = {stored}, the student's is {expected}: it was trained on other features")
    if faults:
        remedy = "Train it on the student's data: kedro run --pipeline teachers."
        raise ConfigError(f"teacher of {modality}: {faults[0]}. {remedy}")


def check_outputs(
    teachers: Mapping[str, TeacherOutputs], widths: Mapping[str, int], data: Data, method: Method
) -> None:
    """Raise ConfigError where stored outputs do not fit the samples, the task, or the encoders' `widths`; of
    another width is no mistake where the method projects it or does not read the features."""
    projects = not method.needs_teachers or bool(getattr(method.parameters, "projection", False))
    for m, teacher in teachers.items():
        rows, width = (int(n) for n in teacher.feature.shape)
        outputs, fault = teacher.logits.shape[1], ""
        if rows != (samples := len(data.target)):
            fault = f"has outputs of {rows} samples, the data have {samples}: train it on the same"
        elif width != widths[m] and not projects:
            same = "Give both the same encoder, or say projection=true."
            fault = f"width = {width}, the student's encoder makes {widths[m]}. {same}"
        elif outputs != data.task.outputs:
            fault = f"outputs = {outputs}, the task has {data.task.outputs}"
        if fault:
            raise ConfigError(f"teacher of {m}: {fault}")


def online_teachers(data: Data, teachers: Mapping[str, TeacherOutputs], teacher_view: str) -> tuple[str, ...]:
    """The modalities whose teachers see the augmented batch: everywhere else a look-up equals the forward.

    Raises ValueError where such a teacher comes without its model."""
    online = tuple(m for m in teachers if teacher_view == "augmented" and data.augmented(m))
    if bare := [m for m in online if teachers[m].model is None]:
        raise ValueError(
            f"{bare[0]} is augmented and its teacher should see the augmented batch, but only its outputs "
            "are given: give the trained teacher itself, or say teacher_view=clean"
        )
    return online


def run_teacher(model: MultimodalModel, modality: str, x: Tensor, target: Tensor, task: Task) -> TeacherView:
    """A teacher's outputs on the batch `x` `[B, …]` itself, in evaluation mode and without gradient."""
    with torch.inference_mode():
        output = model({modality: x})
        confidence = task.confidence(output.logits, target)
    # Tensors made in inference mode cannot take part in a loss: copies can.
    return TeacherView(output.features[modality].clone(), output.logits.clone(), confidence.clone())
