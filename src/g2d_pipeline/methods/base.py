"""What a method is: a small object that the trainer asks for a loss and tells what happened.

A new method is one file in this folder (functions first: the equations, testable alone; then a class that
says when they act) and one YAML in `conf/base/methods/` that lists its parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn, optim

from g2d_pipeline.config import Strict
from g2d_pipeline.errors import did_you_mean
from g2d_pipeline.models import MultimodalModel, Output, Task

Rows = npt.NDArray[np.int64]  # of the store


class MethodParameters(Strict):
    """The hyper-parameters of a method; its own `Parameters` add fields with their allowed ranges, which
    conf/base/methods/<method>.yml explains."""


@dataclass(frozen=True)
class TeacherView:
    """What a teacher says of a batch: feature `[B, D]`, logits `[B, C]`, confidence ρ `[B]`."""

    feature: Tensor
    logits: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Batch:
    """`index` `[B]`: rows of the store; `inputs`: m → `[B, …]`; `target` `[B]`, encoded; `teachers` by
    modality. `features`: m → `[B, D_m]` of the encoders frozen in this epoch: they are cached, and
    their `inputs` are not read. `teachers` is empty where neither the method nor the schedule needs them."""

    index: Tensor
    inputs: dict[str, Tensor]
    target: Tensor
    teachers: dict[str, TeacherView] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodContext:
    """What `Method.check` is asked about. `fusion`, and `encoders` by modality: their names;
    `fusion_settings`: the fusion's own settings, where they are given; `accumulation`: batches a step;
    `devices`: that train together, by `strategy`."""

    task: str
    fusion: str
    encoders: Mapping[str, str]
    smp: bool = False
    accumulation: int = 1
    fusion_settings: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 1
    strategy: str = "ddp"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)


@dataclass(frozen=True)
class Validation:
    """The validation split after an epoch: `logits`: part ("multi" and each modality) → `[N, C]`; `target`
    `[N]`. `scores`: part → the selection metric, `loss`, the task loss of the whole, and `cosine/<m>`, the
    mean cosine of the features with those of a teacher that is as wide."""

    logits: dict[str, Tensor]
    target: Tensor
    scores: dict[str, float]


RESERVED = ("loss/", "grad_norm/", "confidence/", "val/", "test/")  # prefixes of the history's own columns


def _not_in_training(*_: Any) -> Any:
    raise RuntimeError("a model is trained by training.fit, which fills in State.forward, backward and step")


def identity(x: Any) -> Any:
    """All-reduce and broadcast of a single device."""
    return x


@dataclass
class State:
    """What a method may read, change and call while a model is trained.

    `forward(batch)`: the model's output with suppressed encoders suppressed (or cached);
    `backward(loss)`: add the gradients of a scalar (`retain_graph=True`: another loss of the same output
    follows); `step()`: modulate (`after_backward`), clip, one step of the optimizer, gradients gone.

    `rows(split)`: the store rows of train or val; `targets(rows)`: theirs, encoded; `batch(rows)`: these
    samples as they are stored, all modalities, no augmentation and no teachers; `evaluate(rows)`: the same in
    chunks, with the model's output in evaluation mode without gradient; `new_optimizer(parameters)`: another
    one by the same settings (for experiments of a method; it has no place in checkpoints);
    `mark_updated(modalities)`: call it after writing to encoders' weights by hand. `teachers`: m → its
    stored `feature` `[N, D]`, `logits`, `confidence` by store row, and the `model` itself.

    `kappa` is written by the trainer alone, from the schedule; methods record theirs by `log`.

    Where several `devices` share each batch, a method sees its own part of it: `place` in `whole(batch)`, the
    store rows of all of it. What it decides by must be of the whole: `sum(x)` adds up tensors over the
    devices, `mean(x)` makes the mean of the batch from the means of its parts, `agree(x)` is the first
    device's x. Random numbers outside of `forward` are the same on all devices."""

    model: MultimodalModel
    optimizer: optim.Optimizer
    task: Task
    epochs: int
    epoch: int = 0  # from 1 while training
    batch_size: int = 0  # samples a batch; where it is `auto`, what was found to fit
    active: tuple[str, ...] = ()  # the modalities whose encoders learn from this batch
    kappa: dict[str, float] = field(default_factory=dict)  # m → what SMP multiplies its encoder's gradient by
    stop: bool = False  # set it in `on_validation` to end training after this epoch
    teachers: Mapping[str, Any] = field(default_factory=dict)
    forward: Callable[[Batch], Output] = _not_in_training
    backward: Callable[..., None] = _not_in_training
    step: Callable[[], None] = _not_in_training
    rows: Callable[[str], Rows] = _not_in_training
    targets: Callable[[Rows], Tensor] = _not_in_training
    batch: Callable[[Rows], Batch] = _not_in_training
    evaluate: Callable[[Rows], Iterator[tuple[Batch, Output]]] = _not_in_training
    new_optimizer: Callable[[Iterable[nn.Parameter]], optim.Optimizer] = _not_in_training
    mark_updated: Callable[[Iterable[str]], None] = _not_in_training
    logged: dict[str, float | Tensor] = field(default_factory=dict)  # by `log`, of the current batch
    devices: int = 1
    place: slice = field(default_factory=lambda: slice(None))
    share: float = 1.0  # of the batch's samples that this device has
    index: Tensor | None = None  # store rows of the batch, of all devices
    sum: Callable[[Tensor], Tensor] = identity
    agree: Callable[[Any], Any] = identity

    def mean(self, x: Tensor) -> Tensor:
        """The batch mean `[…]` of this device's means x."""
        return x if self.devices == 1 else self.sum(x * self.share)

    def whole(self, batch: Batch) -> Tensor:
        """Store rows `[N]` of the batch, of all devices in their order."""
        return batch.index if self.index is None else self.index

    def log(self, name: str, value: float | Tensor) -> None:
        """Record a scalar for the current batch: column `name` of the history has its mean over the epoch's
        batches that logged it. `kappa/<modality>`: what the method multiplies an encoder's gradient by; the
        history multiplies it by SMP's κ, and counts 1 for batches that log none. A second value in one batch
        replaces the first. Raises ValueError for a name that the history writes itself."""
        if name.startswith(RESERVED):
            raise ValueError(f"{name!r} is a column of the history itself: log it by another name")
        self.logged[name] = value

    def unimodal_logits(self, output: Output) -> dict[str, Tensor]:
        """u: m → `[B, C]`, what each modality alone says, as the fusion defines it."""
        return {m: self.model.unimodal_logits(output.features, m) for m in self.model.modalities}


