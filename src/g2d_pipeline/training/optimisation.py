"""What moves the weights: the optimizer, its learning rate epoch by epoch, and their running average."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from g2d_pipeline import config
from g2d_pipeline.errors import ConfigError

FUSED = ("cpu", "cuda")  # elsewhere torch chooses


def build_optimizer(
    settings: config.OptimizerSettings, groups: list[dict[str, Any]], device: torch.device
) -> optim.Optimizer:
    """SGD, Adam or AdamW over the method's parameter `groups`; a group's own lr, where it has one, is kept.

    torch's fused kernels (the fastest measured, docs/performance.md) need `prepare_fused_step`."""
    kind: Any = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[settings.name]
    fused = True if device.type in FUSED else None
    groups = [dict(group) for group in groups]  # torch writes its defaults into them
    optimizer: optim.Optimizer = kind(groups, **settings.model_dump(exclude={"name"}), fused=fused)
    if fused:
        optimizer.register_step_pre_hook(prepare_fused_step)
    return optimizer


def scale_lr(
    optimizer: optim.Optimizer, rule: Literal["none", "linear", "sqrt"], devices: int, before: int = 1
) -> None:
    """Adjust the learning rates to the batches of `devices` instead of `before` devices (`scale_lr`)."""
    factor = {"none": 1.0, "linear": devices / before, "sqrt": math.sqrt(devices) / math.sqrt(before)}[rule]
    for group in optimizer.param_groups:
        group["lr"] *= factor


