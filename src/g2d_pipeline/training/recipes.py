"""Train a teacher, train a student: from data and settings to a `Trained` model with all that is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from g2d_pipeline import __version__
from g2d_pipeline.artefacts import Trained, TrainedFolder
from g2d_pipeline.config import SPLITS, SMPSettings, Strict, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.base import Method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training.data import Data
from g2d_pipeline.training.trainer import TeacherOutputs, fit, forward_split, pick_device, seeded

Progress = Literal["auto"] | bool


def train_teacher(
    data: Data,
    modality: str,
    encoder: Strict | dict[str, Any],
    *,
    training: TrainingSettings | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = "auto",
    description: str = "",
) -> Trained:
    """Train the unimodal teacher of `modality`: encoder + linear head, alone; then remember its answers on every row.

    Raises ValueError where the encoder does not take the modality's shape.
    """
    return _train(
        data.only(modality),
        {modality: encoder},
        "late",
        "unimodal",
        {},
        None,
        {},
        _recipe(training, epochs),
        seed,
        device,
        progress,
        description or f"teacher {modality}, seed {seed}",
    )


def train_student(
    data: Data,
    encoders: Mapping[str, Strict | dict[str, Any]],
    teachers: Mapping[str, TeacherOutputs | Trained | TrainedFolder],
    *,
    method: str = "g2d",
    parameters: dict[str, Any] | None = None,
    smp: SMPSettings | dict[str, Any] | None = None,
    fusion: str = "late",
    training: TrainingSettings | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = "auto",
    description: str = "",
) -> Trained:
    """Train a multimodal student by `method`, with SMP where `smp` is given.

    `teachers`: modality → its trained teacher or remembered outputs (may be empty for methods that need none). Raises
    ValueError where a teacher is missing or answers another question (another width of features or logits).
    """
    if not encoders.keys() == set(data.modalities):
        raise ValueError(f"encoders are given for {sorted(encoders)}, the data have {sorted(data.modalities)}")
    return _train(
        data,
        {m: encoders[m] for m in data.modalities},
        fusion,
        method,
        parameters or {},
        SMPSettings(**smp) if isinstance(smp, dict) else smp,
        {m: teacher_outputs(t, m) for m, t in teachers.items()},
        _recipe(training, epochs),
        seed,
        device,
        progress,
        description or f"{method}, seed {seed}",
    )


def _recipe(training: TrainingSettings | None, epochs: int | None) -> TrainingSettings:
    """The recipe, the published one by default; `epochs` alone is enough to shorten it."""
    recipe = (training or TrainingSettings()).model_dump() | ({} if epochs is None else {"epochs": epochs})
    return TrainingSettings(**recipe)


def teacher_outputs(teacher: TeacherOutputs | Trained | TrainedFolder, modality: str) -> TeacherOutputs:
    """What a teacher remembers of every row of the store."""
    if isinstance(teacher, TeacherOutputs):
        return teacher
    outputs = teacher.outputs() if isinstance(teacher, TrainedFolder) else teacher.outputs
    return TeacherOutputs(*(outputs[f"{what}/{modality}"] for what in ("feature", "logits", "confidence")))


def _train(
    data: Data,
    encoders: dict[str, Strict | dict[str, Any]],
    fusion: str,
    algorithm: str,
    parameters: dict[str, Any],
    smp: SMPSettings | None,
    teachers: dict[str, TeacherOutputs],
    training: TrainingSettings,
    seed: int,
    device: str,
    progress: Progress,
    description: str,
) -> Trained:
    architecture: dict[str, Any] = {
        "modalities": {
            m: {
                "encoder": e.model_dump(mode="json") if isinstance(e, Strict) else e,
                "shape": list(data.shape(m)),
                "normaliser": data.normalisers[m],
            }
            for m, e in encoders.items()
        },
        "fusion": fusion,
        "task": data.task.to_json(),
    }
    method = build_method(algorithm, parameters)
    with seeded(seed, "model"):
        model = build_model(architecture)
    for m, teacher in teachers.items():
        width = int(model.encoders[m].width)  # type: ignore[arg-type]
        if tuple(teacher.feature.shape) != (len(data.target), width):
            raise ValueError(
                f"the teacher of {m} remembers features {list(teacher.feature.shape)}, the student's encoder makes "
                f"[{len(data.target)}, {width}]: train the teacher on the same samples with the same encoder"
            )
        if teacher.logits.shape[1] != data.task.outputs:
            raise ValueError(f"the teacher of {m} has {teacher.logits.shape[1]} logits, the task {data.task.outputs}")
    fitted = fit(
        model,
        data,
        method,
        training=training,
        smp=smp,
        teachers=teachers,
        seed=seed,
        device=device,
        progress=progress,
        description=description,
    )
    splits = SPLITS if algorithm == "unimodal" else ("val", "test")  # a teacher is asked about train, a student never
    outputs, predictions = remember(fitted.model, data, method, pick_device(device), splits)
    fitted.model.cpu()
    info: dict[str, Any] = {
        "architecture": architecture,
        "task": data.task.to_json()["name"],
        "class_names": data.task.to_json().get("class_names", []),
        "metric": data.task.metric,
        "modalities": list(data.modalities),
        "algorithm": algorithm,
        "parameters": method.parameters.model_dump(mode="json"),
        "smp": smp.model_dump(mode="json") | {"phases": smp.phases(len(encoders), training.epochs)} if smp else None,
        "fusion": fusion,
        "seed": seed,
        "training": training.model_dump(mode="json"),
        "selection": training.selection,
        "selected_epoch": fitted.selected_epoch,
        "confidence": _mean_confidence(outputs, data, splits),
        "version": __version__,
    }
    return Trained(fitted.model, info, fitted.history, predictions, outputs)


def remember(
    model: MultimodalModel, data: Data, method: Method, device: torch.device, splits: Sequence[str]
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """One forward over the samples of `splits`: tensors over the rows of the store, NaN in the rows of other splits,
    and the predictions on val and test."""
    model.to(device)
    task, target = data.task, data.task.encode(torch.as_tensor(data.target))
    outputs: dict[str, Tensor] = {}
    frames = []
    for split in splits:
        rows = data.rows[split]
        of = forward_split(model, data, method, target, rows, device)
        logits = dict(of.logits)
        if len(data.modalities) == 1:  # a teacher: its one modality is the whole
            del logits["multi"]
        at = torch.from_numpy(rows)
        confidence = {part: task.confidence(value, of.target) for part, value in logits.items()}
        for name, values in (
            [(f"feature/{m}", v) for m, v in of.features.items()]
            + [(f"logits/{part}", v) for part, v in logits.items()]
            + [(f"confidence/{part}", v) for part, v in confidence.items()]
        ):
            if name not in outputs:
                outputs[name] = torch.full((len(data.target), *values.shape[1:]), float("nan"))
            outputs[name][at] = values.float()
        if split == "train":
            continue
        for part, value in logits.items():
            frames.append(
                pd.DataFrame(
                    {
                        "sample_id": data.sample_ids[rows],
                        "split": split,
                        "part": part,
                        "target": data.target[rows],
                        "prediction": task.predict(value).numpy(),
                        "confidence": confidence[part].double().numpy(),
                    }
                )
            )
    return outputs, pd.concat(frames, ignore_index=True)


def _mean_confidence(outputs: dict[str, Tensor], data: Data, splits: Sequence[str]) -> dict[str, dict[str, float]]:
    """Split → part → mean confidence in the true target."""
    parts = [name.removeprefix("confidence/") for name in outputs if name.startswith("confidence/")]
    at = {split: torch.from_numpy(data.rows[split]) for split in splits}
    return {s: {p: float(outputs[f"confidence/{p}"][at[s]].double().mean()) for p in parts} for s in splits}
