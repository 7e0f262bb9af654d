"""Train a teacher, train a student: from data and settings to a `Trained` model with all that is remembered
of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from g2d_pipeline import __version__
from g2d_pipeline.artefacts import Trained, TrainedFolder, new_output
from g2d_pipeline.config import SPLITS, SMPSettings, Strict, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.base import Method, MethodContext
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.weights import load_pretrained
from g2d_pipeline.training.data import Array, Data, release
from g2d_pipeline.training.scoring import forward_split
from g2d_pipeline.training.streams import seeded
from g2d_pipeline.training.teachers import TeacherOutputs, check_outputs, check_teacher, teacher_outputs
from g2d_pipeline.training.trainer import fit, pick_device


def train_teacher(
    data: Data,
    modality: str,
    encoder: Strict | dict[str, Any],
    *,
    training: TrainingSettings | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    description: str = "",
    project: Path | str = ".",
    **run: Any,
) -> Trained:
    """Train the unimodal teacher of `modality`: encoder + linear head, alone; then remember its answers on
    every row.

    `project`: the folder where a relative path of an encoder's `weights` starts. `run`: workers, folder,
    checkpoint_minutes, log, progress (see `fit`). With a `folder`, checkpoints and the remembered answers are
    kept there, the latter memory-mapped.

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
        description or f"teacher {modality}, seed {seed}",
        project,
        run,
    )


def train_student(
    data: Data,
    encoders: Mapping[str, Strict | dict[str, Any]],
    teachers: Mapping[str, TeacherOutputs | Trained | TrainedFolder],
    *,
    method: str = "g2d",
    parameters: dict[str, Any] | None = None,
    smp: SMPSettings | dict[str, Any] | None = None,
    fusion: str | dict[str, Any] | Strict = "late",
    training: TrainingSettings | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    description: str = "",
    project: Path | str = ".",
    **run: Any,
) -> Trained:
    """Train a multimodal student by `method`, with SMP where `smp` is given.

    `teachers`: modality → its trained teacher or remembered outputs (may be empty for methods that need
    none). `project` and `run`: as of `train_teacher`. Raises ValueError where a teacher is missing or answers
    another question (another width of features or logits)."""
    if not encoders.keys() == set(data.modalities):
        raise ValueError(
            f"encoders are given for {sorted(encoders)}, the data have {sorted(data.modalities)}"
        )
    return _train(
        data,
        {m: encoders[m] for m in data.modalities},
        fusion,
        method,
        parameters or {},
        SMPSettings(**smp) if isinstance(smp, dict) else smp,
        {m: teacher_outputs(check_teacher(t, m, data), m) for m, t in teachers.items()},
        _recipe(training, epochs),
        seed,
        device,
        description or f"{method}, seed {seed}",
        project,
        run,
    )


def _recipe(training: TrainingSettings | None, epochs: int | None) -> TrainingSettings:
    """The recipe, the published one by default; `epochs` alone is enough to shorten it."""
    recipe = (training or TrainingSettings()).model_dump() | ({} if epochs is None else {"epochs": epochs})
    return TrainingSettings(**recipe)


def _train(
    data: Data,
    encoders: dict[str, Strict | dict[str, Any]],
    fusion: str | dict[str, Any] | Strict,
    algorithm: str,
    parameters: dict[str, Any],
    smp: SMPSettings | None,
    teachers: dict[str, TeacherOutputs],
    training: TrainingSettings,
    seed: int,
    device: str,
    description: str,
    project: Path | str,
    run: dict[str, Any],
) -> Trained:
    architecture: dict[str, Any] = {
        "modalities": {
            m: {
                "encoder": e.model_dump(mode="json") if isinstance(e, Strict) else e,
                "shape": list(data.shape(m)),
                "normaliser": data.normalisers[m],
                **({"vocabulary": data.vocabulary[m]} if m in data.vocabulary else {}),
            }
            for m, e in encoders.items()
        },
        "fusion": fusion.model_dump(mode="json") if isinstance(fusion, Strict) else fusion,
        "task": data.task.to_json(),
    }
    method = build_method(algorithm, parameters)
    if method.exchange is not None:
        architecture["exchange"] = method.exchange
    named = (
        architecture["fusion"] if isinstance(architecture["fusion"], str) else architecture["fusion"]["name"]
    )
    kinds = {m: str(of["encoder"]["name"]) for m, of in architecture["modalities"].items()}
    try:
        of_fusion = {} if isinstance(architecture["fusion"], str) else architecture["fusion"]
        method.check(
            MethodContext(
                architecture["task"]["name"], named, kinds, smp is not None, training.accumulation, of_fusion
            )
        )
    except ValueError as error:
        raise ConfigError(f"method {algorithm}: {error}") from error
    with seeded(seed, "model"):
        model = build_model(architecture)
    load_pretrained(model, architecture, project)
    projecting = not method.needs_teachers or bool(getattr(method.parameters, "projection", False))
    for m, teacher in teachers.items():
        check_outputs(m, teacher, int(model.encoders[m].width), data, projecting)  # type: ignore[arg-type]
    fitted = fit(
        model,
        data,
        method,
        training=training,
        smp=smp,
        teachers=teachers,
        seed=seed,
        device=device,
        description=description,
        **run,
    )
    splits = (
        SPLITS if algorithm == "unimodal" else ("val", "test")
    )  # a teacher is asked about train, a student never
    outputs, predictions = remember(
        fitted.model, data, method, pick_device(device), splits, run.get("folder")
    )
    fitted.model.cpu()
    phases = _phases(smp, fitted.history, len(encoders), training.epochs) if smp else None
    info: dict[str, Any] = {
        "architecture": architecture,
        "task": data.task.to_json()["name"],
        "class_names": data.task.to_json().get("class_names", []),
        "metric": data.task.metric,
        "modalities": list(data.modalities),
        "algorithm": algorithm,
        "parameters": method.parameters.model_dump(mode="json"),
        "smp": smp.model_dump(mode="json") | {"phases": phases} if smp else None,
        "fusion": named,
        "seed": seed,
        "training": training.model_dump(mode="json"),
        "selection": training.selection,
        "selected_epoch": fitted.selected_epoch,
        "confidence": _mean_confidence(outputs, data, splits),
        "version": __version__,
    }
    return Trained(fitted.model, info, fitted.history, predictions, outputs)


