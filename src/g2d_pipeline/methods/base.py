"""What a method is: a small object that the trainer asks for a loss and tells what happened.

A new method is one file in this folder (functions first: the equations, testable alone; then a class that says when
they act) and one YAML in `conf/base/methods/` that lists its parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn, optim

from g2d_pipeline.config import Strict
from g2d_pipeline.models import MultimodalModel, Output, Task


class MethodParameters(Strict):
    """The hyper-parameters of a method; subclasses add fields with their allowed ranges."""


@dataclass(frozen=True)
class TeacherView:
    """What one teacher says of the samples of a batch: feature `[B, D]`, logits `[B, C]`, confidence ρ `[B]`."""

    feature: Tensor
    logits: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Batch:
    """`index` `[B]`: rows of the store; `inputs`: m → `[B, …]`; `target` `[B]`, encoded; `teachers` by modality.

    `features`: m → `[B, D_m]` of the encoders that rest in this epoch: they are remembered, and the inputs of these
    modalities are not read. `teachers` is empty where neither the method nor the schedule asks for it.
    """

    index: Tensor
    inputs: dict[str, Tensor]
    target: Tensor
    teachers: dict[str, TeacherView] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)


def _outside_training(*_: Any) -> Any:
    raise RuntimeError("a model is trained by training.fit, which fills in State.forward, backward and step")


@dataclass
class State:
    """What a method may look at, and change, while a model is trained; and the three things it may ask for.

    `forward(batch)`: the model's output with suppressed encoders suppressed (or remembered); `backward(loss)`: add
    the gradients of a scalar; `step()`: modulate (`after_backward`), clip, one step of the optimizer, gradients gone.
    """

    model: MultimodalModel
    optimizer: optim.Optimizer
    task: Task
    epochs: int
    epoch: int = 0  # from 1 while training
    active: tuple[str, ...] = ()  # the modalities whose encoders learn from this batch
    forward: Callable[[Batch], Output] = _outside_training
    backward: Callable[[Tensor], None] = _outside_training
    step: Callable[[], None] = _outside_training


class Method:
    """The hooks, all optional.

    What a method keeps in attributes of its own (tensors, numbers, lists, dictionaries, modules: running averages,
    prototypes, projections, the stage it is in) survives a kill by itself: `state_dict` takes all of them.
    """

    Parameters: ClassVar[type[MethodParameters]] = MethodParameters
    needs_teachers: ClassVar[bool] = False

    def __init__(self, parameters: MethodParameters | None = None) -> None:
        self.parameters = parameters if parameters is not None else self.Parameters()

    def on_fit_start(self, state: State) -> None:
        """Called once, before `parameter_groups`: make modules of its own here (torch's generator is seeded)."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer is given: one group by default. Modules of its own belong here too."""
        return [{"params": list(model.parameters())}]

    def on_epoch_start(self, state: State) -> None:
        """Called before the first batch of an epoch."""

    def rows(self, rows: npt.NDArray[np.int64], state: State) -> npt.NDArray[np.int64]:
        """The train rows of this epoch, before they are shuffled: repeat or leave out some to rewrite the epoch."""
        return rows

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        """One batch: forward, loss, backward; the trainer steps after it (or after `accumulation` batches).

        Alternating methods go over the modalities here and call `state.backward` and `state.step` for each. Returns
        the terms of the loss by name, for the history.
        """
        terms = self.loss(state.forward(batch), batch, state)
        total, *others = terms.values()
        for term in others:
            total = total + term
        state.backward(total)
        return terms

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        """The terms of the loss, weighted, by name; their sum is minimised. The default: the task loss alone."""
        return {"task": state.task.loss(output.logits, batch.target)}

    def after_backward(self, state: State) -> None:
        """Modulate gradients here, before the optimizer steps."""

    def on_epoch_end(self, state: State) -> None:
        """Called after the last batch of an epoch, before validation."""

    def predict(self, output: Output) -> Tensor:
        """The multimodal logits `[B, C]` that are evaluated."""
        return output.logits

    def modules(self) -> dict[str, nn.Module]:
        """Modules of its own, by attribute."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the parameters and functions (which have no state), modules as their own state."""
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
