"""What the schedule and methods change about a step: gradients that are zero or held back, learning rates by
factor."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import optim

from g2d_pipeline.models import MultimodalModel


def zero_gradients(model: MultimodalModel) -> None:
    """`update: zero_grad`: a suppressed encoder's gradient is zero; momentum and decay still move it."""
    for parameter in model.encoders.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def freeze_conv_weights(model: MultimodalModel, active: Collection[str]) -> None:
    """`scope: conv_only`: convolution weights of suppressed encoders get no gradient; everything else learns."""
    for m, encoder in model.encoders.items():
        for parameter in encoder.parameters():
            if parameter.dim() == 4:
                parameter.requires_grad_(m in active)


def scale_group_lrs(optimizer: optim.Optimizer) -> None:
    """lr × factor for this epoch, where a method gave its groups factors; the schedule goes on from the lr
    itself."""
    for group in optimizer.param_groups:
        if group.get("factor", 1.0) != 1.0:
            group["own_lr"] = group["lr"]
            group["lr"] = group["lr"] * group["factor"]


def restore_group_lrs(optimizer: optim.Optimizer) -> None:
    """The inverse, exactly."""
    for group in optimizer.param_groups:
        if "own_lr" in group:
            group["lr"] = group.pop("own_lr")
