"""The training loop, whole: for epoch, for batch: forward, loss, backward, modulate, step.

What is not computed: the backward pass of suppressed encoders, the forward pass of resting ones
(`memory.py`), teachers where their answers are remembered (`teachers.py`). What survives a kill: everything
in `parts`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from g2d_pipeline.artefacts import CHECKPOINTS
from g2d_pipeline.config import SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.methods.base import Batch, Method, State, Validation
from g2d_pipeline.models import MultimodalModel, Output, depends_on_batch
from g2d_pipeline.progress import track_epochs
from g2d_pipeline.training.capacity import explain_out_of_memory, fitting_batch_size
from g2d_pipeline.training.checkpoint import Checkpoints
from g2d_pipeline.training.data import Data, batches_of, epoch_rows, take
from g2d_pipeline.training.data_access import attach_data_access
from g2d_pipeline.training.feature_cache import FeatureCache
from g2d_pipeline.training.history import DivergenceError, History
from g2d_pipeline.training.interrupt import Stop, stop_on_signals
from g2d_pipeline.training.loader import Loader, Rows
from g2d_pipeline.training.logs import open_logs
from g2d_pipeline.training.modulation import (
    freeze_conv_weights,
    restore_group_lrs,
    scale_group_lrs,
    zero_gradients,
)
from g2d_pipeline.training.optimisation import build_average, build_learning_rate, build_optimizer
from g2d_pipeline.training.precision import (
    autocast_dtype,
    check_machine,
    gradient_scaler,
    prepare,
    tf32_mode,
    unprepare,
)
from g2d_pipeline.training.scoring import ModelSelector, score_split
from g2d_pipeline.training.smp import SMP
from g2d_pipeline.training.streams import TorchGenerators, seeded
from g2d_pipeline.training.teachers import TeacherOutputs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The model with the selected weights (on the CPU), the history (a row an epoch), and which epoch was
    selected."""

    model: MultimodalModel
    history: pd.DataFrame
    selected_epoch: int


