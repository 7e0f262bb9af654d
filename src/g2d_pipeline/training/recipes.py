"""Train a teacher, train a student: from data and settings to a `Trained` model with its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline import __version__
from g2d_pipeline.artefacts import Trained, TrainedFolder, new_output
from g2d_pipeline.config import SPLITS, RunOptions, SMPSettings, Strict, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.windows import windows_of
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.methods.base import Method, MethodContext
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.multimodal import pick_device
from g2d_pipeline.models.weights import load_pretrained
from g2d_pipeline.training.data import Array, Data, release, take
from g2d_pipeline.training.fitting import LIBRARY, fit
from g2d_pipeline.training.launch import world_of
from g2d_pipeline.training.scoring import Evaluator
from g2d_pipeline.training.streams import seeded
from g2d_pipeline.training.teachers import TeacherOutputs, check_outputs, check_teacher, teacher_outputs
from g2d_pipeline.training.trainer import FitResult

if TYPE_CHECKING:
    import pandas as pd


def train_teacher(
    data: Data,
    modality: str,
    encoder: Strict | dict[str, Any],
    *,
    seed: int = 0,
    description: str = "",
    **settings: Any,
) -> Trained:
    """Train the unimodal teacher of `modality`: encoder + linear head; then store its outputs on every row.

    `settings`: training, epochs, weights, options and its fields, as of `train_student`. Raises ValueError
    where the encoder does not take the modality's shape."""
    settings |= {"seed": seed, "description": description or f"teacher {modality}, seed {seed}"}
    return train_student(data.only(modality), {modality: encoder}, {}, method="unimodal", **settings)


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
    description: str = "",
    weights: Mapping[str, Path] | None = None,
    start: Path | None = None,
    options: RunOptions = LIBRARY,
    **changes: Any,
) -> Trained:
    """Train a multimodal student by `method`, with SMP where `smp` is given.

    `teachers`: modality → its trained teacher or stored outputs (may be empty for methods that need none).
    `training`: the published recipe by default, `epochs` alone shortens it. `weights`: modality → the file
    that its encoder starts from, where the encoder's own `weights` is not to be taken as a path from here.
    `start`: a trained model's `model.safetensors`, whose encoders these encoders start from.
    `options`: device, workers, folder, checkpoint_minutes, log, progress (see `RunOptions`); each is also a
    keyword. With a `folder`, checkpoints and the outputs are kept there, the latter memory-mapped.

    Raises ValueError where a teacher is missing or fits another task (width of features or logits)."""
    if encoders.keys() != set(data.modalities):
        raise ValueError(f"encoders are given for {sorted(encoders)}, the data have {list(data.modalities)}")
    options = options.updated(**changes)
    recipe = (training or TrainingSettings()).model_dump() | ({} if epochs is None else {"epochs": epochs})
    training = TrainingSettings.model_validate(recipe, context={"task": data.task.to_json()["name"]})
    smp = SMPSettings(**smp) if isinstance(smp, dict) else smp
    for m, teacher in teachers.items():
        check_teacher(teacher, m, data)
    outputs_of = {m: teacher_outputs(teacher, m) for m, teacher in teachers.items()}
    algorithm = build_method(method, parameters or {})
    architecture = describe_architecture(data, encoders, fusion, algorithm.exchange)
    check_method(method, algorithm, architecture, smp, training, world_of(options))
    with seeded(seed, "model"):
        model = build_model(architecture)
    load_pretrained(model, architecture, weights, start)
    check_outputs(outputs_of, model.fusion.widths, data, algorithm)
    result = fit(
        model, data, algorithm, training=training, smp=smp, teachers=outputs_of, seed=seed, options=options,
        description=description or f"{method}, seed {seed}",
    )  # fmt: skip
    splits = SPLITS if method == "unimodal" else ("val", "test")  # a student's train outputs are never read
    device = pick_device(options.device)
    arrays, predictions = compute_outputs(result.model, data, algorithm, device, splits, options.folder)
    info = {
        "algorithm": method,
        "parameters": algorithm.parameters.model_dump(mode="json"),
        "seed": seed,
        "parameters_changed": algorithm.parameters.model_dump(mode="json", exclude_defaults=True),
        **describe_run(data, architecture, training, smp, result, options),
        "confidence": _mean_confidence(arrays, data, splits),
    }
    return Trained(result.model.cpu(), info, result.history, predictions, arrays)


def describe_architecture(
    data: Data,
    encoders: Mapping[str, Strict | dict[str, Any]],
    fusion: str | dict[str, Any] | Strict,
    exchange: str | None,
) -> dict[str, Any]:
    """What `models.build_model` rebuilds the model from, as JSON."""

    def plain(settings: Any) -> Any:
        return settings.model_dump(mode="json") if isinstance(settings, Strict) else settings

    modalities: dict[str, dict[str, Any]] = {
        m: {"encoder": plain(encoders[m]), "shape": list(data.shape(m)), "normaliser": data.normalisers[m]}
        for m in data.modalities
    }
    for m, entries in data.vocabulary.items():
        modalities[m]["vocabulary"] = entries
    architecture = {"modalities": modalities, "fusion": plain(fusion), "task": data.task.to_json()}
    return architecture | ({"exchange": exchange} if exchange is not None else {})