def remember(
    model: MultimodalModel,
    data: Data,
    method: Method,
    device: torch.device,
    splits: Sequence[str],
    folder: Path | None = None,
) -> tuple[dict[str, Tensor | Array], pd.DataFrame]:
    """One forward over the samples of `splits`: arrays over their rows (`row` `[n]` says which), and the
    predictions on val and test. With a `folder` the arrays are memory-mapped files in it (see
    `artefacts`)."""
    model.to(device)
    task, target = data.task, data.task.encode(torch.as_tensor(data.target))
    row = np.sort(np.concatenate([data.rows[split] for split in splits]))
    outputs: dict[str, Array] = {}
    frames = []

    def room(name: str, like: Tensor) -> Array:
        shape = (len(row), *like.shape[1:])
        return new_output(folder, name, shape) if folder is not None else np.empty(shape, np.float32)

    for split in splits:
        of: dict[str, list[Tensor]] = {part: [] for part in ("multi", *data.modalities)}
        for rows, features, logits in forward_split(model, data, method, split, device):
            at, y = np.searchsorted(row, rows), target[torch.from_numpy(rows)]
            found = {f"feature/{m}": values for m, values in features.items()}
            found |= {f"logits/{part}": values for part, values in logits.items()}
            found |= {f"confidence/{part}": task.confidence(values, y) for part, values in logits.items()}
            for name, values in found.items():
                if name.endswith("/multi") and len(data.modalities) == 1:
                    continue  # a teacher: its one modality is the whole
                if name not in outputs:
                    outputs[name] = room(name, values)
                outputs[name][at] = values.float().numpy()
                release(outputs[name])
            for part, values in logits.items():
                of[part].append(values)
        if split == "train":
            continue
        rows = data.rows[split]
        for part, parts in of.items():
            if part == "multi" and len(data.modalities) == 1:
                continue
            values = torch.cat(parts)
            frames.append(
                pd.DataFrame(
                    {
                        "sample_id": data.sample_ids[rows],
                        "split": split,
                        "part": part,
                        "target": data.target[rows],
                        "prediction": task.predict(values).numpy(),
                        "confidence": task.confidence(values, target[torch.from_numpy(rows)])
                        .double()
                        .numpy(),
                    }
                )
            )
    found_outputs: dict[str, Tensor | Array] = {
        name: values if folder is not None else torch.from_numpy(values) for name, values in outputs.items()
    }
    found_outputs["row"] = torch.from_numpy(row)
    return found_outputs, pd.concat(frames, ignore_index=True)


def _phases(smp: SMPSettings, history: pd.DataFrame, modalities: int, epochs: int) -> list[int]:
    """Epochs of each phase: as planned, or with `tau: auto` as they came."""
    if smp.tau != "auto":
        return smp.phases(modalities, epochs)
    return [int((history["phase"] == phase).sum()) for phase in range(1, modalities + 1)]


def _mean_confidence(
    outputs: dict[str, Tensor | Array], data: Data, splits: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Split → part → mean confidence in the true target."""
    parts = [name.removeprefix("confidence/") for name in outputs if name.startswith("confidence/")]
    at = {split: np.searchsorted(np.asarray(outputs["row"]), data.rows[split]) for split in splits}
    return {
        s: {p: float(np.asarray(outputs[f"confidence/{p}"])[at[s]].astype(np.float64).mean()) for p in parts}
        for s in splits
    }
