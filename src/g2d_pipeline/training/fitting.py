"""`fit`: one training, in this process or in several together, on one machine or many.

A machine that takes part gets the training as plain data, never pickles: memory-mapped files are named, as
all machines see them at the same place; models are built anew from their architecture; methods and encoders
are imported by name, so all machines need the same packages."""

import copy
import logging
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor

from g2d_pipeline.config import AugmentSettings, RunOptions, SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.files import Shards
from g2d_pipeline.methods import build
from g2d_pipeline.methods.base import Method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.task import task_from_json
from g2d_pipeline.training.data import Data, map_file
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.launch import launch, start, world_of
from g2d_pipeline.training.nodes import Nodes
from g2d_pipeline.training.resume import Run
from g2d_pipeline.training.teachers import TeacherOutputs
from g2d_pipeline.training.trainer import FitResult, Trainer

logger = logging.getLogger(__name__)

LIBRARY = RunOptions(workers=0)  # how a training runs that nobody configured


def fit(
    model: MultimodalModel,
    data: Data,
    method: Method,
    *,
    training: TrainingSettings,
    smp: SMPSettings | None = None,
    teachers: Mapping[str, TeacherOutputs] | None = None,
    seed: int = 0,
    description: str = "train",
    options: RunOptions = LIBRARY,
    **changes: Any,
) -> FitResult:
    """Train `model` and return it with the weights of the selected epoch.

    `teachers` (modality → stored outputs) is needed by methods that distil and by SMP. `options`: device,
    workers, folder, … (see `RunOptions`); keywords change single ones. With a `folder`, a call with the same
    arguments goes on from its newest checkpoint, and one that had ended returns at once; the folder is the
    caller's to delete.

    Raises ValueError where teachers are missing, ConfigError where the machine lacks what the settings ask
    for or the folder holds another training, DivergenceError where a loss is no longer finite, InterruptedRun
    after Ctrl-C or SIGTERM (with a `folder`)."""
    options = options.updated(**changes)
    run = Run(model, data, method, training, smp, dict(teachers or {}), seed, description)
    if max(devices := world_of(options), Group().world) > 1:
        try:
            method.check_strategy(options.compute.strategy)
            options.compute.check_training(training)
        except ValueError as error:
            raise ConfigError(f"{description}: {error}") from error
    if devices == 1:
        return Trainer(run, options).fit()
    split, rows = min(data.rows.items(), key=lambda item: len(item[1]))
    if len(rows) < 2 * devices:
        raise ConfigError(
            f"{description}: {devices} devices share {len(rows)} {split} samples; each needs two. Allowed: "
            f"{max(len(rows) // 2, 1)} devices (compute.devices × compute.num_nodes)"
        )
    packed = pack(*run) if options.compute.num_nodes > 1 else None
    result = launch(_fit_here, run, options=options, description=description, packed=packed)
    model.load_state_dict(result.pop("model"))
    method.load_state_dict(result.pop("method"))
    import pandas as pd

    history = pd.DataFrame(result.pop("history"))
    return FitResult(model.cpu().eval(), history, **result)


def take_part(nodes: Nodes) -> None:
    """On another machine than the first: start this machine's processes of each training of the first one."""
    while (call := nodes.next_call()) is not None:
        packed, options, folder, name, endpoint = call
        arguments = RunOptions(**options), Path(folder), name, endpoint, nodes.rank
        lost = start(_fit_here, (unpack(packed),), *arguments)
        logger.info("%s: %s", name, lost or "this machine's part is done")


def _fit_here(options: RunOptions, run: Run) -> dict[str, Any]:
    """In one of the processes of a training: `FitResult` as plain data, and the method's state."""
    trainer = Trainer(run._replace(model=copy.deepcopy(run.model)), options)  # all processes share its memory
    fitted, method = trainer.fit(), trainer.method
    result = vars(fitted) | {"model": fitted.model.state_dict(), "history": trainer.history.epochs}
    return result | {"method": {n: x for n, x in method.state_dict().items() if n not in method.modules()}}