class Part(Protocol):
    """Whatever has a state."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class LoopState:
    """Where a run is: in `epoch` (from 1), `batch` batches of it done. `rows`: those of the epoch a method
    chose."""

    epoch: int = 1
    batch: int = 0
    batch_size: int = 0
    rows: Rows | None = None

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def pick_device(wanted: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def fit(
    model: MultimodalModel,
    data: Data,
    method: Method,
    *,
    training: TrainingSettings,
    smp: SMPSettings | None = None,
    teachers: dict[str, TeacherOutputs] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    folder: Path | None = None,
    checkpoint_minutes: float = 10.0,
    log: Sequence[Literal["csv", "tensorboard"]] = (),
    progress: Literal["auto"] | bool = "auto",
    description: str = "train",
) -> FitResult:
    """Train `model` and return it with the weights of the selected epoch.

    `teachers` (modality → remembered outputs) is needed by methods that distil and by SMP. `workers`: threads
    that read ahead. `folder`: where checkpoints (`checkpoints/`, every `checkpoint_minutes` and at the ends
    of epochs) and logs go; a call with the same arguments goes on from there, and one that had ended returns
    at once; the folder is the caller's to delete.

    Raises ValueError where teachers are missing, ConfigError where the machine lacks what the settings ask
    for or the folder holds another training, DivergenceError where a loss is no longer finite, InterruptedRun
    after Ctrl-C or SIGTERM (with a `folder`)."""
    if (smp is not None or method.needs_teachers) and set(teachers or {}) != set(data.modalities):
        raise ValueError(f"SMP and distillation need a teacher for each of {list(data.modalities)}")
    views = {m: (teachers or {})[m] for m in data.modalities} if teachers else {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    where = pick_device(device)
    check_machine(training, where)
    model.to(where)
    prepare(model, training)
    epochs = method.epochs(training.epochs)
    state = State(model=model, optimizer=None, task=data.task, epochs=epochs, teachers=teachers or {})  # type: ignore[arg-type]
    target = data.task.encode(torch.as_tensor(data.target))
    attach_data_access(state, data, target, training, where)
    with seeded(seed, "method"):
        method.on_fit_start(state)
    for module in method.modules().values():
        module.to(where)
    state.optimizer = optimizer = build_optimizer(training.optimizer, method.parameter_groups(model), where)
    learning_rate = build_learning_rate(training.lr_schedule, optimizer, epochs)
    scaler = gradient_scaler(training.precision, where)
    average = build_average(model, training.ema) if training.ema is not None else None
    evaluated: Any = average.module if average is not None else model
    dtype = autocast_dtype(training.precision)
    memory = FeatureCache(model, data, where, _memorable(model, data, smp), folder, dtype)
    loader = Loader(
        data, target, views, memory, where, seed=seed, teacher_view=training.teacher_view, workers=workers
    )
    schedule = _schedule(smp, data, views, epochs, known=not loader.live) if smp is not None else None
    history = History(model, description)
    best = ModelSelector(data.task, training.selection)
    position = LoopState(batch_size=fitting_batch_size(model, data, training, where))
    parts: dict[str, Part] = {
        "position": position, "model": model, "method": method, "optimizer": optimizer, "learning_rate": learning_rate,
        "history": history, "best": best, "memory": memory, "scaler": scaler, "random": TorchGenerators(),
    }  # fmt: skip
    parts |= {"schedule": schedule} if schedule is not None else {}
    parts |= {"average": average} if average is not None else {}

    moving = (
        "moving" if smp is not None and smp.update == "zero_grad" else smp.suppressed_norm if smp else "batch"
    )
    accumulation = training.accumulation
    gradients: dict[str, Tensor] = {}

    conv_only = smp is not None and smp.scope == "conv_only"

    def forward(batch: Batch) -> Output:
        suppressed = [m for m in model.modalities if m not in state.active and not conv_only]
        output: Output = model(batch.inputs, suppressed, moving, batch.features, dtype, state.kappa)
        return output

    def backward(loss: Tensor, retain_graph: bool = False) -> None:
        scaled: Tensor = scaler.scale(loss / accumulation if accumulation > 1 else loss)
        scaled.backward(retain_graph=retain_graph)

    def step() -> None:
        if smp is not None and smp.update == "zero_grad":
            zero_gradients(model)
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        method.after_backward(state)
        norms = history.gradients()
        gradients.update(norms)
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(
                [p for g in optimizer.param_groups for p in g["params"]], training.clip_norm
            )
        scaler.step(optimizer)
        scaler.update()
        memory.moved(name.removeprefix("grad_norm/") for name in norms)
        optimizer.zero_grad(
            set_to_none=True
        )  # no gradient: no momentum, no decay; `skip` falls out by itself
        if average is not None:
            average.update(model)

    state.forward, state.backward, state.step, state.mark_updated = forward, backward, step, memory.moved

    checkpoints = Checkpoints(folder / CHECKPOINTS, checkpoint_minutes) if folder is not None else None
    with (
        seeded(seed, "dropout"),
        tf32_mode(training.precision, where),
        explain_out_of_memory(model, data, training, position, where),
        stop_on_signals(checkpoints is not None) as stop,
        open_logs(log, folder) as logs,
    ):
        identity = _identity(training, smp, method, model, data, seed)
        if checkpoints is not None:
            _resume(parts, checkpoints, identity, description)
        state.batch_size = position.batch_size
        steps = len(list(batches_of(data.rows["train"], position.batch_size)))
        done = (position.epoch - 1) * steps + position.batch
        if schedule is not None and schedule.wants_start:
            schedule.end_epoch(_confidences(score_split(evaluated, data, method, target, "val", where), data))
        with track_epochs(description, epochs, steps, progress, done) as bar:
            while position.epoch <= epochs:
                epoch = state.epoch = position.epoch
                model.train()
                if position.batch == 0:
                    if schedule is not None:
                        schedule.start_epoch(epoch)
                    method.on_epoch_start(state)
                    scale_group_lrs(optimizer)
                    chosen = method.rows(data.rows["train"], state)
                    position.rows = None if chosen is data.rows["train"] else chosen
                rows = data.rows["train"] if position.rows is None else position.rows
                batches = list(batches_of(epoch_rows(rows, seed, epoch), position.batch_size))
                if schedule is not None and position.batch == 0:
                    memory.start_epoch(schedule.resting(batches))
                teach = bool(views) and (
                    method.needs_teachers or (schedule is not None and schedule.needs_batch_confidence)
                )
                bar.start(epoch, _phase(schedule), position.batch)

                for batch in loader.epoch(batches, epoch, position.batch, teach):
                    if schedule is not None:
                        seen = (
                            torch.stack([v.confidence for v in batch.teachers.values()])
                            if schedule.needs_batch_confidence
                            else None
                        )
                        state.active, state.kappa = schedule.active(seen), schedule.kappa
                        if conv_only:
                            freeze_conv_weights(model, state.active)
                    else:
                        state.active = model.modalities
                    if wrong := [m for m in state.active if m in batch.features]:
                        memory.wake(wrong)
                        batch = loader.read_after_all(batch, wrong)
                    gradients.clear()
                    state.logged.clear()
                    terms = method.train_batch(batch, state)  # forward, loss, backward
                    position.batch += 1
                    whole = position.batch % accumulation == 0 or position.batch == len(batches)
                    if whole:
                        step()  # modulate, clip, step
                    with _told(checkpoints):
                        history.batch(batch, terms, gradients, state, whole)
                    bar.advance(len(batch.index), history.loss_terms)
                    if checkpoints is not None and whole and (stop.number is not None or checkpoints.due()):
                        _save(parts, checkpoints, identity, history, state, stop, description)

                with _told(checkpoints):
                    history.check(epoch)
                method.on_epoch_end(state)
                restore_group_lrs(optimizer)
                looked = {
                    split: score_split(
                        evaluated, data, method, target, split, where, memory if average is None else None
                    )
                    for split in ("val", "test")
                }
                scores = {split: found.scores for split, found in looked.items()}
                phase = schedule.phase if schedule is not None else 1
                history.end_epoch(epoch, phase, optimizer.param_groups[0]["lr"], scores)
                logs.epoch(history.epochs)
                in_last_phase = schedule is None or phase == len(schedule.phases)
                best.update(epoch, scores, evaluated, method, counts=in_last_phase)
                learning_rate.step(scores["val"]["loss"])
                method.on_validation(looked["val"], state)
                if schedule is not None:
                    schedule.end_epoch(_confidences(looked["val"], data))
                bar.end({"val": next(iter(scores["val"].values()))})
                position.epoch, position.batch, position.rows = epoch + 1, 0, None
                enough = training.early_stopping is not None and best.patience >= training.early_stopping
                if enough:
                    logger.info("%s: no better validation score for %d epochs: stopped after epoch %d of %d",
                                description, best.patience, epoch, epochs)  # fmt: skip
                if state.stop:
                    logger.info(
                        "%s: the method ended training after epoch %d of %d", description, epoch, epochs
                    )
                if enough or state.stop:
                    position.epoch = epochs + 1
                ended = position.epoch > epochs
                if checkpoints is not None and (
                    stop.number is not None or ended or checkpoints.due_at_epoch_end()
                ):
                    _save(parts, checkpoints, identity, history, state, stop, description)
    if best.weights is None and average is not None:
        model.load_state_dict(average.module.state_dict())
    best.restore(model, method)
    if conv_only:
        freeze_conv_weights(model, model.modalities)
    unprepare(model)
    return FitResult(model.cpu().eval(), history.frame(), best.epoch)


def _memorable(model: MultimodalModel, data: Data, smp: SMPSettings | None) -> list[str]:
    """The modalities whose features may be looked up while they rest: nothing about them changes."""
    if smp is None or smp.update != "skip" or smp.scope != "encoder" or smp.suppression != "complete":
        return []
    still = smp.suppressed_norm == "frozen"
    return [
        m
        for m in data.modalities
        if not data.augmented(m) and (still or not depends_on_batch(model.encoders[m]))
    ]


def _schedule(
    smp: SMPSettings, data: Data, teachers: dict[str, TeacherOutputs], epochs: int, known: bool
) -> SMP:
    """SMP from the teachers' remembered confidences."""
    everything = np.arange(len(data.target))
    confidence = torch.stack([take(teachers[m].confidence, everything) for m in data.modalities])
    val = confidence[:, torch.from_numpy(data.rows["val"])].double().mean(dim=1).tolist()
    return SMP(smp, data.modalities, epochs, confidence, val, torch.from_numpy(data.rows["train"]), known)


