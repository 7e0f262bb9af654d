"""What a method is: a small object that the trainer asks for a loss and tells what happened.

A new method is one file in this folder (functions first: the equations, testable alone; then a class that says when
they act) and one YAML in `conf/base/methods/` that lists its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

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
    """`index` `[B]`: rows of the store; `inputs`: m → `[B, …]`; `target` `[B]`, encoded; `teachers` by modality."""

    index: Tensor
    inputs: dict[str, Tensor]
    target: Tensor
    teachers: dict[str, TeacherView] = field(default_factory=dict)


@dataclass
class State:
    """What a method may look at, and change, while a model is trained."""

    model: MultimodalModel
    optimizer: optim.Optimizer
    task: Task
    epochs: int
    epoch: int = 0  # from 1 while training
    active: tuple[str, ...] = ()  # the modalities whose encoders learn from this batch


class Method:
    """The hooks, all optional but `loss`. State that must survive a kill goes through `state_dict`."""

    Parameters: ClassVar[type[MethodParameters]] = MethodParameters
    needs_teachers: ClassVar[bool] = False

    def __init__(self, parameters: MethodParameters | None = None) -> None:
        self.parameters = parameters if parameters is not None else self.Parameters()

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        """The terms of the loss, weighted, by name; their sum is minimised. The default: the task loss alone."""
        return {"task": state.task.loss(output.logits, batch.target)}

    def after_backward(self, state: State) -> None:
        """Modulate gradients here, before the optimizer steps."""

    def on_epoch_start(self, state: State) -> None:
        """Called before the first batch of an epoch."""

    def on_epoch_end(self, state: State) -> None:
        """Called after the last batch of an epoch, before validation."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer is given: one group by default."""
        return [{"params": list(model.parameters())}]

    def predict(self, output: Output) -> Tensor:
        """The multimodal logits `[B, C]` that are evaluated."""
        return output.logits

    def state_dict(self) -> dict[str, Any]:
        """State of its own (running averages, prototypes, …) for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
