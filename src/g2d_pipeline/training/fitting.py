"""`fit`: one training, in this process or in several together."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g2d_pipeline.config import RunOptions, SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import Method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.training.data import Data
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.launch import launch, start, world_of
from g2d_pipeline.training.nodes import Nodes
from g2d_pipeline.training.teachers import TeacherOutputs
from g2d_pipeline.training.trainer import FitResult, Trainer
from g2d_pipeline.training.transfer import pack, unpack

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
    arguments = model, data, method, training, smp, dict(teachers or {}), seed, description
    if max(devices := world_of(options), Group().world) > 1:
        try:
            method.check_strategy(options.compute.strategy)
            options.compute.check_training(training)
        except ValueError as error:
            raise ConfigError(f"{description}: {error}") from error
    if devices == 1:
        return Trainer(*arguments, options).fit()
    split, rows = min(data.rows.items(), key=lambda item: len(item[1]))
    if len(rows) < 2 * devices:
        raise ConfigError(
            f"{description}: {devices} devices share {len(rows)} {split} samples; each needs two. Allowed: "
            f"{max(len(rows) // 2, 1)} devices (compute.devices × compute.num_nodes)"
        )
    packed = pack(*arguments) if options.compute.num_nodes > 1 else None
    result = launch(_fit_here, *arguments, options=options, description=description, packed=packed)
    model.load_state_dict(result.pop("model"))
    method.load_state_dict(result.pop("method"))
    import pandas as pd

    history = pd.DataFrame(result.pop("history"))
    return FitResult(model.cpu().eval(), history, **result)


def take_part(nodes: Nodes) -> None:
    """On another machine than the first: start this machine's processes of each training of the first one."""
    while (call := nodes.next_call()) is not None:
        packed, options, folder, run, endpoint = call
        arguments = RunOptions(**options), Path(folder), run, endpoint, nodes.rank
        lost = start(_fit_here, unpack(packed), *arguments)
        logger.info("%s: %s", run, lost or "this machine's part is done")


def _fit_here(options: RunOptions, model: MultimodalModel, *arguments: Any) -> dict[str, Any]:
    """In one of the processes of a training: `FitResult` as plain data, and the method's state."""
    copied = copy.deepcopy(model)  # torch sends weights as memory that all processes share
    every: tuple[Any, ...] = (copied, *arguments, options)
    trainer = Trainer(*every)
    fitted = trainer.fit()
    result = vars(fitted) | {"model": fitted.model.state_dict(), "history": trainer.history.epochs}
    modules = trainer.method.modules()
    return result | {"method": {n: x for n, x in trainer.method.state_dict().items() if n not in modules}}