def describe_run(
    data: Data,
    architecture: dict[str, Any],
    training: TrainingSettings,
    smp: SMPSettings | None,
    result: FitResult,
    options: RunOptions,
) -> dict[str, Any]:
    """What `model.json` says of the model and how it was trained; of several devices, where there were."""
    task, modalities, windows = architecture["task"], list(data.modalities), windows_of(data.arrays)
    phases = {"phases": smp.phases(len(modalities), training.epochs)} if smp else {}
    about = {
        "architecture": architecture,
        "task": task["name"],
        "class_names": task.get("class_names", []),
        "metric": data.task.metric,
        "modalities": modalities,
        "smp": smp.model_dump(mode="json") | phases if smp else None,
        "fusion": fusion_name(architecture),
        "training": training.model_dump(mode="json"),
        **({"shuffle": windows.numbers} if windows else {}),
        "precision": result.precision,
        "selection": training.selection,
        "selection_metric": training.selection_metric or data.task.metric,
        "selected_epoch": result.selected_epoch,
        "selected_phase": list(result.selected_phase),
        "selection_epochs": list(result.selection_epochs),
        "version": __version__,
    }
    if (devices := world_of(options)) == 1:
        return about
    compute, size = options.compute, training.batch_size
    about["compute"] = {
        "devices": devices // compute.num_nodes,
        "num_nodes": compute.num_nodes,
        "strategy": compute.strategy,
        "backend": "nccl" if pick_device(options.device).type == "cuda" else "gloo",
        **({} if size == "auto" else {"global_batch": size * devices * training.accumulation}),
    }
    return about


def fusion_name(architecture: dict[str, Any]) -> str:
    fusion = architecture["fusion"]
    return str(fusion if isinstance(fusion, str) else fusion["name"])


def check_method(
    name: str,
    method: Method,
    architecture: dict[str, Any],
    smp: SMPSettings | None,
    training: TrainingSettings,
    devices: int = 1,
) -> None:
    """Raise ConfigError where the method is undefined for the task, fusion, encoders, schedule or devices."""
    fusion = architecture["fusion"]
    context = MethodContext(
        architecture["task"]["name"],
        fusion_name(architecture),
        {m: str(about["encoder"]["name"]) for m, about in architecture["modalities"].items()},
        smp is not None,
        training.accumulation,
        {} if isinstance(fusion, str) else fusion,
        devices,
    )
    try:
        method.check(context)
    except ValueError as error:
        raise ConfigError(f"method {name}: {error}") from error


def compute_outputs(
    model: MultimodalModel,
    data: Data,
    method: Method,
    device: torch.device,
    splits: Sequence[str],
    folder: Path | None = None,
) -> tuple[dict[str, Tensor | Array], pd.DataFrame]:
    """One forward over the samples of `splits`: arrays over their rows (`row` `[n]` says which), and the
    predictions on val and test. With a `folder` the arrays are memory-mapped files in it (`artefacts`)."""
    model.to(device)
    task, target = data.task, data.task.encode(torch.as_tensor(data.target))
    row = np.sort(np.concatenate([data.rows[split] for split in splits]))
    parts = data.modalities if len(data.modalities) == 1 else ("multi", *data.modalities)
    outputs: dict[str, Array] = {}
    evaluator = Evaluator(data, method, target, device)
    for split in splits:
        for rows, features, logits in evaluator.forward(model, split):
            position, y = np.searchsorted(row, rows), target[torch.from_numpy(rows)]
            values = {f"feature/{m}": x for m, x in features.items()}
            values |= {f"logits/{part}": logits[part] for part in parts}
            values |= {f"confidence/{part}": task.confidence(logits[part], y) for part in parts}
            for name, x in values.items():
                if name not in outputs:
                    shape = (len(row), *x.shape[1:])
                    outputs[name] = new_output(folder, name, shape) if folder else np.empty(shape, np.float32)
                outputs[name][position] = x.float().numpy()
                release(outputs[name])
    import pandas as pd

    frames = []
    for split in [split for split in splits if split != "train"]:
        rows = data.rows[split]
        for part in parts:
            u = take(outputs[f"logits/{part}"], np.searchsorted(row, rows))
            confidence = task.confidence(u, target[torch.from_numpy(rows)]).double().numpy()
            columns = {"sample_id": data.sample_ids[rows], "split": split, "part": part}
            columns |= {"target": data.target[rows], "prediction": task.predict(u).numpy()}
            frames.append(pd.DataFrame(columns | {"confidence": confidence}))
    arrays = {name: x if folder else torch.from_numpy(x) for name, x in outputs.items()}
    return arrays | {"row": torch.from_numpy(row)}, pd.concat(frames, ignore_index=True)


def _mean_confidence(
    outputs: dict[str, Tensor | Array], data: Data, splits: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Split → part → mean confidence in the true target."""
    means: dict[str, dict[str, float]] = {}
    for split in splits:
        at = np.searchsorted(np.asarray(outputs["row"]), data.rows[split])
        means[split] = {
            name.removeprefix("confidence/"): float(np.asarray(values)[at].astype(np.float64).mean())
            for name, values in outputs.items()
            if name.startswith("confidence/")
        }
    return means
