"""How far each modality is ahead of the others (OGM, OPM), and in which epochs a method acts."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from g2d_pipeline.methods.base import MethodContext, MethodParameters
from g2d_pipeline.models import Task


class Window(MethodParameters):
    """`start_epoch`, `end_epoch`: the first and the last epoch, from 1, in which it acts (left out: the whole
    run)."""

    start_epoch: PositiveInt = 1
    end_epoch: PositiveInt | None = None

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Window:
        if self.end_epoch is not None and self.end_epoch < self.start_epoch:
            raise ValueError(
                f"end_epoch = {self.end_epoch} is before start_epoch = {self.start_epoch}, so the method would never "
                f"act: say an end_epoch of {self.start_epoch} or more, or null for the whole run"
            )
        return self

    def acts(self, epoch: int) -> bool:
        return self.start_epoch <= epoch and (self.end_epoch is None or epoch <= self.end_epoch)


def check_several(method: str, context: MethodContext) -> None:
    """Raise ValueError where there is one modality alone: nobody to compare it with."""
    if len(context.modalities) < 2:
        raise ValueError(
            f"{method} compares modalities, and {context.modalities[0]} is the only one: say method=joint"
        )


def summed_scores(task: Task, logits: dict[str, Tensor], target: Tensor) -> Tensor:
    """Σ_b ρ_b^m `[k]` of unimodal logits m → `[B, C]`: B times the score s^m; float64, on the CPU."""
    return torch.stack([task.confidence(of, target).double().sum() for of in logits.values()]).cpu()


def ratios(scores: Tensor, others: Literal["mean", "sum"] = "mean") -> Tensor:
    """r^m = s^m / mean of the others' s `[k]` (k = 2: the other's), or their `sum`. 0 where all scores are
    0."""
    k = len(scores)
    rest = (1 - torch.eye(k, dtype=scores.dtype)) @ scores
    return scores / (rest / (k - 1) if others == "mean" else rest).clamp_min(torch.finfo(scores.dtype).tiny)


def by_lead(scores: Tensor) -> list[int]:
    """The modalities' positions from the greatest score to the least; ties: the configuration's order.

    Random numbers are drawn in it, so that what a modality is given depends on neither its place nor its
    name."""
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    return order