class Method:
    """The hooks, all optional. The docstring (the idea), `equation` and `source` go into docs/methods.md.

    `tasks`, `fusions` (None: any), `min_modalities`, `max_modalities` (None: any number), `works_with_smp`:
    what it is defined for; `undefined` (of tasks and fusions) and `no_smp` say why not, and the remedy.
    `by_modality`: parameters whose keys are modalities, `by_part`: or "multi", the whole. `exchange`: how the
    students' encoders exchange (`models/exchange.py`). `steps_itself`: it calls `state.step` several times a
    batch, so that there is nothing to accumulate. `distributed`: on several devices it is `exact` (what one
    device with the whole batch does, up to rounding), works with statistics of each device's part of a batch
    (`per device`; `not_exact` says which), or works on one alone (`no`; "": nobody has said). `no_sharding`:
    what it does that needs whole encoders on every device ("": nothing; weights and gradients of encoders
    may be DTensors, as they are with `compute.strategy: fsdp`).

    What a method keeps in attributes (tensors, numbers, lists, dictionaries, modules: running averages,
    prototypes, projections, the stage it is in) survives a kill by itself: `state_dict` takes all of them."""

    Parameters: ClassVar[type[MethodParameters]] = MethodParameters
    needs_teachers: ClassVar[bool] = False
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    fusions: ClassVar[tuple[str, ...] | None] = None
    min_modalities: ClassVar[int] = 1
    max_modalities: ClassVar[int | None] = None
    works_with_smp: ClassVar[bool] = True
    undefined: ClassVar[str] = ""
    no_smp: ClassVar[str] = "decides itself who learns when, so SMP can not be added"
    by_modality: ClassVar[tuple[str, ...]] = ()
    by_part: ClassVar[tuple[str, ...]] = ()
    exchange: ClassVar[str | None] = None
    steps_itself: ClassVar[bool] = False
    distributed: ClassVar[Literal["exact", "per device", "no", ""]] = ""
    not_exact: ClassVar[str] = ""
    no_sharding: ClassVar[str] = ""

    def __init__(self, parameters: MethodParameters | None = None) -> None:
        self.parameters = parameters if parameters is not None else self.Parameters()

    def check(self, context: MethodContext) -> None:
        """Raise ValueError with the reason and what works instead, where the method is undefined for the
        context. Called before any data are read."""
        name, names = type(self).__module__.rpartition(".")[2], context.modalities
        if context.task not in self.tasks:
            defined = f"{name} is defined for {' and '.join(self.tasks)}, not for {context.task}"
            raise ValueError(defined + self.undefined)
        if self.fusions is not None and context.fusion not in self.fusions:
            works = f"It works with: {', '.join(self.fusions)}"
            raise ValueError(f"{name} is not defined for fusion {context.fusion}. {works}{self.undefined}")
        if len(names) < self.min_modalities:
            raise ValueError(f"{name} compares modalities, and {names[0]} is the only one: say method=joint")
        if self.max_modalities is not None and len(names) > self.max_modalities:
            raise ValueError(
                f"{name} is defined for up to {self.max_modalities} modalities, the data set has "
                f"{len(names)} ({', '.join(names)}): leave some out"
            )
        if context.smp and not self.works_with_smp:
            raise ValueError(f"{name} {self.no_smp}: say smp=false")
        if context.accumulation > 1 and self.steps_itself:
            raise ValueError(
                f"{name} steps several times a batch, so none can be accumulated: say accumulation=1"
            )
        if context.devices > 1 and self.distributed in ("no", ""):
            why = self.not_exact or "its class does not say `distributed`, see docs/scaling.md"
            raise ValueError(f"{name} trains on one device ({why}): say compute.devices=1")
        if context.devices > 1:
            self.check_strategy(context.strategy)
        for parameter in (*self.by_modality, *self.by_part):
            allowed = (*(["multi"] if parameter in self.by_part else []), *names)
            for key, value in getattr(self.parameters, parameter).items():
                if key not in allowed:
                    raise ValueError(
                        f"{parameter}.{key} = {value:g}: there is no modality '{key}'."
                        f"{did_you_mean(key, allowed)} Allowed: {', '.join(allowed)}"
                    )

    def check_strategy(self, strategy: str) -> None:
        """Raise ValueError where `compute.strategy` shards encoders that it needs whole."""
        if strategy == "fsdp" and self.no_sharding:
            name = type(self).__module__.rpartition(".")[2]
            raise ValueError(
                f"compute.strategy = fsdp: {name} {self.no_sharding}. Allowed with {name}: "
                "compute.strategy=ddp"
            )

    def epochs(self, epochs: int) -> int:
        """How many of the recipe's epochs it takes; what trains nothing says 1 and leaves out all rows."""
        return epochs

    def phase(self, epoch: int, state: State) -> int:
        """The phase of the method (from 1, never falling) that `epoch` (from 1) ends in: a model of an
        earlier one than that of the last epoch is not finished, and not selected (`select_in`). By default
        the epochs before a `start_epoch`, in which a method does not act yet, are the first of two."""
        return 1 + (epoch >= getattr(self.parameters, "start_epoch", 1) > 1)

    def on_fit_start(self, state: State) -> None:
        """Called once, before `parameter_groups`: make modules here (torch's generator is seeded)."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer is given: by default one group, of the model and the modules of its own.

        A group may have an `lr` and a `factor` that may change: lr × factor holds in the next epoch."""
        own = [p for module in self.modules().values() for p in module.parameters()]
        return [{"params": [*model.parameters(), *own]}]

    def on_epoch_start(self, state: State) -> None:
        """Called before the first batch of an epoch."""

    def rows(self, rows: Rows, state: State) -> Rows:
        """The train rows of this epoch, before they are shuffled: repeat or leave out some to rewrite it."""
        return rows

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        """One batch: forward, loss, backward; the trainer steps after it (or after `accumulation` batches).

        Alternating methods go over the modalities here and call `state.backward` and `state.step` for each.
        Returns the terms of the loss by name, for the history."""
        terms = self.loss(state.forward(batch), batch, state)
        state.backward(reduce(add, terms.values()))
        return terms

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        """The terms of the loss, weighted, by name; their sum is minimised. Default: the task loss alone."""
        return {"task": state.task.loss(output.logits, batch.target)}

    def after_backward(self, state: State) -> None:
        """Modulate gradients here, before the optimizer steps."""

    def on_epoch_end(self, state: State) -> None:
        """Called after the last batch of an epoch, before validation."""

    def on_validation(self, validation: Validation, state: State) -> None:
        """Called after each epoch with what the model says of the validation split; never with test."""

    def predict(self, output: Output) -> Tensor:
        """The multimodal logits `[B, C]` that are evaluated."""
        return output.logits

    def modules(self) -> dict[str, nn.Module]:
        """Modules of its own, by attribute."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the parameters and functions (without state); of modules their own state."""
        own = {n: value for n, value in vars(self).items() if n != "parameters" and not callable(value)}
        return own | {name: module.state_dict() for name, module in self.modules().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        modules = self.modules()
        for name, value in state.items():
            if name in modules:
                modules[name].load_state_dict(value)
            else:
                setattr(self, name, value)