def _phase(schedule: SMP | None) -> str:
    """For the progress bar."""
    if schedule is None or schedule.partial:
        return ""
    last = schedule.phase == len(schedule.phases)
    who = "all learn" if last else f"{schedule.modalities[schedule.ranking[schedule.phase - 1]]} learns"
    return f"phase {schedule.phase}/{len(schedule.phases)} ({who})"


def _confidences(validation: Validation, data: Data) -> list[float]:
    """The mean confidence of each modality alone, in configuration order."""
    return [
        float(data.task.confidence(validation.logits[m], validation.target).mean()) for m in data.modalities
    ]


# -------------------------------------------------------------------------------------------- kill and resume
def _identity(
    training: TrainingSettings,
    smp: SMPSettings | None,
    method: Method,
    model: nn.Module,
    data: Data,
    seed: int,
) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from."""
    shapes = json.dumps([[name, list(p.shape)] for name, p in model.named_parameters()])
    samples = hashlib.blake2b(np.asarray(data.target).tobytes() + data.rows["train"].tobytes(), digest_size=8)
    return {
        "training": training.model_dump(mode="json"),
        "smp": smp.model_dump(mode="json") if smp is not None else None,
        "method": f"{type(method).__module__}.{type(method).__qualname__}",
        "parameters": method.parameters.model_dump(mode="json"),
        "augment": {m: a.model_dump(mode="json") if a is not None else None for m, a in data.augment.items()},
        "seed": seed,
        "model": hashlib.blake2b(shapes.encode(), digest_size=8).hexdigest(),
        "samples": samples.hexdigest(),
    }


def _resume(
    parts: dict[str, Part], checkpoints: Checkpoints, identity: dict[str, Any], description: str
) -> None:
    saved = checkpoints.newest()
    if saved is None:
        return
    if differing := [key for key, value in identity.items() if saved["identity"].get(key) != value]:
        raise ConfigError(
            f"{description}: {checkpoints.folder} holds checkpoints of another training (another "
            f"{', another '.join(differing)}). Give another folder, or delete this one to start anew."
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    epoch, batch = saved["position"]["epoch"], saved["position"]["batch"]
    logger.info("%s: goes on from epoch %d, batch %d", description, epoch, batch)


def _save(
    parts: dict[str, Part],
    checkpoints: Checkpoints,
    identity: dict[str, Any],
    history: History,
    state: State,
    stop: Stop,
    description: str,
) -> None:
    """Save everything; end the run here where a signal asked to. Never after a loss that is not finite."""
    with _told(checkpoints):
        history.check(state.epoch)
    position = parts["position"].state_dict()
    saved = checkpoints.save(
        {"identity": identity} | {name: part.state_dict() for name, part in parts.items()},
        position["epoch"],
        position["batch"],
    )
    if stop.number is not None:
        at = f"epoch {position['epoch']}, batch {position['batch']}"
        on = (
            "saved; the same command goes on from there"
            if saved or checkpoints.last
            else "but nothing could be saved"
        )
        raise InterruptedRun(f"{description}: stopped by {stop.name} at {at}, {on}.", stop.number)


@contextmanager
def _told(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Add to a divergence what can be done about it."""
    try:
        yield
    except DivergenceError as error:
        last = checkpoints.last if checkpoints is not None else None
        raise DivergenceError(
            f"{error}\nThe last good checkpoint: {last if last is not None else 'none was kept'}.\n"
            "Remedies: a smaller learning rate (--params lr=…), a warm-up (lr_schedule.warmup=5), clip_norm=1, smaller "
            "alpha and beta, suppressed_norm=batch (SMP, deep encoders: statistics settle slowly), or a look at "
            "the features for extreme values."
        ) from None