# --------------------------------------------------------------------------------------------------- transfer
OUTPUTS = ("feature", "logits", "confidence")


def pack(*arguments: Any) -> dict[str, Any]:
    """The fields of a `Run` as nested plain data, tensors and arrays (`checkpoint.to_bytes`). Raises
    ConfigError for a model without architecture."""
    run = Run(*arguments)
    data, method = run.data, run.method
    of_teachers = {
        m: {name: _pack_array(getattr(teacher, name)) for name in OUTPUTS}
        | {"model": teacher.model and _pack_model(teacher.model)}
        for m, teacher in run.teachers.items()
    }
    return {
        "model": _pack_model(run.model),
        "data": vars(data)
        | {
            "arrays": {m: _pack_array(x) for m, x in data.arrays.items()},
            "target": np.asarray(data.target),
            "rows": {split: np.asarray(rows) for split, rows in data.rows.items()},
            "task": data.task.to_json(),
            "sample_ids": np.asarray(data.sample_ids),
            "augment": {m: a and a.model_dump(mode="json") for m, a in data.augment.items()},
        },
        "method": f"{type(method).__module__}.{type(method).__qualname__}",
        "parameters": method.parameters.model_dump(mode="json"),
        "training": run.training.model_dump(mode="json"),
        "smp": run.smp and run.smp.model_dump(mode="json"),
        "teachers": of_teachers,
        "rest": [run.seed, run.description],
    }


def unpack(packed: Mapping[str, Any]) -> Run:
    """The inverse of `pack`. Raises ConfigError where this machine has no such method or encoder, OSError
    where it does not see a file."""
    data, teachers, augment = packed["data"], {}, TypeAdapter(AugmentSettings | None)
    for m, teacher in packed["teachers"].items():
        feature, logits, confidence = (_unpack_array(teacher[name]) for name in OUTPUTS)
        model = teacher["model"] and _unpack_model(teacher["model"])
        teachers[m] = TeacherOutputs(feature, logits, confidence, model)
    changes = {
        "arrays": {m: _unpack_array(x) for m, x in data["arrays"].items()},
        "task": task_from_json(data["task"]),
        "augment": {m: augment.validate_python(a) for m, a in data["augment"].items()},
    }
    return Run(
        _unpack_model(packed["model"]),
        Data(**(data | changes)),
        build(packed["method"], packed["parameters"]),
        TrainingSettings(**packed["training"]),
        packed["smp"] and SMPSettings(**packed["smp"]),
        teachers,
        *packed["rest"],
    )


def _pack_model(model: MultimodalModel) -> dict[str, Any]:
    if model.architecture is None:
        raise ConfigError(
            "compute.num_nodes: other machines build the model from its architecture, and this one was not "
            "made by models.build.build_model"
        )
    return {"architecture": model.architecture, "weights": dict(model.state_dict())}


def _unpack_model(packed: Mapping[str, Any]) -> MultimodalModel:
    model = build_model(packed["architecture"])
    model.load_state_dict(packed["weights"])
    return model.eval()


def _pack_array(x: Any) -> Any:
    """A tensor or array itself; of memory-mapped ones their files."""
    if isinstance(x, Shards):
        about = {"rows": x.rows, "shape": list(x.shape), "dtype": x.dtype.str, "mode": x.mode}
        return {"files": [str(file) for file in x.files]} | about
    base: Any = getattr(x, "base", None)
    if isinstance(x, np.memmap) and isinstance(base, mmap.mmap) and x.filename is not None:
        about = {"dtype": x.dtype.str, "offset": x.offset, "shape": list(x.shape)}
        return {"file": str(x.filename)} | about
    return x if isinstance(x, Tensor) else np.asarray(x)


def _unpack_array(packed: Any) -> Any:
    if not isinstance(packed, dict):
        return packed
    shape, dtype = tuple(packed["shape"]), np.dtype(packed["dtype"])
    if "files" in packed:
        files = [Path(file) for file in packed["files"]]
        return Shards(files, packed["rows"], shape, dtype, packed["mode"])
    return map_file(packed["file"], dtype, packed["offset"], shape)
