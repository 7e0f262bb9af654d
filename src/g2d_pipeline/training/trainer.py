"""The training loop, whole: for epoch, for batch: forward, loss, backward, modulate, step."""

from __future__ import annotations

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn, optim

from g2d_pipeline.config import SGD, SMPSettings, TrainingSettings
from g2d_pipeline.errors import G2DError
from g2d_pipeline.methods.base import Batch, Method, State, TeacherView
from g2d_pipeline.models import MultimodalModel, Task
from g2d_pipeline.progress import track
from g2d_pipeline.training.data import Data, batches_of, epoch_rows, gather
from g2d_pipeline.training.smp import SMP

logger = logging.getLogger(__name__)


class DivergenceError(G2DError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class TeacherOutputs:
    """A frozen teacher's remembered answers on every row of the store: feature `[N, D]`, logits `[N, C]`, ρ `[N]`."""

    feature: Tensor
    logits: Tensor
    confidence: Tensor

    def view(self, index: Tensor, device: torch.device) -> TeacherView:
        """The answers on the rows `index` `[B]`."""
        return TeacherView(*(t[index].to(device) for t in (self.feature, self.logits, self.confidence)))


@dataclass(frozen=True)
class SplitOutputs:
    """One forward over a split: `features` m → `[n, D_m]`; `logits` part → `[n, C]` ("multi" and each modality)."""

    features: dict[str, Tensor]
    logits: dict[str, Tensor]
    target: Tensor  # [n], encoded


@dataclass(frozen=True)
class Fitted:
    """The model with the selected weights (on the CPU), the history (a row an epoch), and which epoch was selected."""

    model: MultimodalModel
    history: pd.DataFrame
    selected_epoch: int


def stream(seed: int, name: str) -> int:
    """The seed of a stream of randomness of its own: `model` and `dropout` (data order: see `epoch_rows`)."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Run with torch's generators seeded for this stream, and with deterministic kernels; both are restored."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(stream(seed, name))
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def pick_device(wanted: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def build_optimizer(settings: Any, groups: list[dict[str, Any]]) -> optim.Optimizer:
    """SGD or Adam over the method's parameter groups."""
    if isinstance(settings, SGD):
        return optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return optim.Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay)


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
    progress: Literal["auto"] | bool = "auto",
    description: str = "train",
) -> Fitted:
    """Train `model` and return it with the weights of the selected epoch.

    `teachers` (modality → remembered outputs) is needed by methods that distil and by SMP. Raises ValueError where they
    are missing, DivergenceError where the loss is no longer finite.
    """
    if (smp is not None or method.needs_teachers) and set(teachers or {}) != set(data.modalities):
        raise ValueError(f"SMP and distillation need a teacher for each of {list(data.modalities)}")
    views = {m: (teachers or {})[m] for m in data.modalities} if teachers else {}
    where = pick_device(device)
    model.to(where)
    optimizer = build_optimizer(training.optimizer, method.parameter_groups(model))
    lr_schedule = optim.lr_scheduler.StepLR(optimizer, training.lr_schedule.every, training.lr_schedule.gamma)
    state = State(model=model, optimizer=optimizer, task=data.task, epochs=training.epochs)
    schedule = build_schedule(smp, data, views, training.epochs) if smp is not None else None
    target = data.task.encode(torch.as_tensor(data.target))
    history = History(data.modalities)
    best = Best(data.task, training.selection)
    rows = data.rows["train"]
    steps = len(list(batches_of(rows, training.batch_size)))

    with seeded(seed, "dropout"), track(description, training.epochs * steps, progress) as advance:
        for epoch in range(1, training.epochs + 1):
            state.epoch = epoch
            model.train()
            if schedule is not None:
                schedule.start_epoch(epoch)
            method.on_epoch_start(state)
            for index in batches_of(epoch_rows(rows, seed, epoch), training.batch_size):
                at = torch.from_numpy(index)
                batch = Batch(
                    at,
                    gather(data, index, where),
                    target[at].to(where),
                    {m: outputs.view(at, where) for m, outputs in views.items()},
                )
                state.active = schedule.active(at) if schedule is not None else model.modalities
                suppressed = [m for m in model.modalities if m not in state.active]
                skip = suppressed if smp is not None and smp.update == "skip" else []
                output = model(batch.inputs, skip, smp.suppressed_norm if smp is not None else "batch")
                terms = method.loss(output, batch, state)
                loss = sum(terms.values(), torch.zeros((), device=where))
                optimizer.zero_grad(set_to_none=True)  # no gradient: no momentum, no decay; `skip` falls out by itself
                loss.backward()
                if smp is not None and smp.update == "zero_grad":
                    for m in suppressed:
                        zero_gradients(model.encoders[m])
                method.after_backward(state)
                history.batch(batch, terms, loss, state)
                optimizer.step()
                advance(1, f"epoch {epoch}/{training.epochs}")
            history.check(epoch, description)
            method.on_epoch_end(state)
            phase = schedule.phase if schedule is not None else 1
            scores = {s: score_split(model, data, method, target, s, where) for s in ("val", "test")}
            history.end_epoch(epoch, phase, optimizer.param_groups[0]["lr"], scores)
            best.offer(epoch, scores, model)
            lr_schedule.step()
    best.restore(model)
    return Fitted(model.cpu().eval(), history.frame(), best.epoch)