def prepare_fused_step(optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Before a step: make the parameters that have a gradient fit for torch's fused kernels.

    - Fused SGD takes the momentum of a group to be there for all or for none, but an encoder that was
      suppressed begins later than the others (TypeError), and it leaves the memory of a new momentum
      uninitialised where loss scaling skips the first step. Momentum zero gives what the definition gives: 0
      · momentum + gradient = gradient.
    - On the CPU the kernels walk through memory without regard to strides: a gradient or a state in another
      memory format than its parameter (contiguous, channels_last) would silently go to the wrong places."""
    for group in optimizer.param_groups:
        momentum = group.get("momentum")
        for p in group["params"]:
            if p.grad is None:
                continue
            state, strides = optimizer.state[p], p.stride()  # mostly those of all: cheap to see
            if momentum and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(p)
            if p.grad.stride() != strides and not _same_layout(p.grad, p):
                p.grad = torch.empty_like(p).copy_(p.grad)
            for name, value in state.items():
                if not isinstance(value, Tensor) or value.stride() == strides or value.shape != p.shape:
                    continue
                if not _same_layout(value, p):
                    state[name] = torch.empty_like(p).copy_(value)


def _same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory in one order (dimensions of size 1 do not tell)."""
    strides_a, strides_b = a.stride(), b.stride()
    return strides_a == strides_b or all(
        n == 1 or s == t for n, s, t in zip(a.shape, strides_a, strides_b, strict=True)
    )


# ---------------------------------------------------------------------------------------------- learning rate
class LearningRate:
    """The lr of every group: a linear climb over `warmup` epochs, then the schedule, counted from there.

    Epoch i of the climb, from 1, has lr · i / (warmup + 1). The plateau schedule counts the epochs whose
    validation task loss is not at least 0.01 % below the best so far, and lowers lr when they exceed
    `patience`. Raises ConfigError where the warm-up leaves no epoch, or a group's lr is below `min_lr`."""

    def __init__(self, settings: config.LRSchedule, optimizer: optim.Optimizer, epochs: int) -> None:
        self.optimizer, self.warmup = optimizer, settings.warmup
        self.epoch = 0  # epochs done
        self.full: list[float] = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        if self.warmup >= epochs:
            raise ConfigError(
                f"lr_schedule.warmup = {self.warmup} (epochs {epochs}): the learning rate would not reach "
                f"its full value before the training ends. Shorten it to {max(epochs - 1, 0)} at most, or "
                "train for more epochs."
            )
        if (lowest := getattr(settings, "min_lr", 0.0)) > min(self.full):
            raise ConfigError(
                f"lr_schedule.min_lr = {lowest:g} exceeds the learning rate {min(self.full):g}: a schedule "
                "only lowers it. Say a smaller min_lr or a greater lr."
            )
        self.schedule: lr_scheduler.LRScheduler | None = None
        match settings:
            case config.StepSchedule():
                self.schedule = lr_scheduler.StepLR(optimizer, settings.every, settings.gamma)
            case config.MultiStepSchedule():
                self.schedule = lr_scheduler.MultiStepLR(optimizer, settings.milestones, settings.gamma)
            case config.CosineSchedule():
                decay = epochs - self.warmup
                self.schedule = lr_scheduler.CosineAnnealingLR(optimizer, decay, settings.min_lr)
            case config.PlateauSchedule(gamma=gamma, patience=patience, min_lr=least):
                self.schedule = lr_scheduler.ReduceLROnPlateau(
                    optimizer, factor=gamma, patience=patience, min_lr=least, eps=0.0
                )
        self.climb: lr_scheduler.LRScheduler | None = None
        if self.warmup:  # made last: it sets the lr of the first epoch
            self.climb = lr_scheduler.LinearLR(optimizer, 1 / (self.warmup + 1), total_iters=self.warmup)
        for scheduler in (self.schedule, self.climb):
            if scheduler is not None:
                # From its second step on torch does not ask whether the optimizer ever stepped, and warn: an
                # epoch may well pass without a step (loss scaling skips those that overflow).
                scheduler.load_state_dict({"_step_count": 2})

    def step(self, val_loss: float) -> None:
        """Set the lr of the next epoch; to be called once after each epoch with its validation task loss."""
        self.epoch += 1
        if self.climb is not None and self.epoch <= self.warmup:
            self.climb.step()
            if self.epoch == self.warmup:
                self._set(self.full)  # exactly, without the climb's rounding
        elif isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(val_loss)
        elif self.schedule is not None:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists: epochs done, each group's lr, and what the plateau schedule has seen."""
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "lr": [float(g["lr"]) for g in self.optimizer.param_groups],
        }
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            state["bad_epochs"] = self.schedule.num_bad_epochs
            if math.isfinite(self.schedule.best):  # JSON has no infinity
                state["best"] = self.schedule.best
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse, before or after that of the optimizer. Raises ValueError for other groups."""
        self._set(state["lr"])
        self.epoch = state["epoch"]
        if self.climb is not None:
            self.climb.last_epoch = min(self.epoch, self.warmup)
        if self.schedule is not None:
            self.schedule.last_epoch = max(self.epoch - self.warmup, 0)
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.num_bad_epochs = state["bad_epochs"]
            self.schedule.best = state.get("best", math.inf)

    def _set(self, lrs: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr


def scale_group_lrs(optimizer: optim.Optimizer) -> None:
    """lr × factor for this epoch, where a method gave its groups factors."""
    for group in optimizer.param_groups:
        if group.get("factor", 1.0) != 1.0:
            group["own_lr"] = group["lr"]
            group["lr"] = group["lr"] * group["factor"]


def restore_group_lrs(optimizer: optim.Optimizer) -> None:
    """The inverse, exactly."""
    for group in optimizer.param_groups:
        if "own_lr" in group:
            group["lr"] = group.pop("own_lr")


# ---------------------------------------------------------------------------------------------------- average
class Average:
    """`module` is the model that is evaluated and kept: with a `decay`, 0 < decay < 1, an exponential moving
    average of the weights, e₁ = w₁, then e ← decay · e + (1 − decay) · w; with None the model itself.

    Buffers (running statistics of batch norm) are copied. The average is in evaluation mode, without
    gradients."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self._average: AveragedModel | None = None
        self.module: Any = model
        if decay is not None:
            self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
            self.module = self._average.module
            self.module.requires_grad_(False).eval().zero_grad(set_to_none=True)

    def update(self, model: nn.Module) -> None:
        """Call it after each step of the optimizer."""
        if self._average is not None:
            self._average.update_parameters(model)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average.state_dict()) if self._average is not None else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self._average is not None:
            self._average.load_state_dict(state)