def build_schedule(smp: SMPSettings, data: Data, teachers: dict[str, TeacherOutputs], epochs: int) -> SMP:
    """SMP from the teachers' remembered confidences."""
    confidence = torch.stack([teachers[m].confidence for m in data.modalities])
    val = confidence[:, torch.from_numpy(data.rows["val"])].double().mean(dim=1).tolist()
    return SMP(smp, data.modalities, epochs, confidence, val, torch.from_numpy(data.rows["train"]))


def zero_gradients(module: nn.Module) -> None:
    """Zero the gradients of a suppressed encoder: momentum and decay still move it (the code's way)."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()


@torch.no_grad()
def forward_split(
    model: MultimodalModel,
    data: Data,
    method: Method,
    target: Tensor,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    batch_size: int = 256,
) -> SplitOutputs:
    """One forward in evaluation mode over `rows`: the features serve the multimodal and every unimodal readout."""
    was_training = model.training
    model.eval()
    features: dict[str, list[Tensor]] = defaultdict(list)
    logits: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(rows), batch_size):
        output = model(gather(data, rows[start : start + batch_size], device))
        logits["multi"].append(method.predict(output).cpu())
        for m in model.modalities:
            features[m].append(output.features[m].cpu())
            logits[m].append(model.unimodal_logits(output.features, m).cpu())
    model.train(was_training)
    return SplitOutputs(
        {m: torch.cat(parts) for m, parts in features.items()},
        {part: torch.cat(parts) for part, parts in logits.items()},
        target[torch.from_numpy(rows)],
    )


def score_split(
    model: MultimodalModel, data: Data, method: Method, target: Tensor, split: str, device: torch.device
) -> dict[str, float]:
    """The selection metric of every part on a split, and the multimodal task loss as `loss`."""
    outputs = forward_split(model, data, method, target, data.rows[split], device)
    scores = {part: data.task.score(logits, outputs.target) for part, logits in outputs.logits.items()}
    if len(model.modalities) == 1:  # a teacher: its one modality is the whole
        del scores["multi"]
    return scores | {"loss": float(data.task.loss(outputs.logits["multi"], outputs.target))}


class Best:
    """Remembers the weights of the best epoch: by the metric, then by the task loss, then the earlier one."""

    def __init__(self, task: Task, selection: Literal["val", "last", "test"]) -> None:
        self.sign = 1 if task.higher_is_better else -1
        self.selection = selection
        self.epoch = 0
        self.key: tuple[float, float] = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] | None = None

    def offer(self, epoch: int, scores: dict[str, dict[str, float]], model: MultimodalModel) -> None:
        """Keep this epoch's weights if they are the best so far."""
        if self.selection == "last":
            self.epoch = epoch
            return
        of = scores[self.selection]
        metric = next(value for part, value in of.items())  # "multi", or a teacher's one modality
        key = (self.sign * metric, -of["loss"])
        if self.weights is None or key > self.key:
            self.key, self.epoch = key, epoch
            self.weights = copy.deepcopy(model.state_dict())

    def restore(self, model: MultimodalModel) -> None:
        if self.weights is not None:
            model.load_state_dict(self.weights)


class History:
    """Means over the batches of an epoch, collected as tensors (nothing waits for the device), and their table."""

    def __init__(self, modalities: tuple[str, ...]) -> None:
        self.modalities = modalities
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.learning: set[str] = set()
        self.epochs: list[dict[str, Any]] = []

    def batch(self, batch: Batch, terms: dict[str, Tensor], loss: Tensor, state: State) -> None:
        """Add one batch, between backward and step."""
        values = {f"loss/{name}": term.detach() for name, term in terms.items()} | {"loss/total": loss.detach()}
        for m in self.modalities:
            gradients = [p.grad for p in state.model.encoders[m].parameters() if p.grad is not None]
            values[f"grad_norm/{m}"] = nn.utils.get_total_norm(gradients) if gradients else loss.new_zeros(())
            values[f"kappa/{m}"] = loss.new_tensor(float(m in state.active))
        for m, view in batch.teachers.items():
            values[f"confidence/{m}"] = view.confidence.mean()
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.learning.update(state.active)
        self.count += 1

    def check(self, epoch: int, description: str) -> None:
        """Raise DivergenceError, naming the terms, where a loss of this epoch is no longer finite."""
        bad = [n for n, value in self.sums.items() if n.startswith("loss/") and not math.isfinite(float(value))]
        if bad:
            raise DivergenceError(
                f"{description}: {', '.join(bad)} became NaN or infinite in epoch {epoch}.\n"
                "Remedies: a smaller learning rate (--params lr=…), smaller alpha and beta, "
                "or a look at the features for extreme values."
            )

    def end_epoch(self, epoch: int, phase: int, lr: float, scores: dict[str, dict[str, float]]) -> None:
        row: dict[str, Any] = {
            "epoch": epoch,
            "phase": phase,
            "learning": "+".join(m for m in self.modalities if m in self.learning),
            "lr": lr,
        }
        row |= {name: float(value) / self.count for name, value in self.sums.items()}
        row |= {f"{split}/{part}": value for split, of in scores.items() for part, value in of.items()}
        self.epochs.append(row)
        self.sums, self.count, self.learning = {}, 0, set()

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.epochs)
