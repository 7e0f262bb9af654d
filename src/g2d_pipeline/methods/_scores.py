"""Shared by several methods: when one acts, scores of modalities, bins of a regression's target."""

from typing import Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from g2d_pipeline.methods.base import MethodParameters, State
from g2d_pipeline.models import Output, Task


class Window(MethodParameters):
    """`start_epoch`, `end_epoch`: the first and last epoch, from 1, in which it acts (default: all)."""

    start_epoch: PositiveInt = 1
    end_epoch: PositiveInt | None = None

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.end_epoch is not None and self.end_epoch < self.start_epoch:
            raise ValueError(
                f"end_epoch = {self.end_epoch} is before start_epoch = {self.start_epoch}, so it never "
                f"acts: say an end_epoch of {self.start_epoch} or more, or null for the whole run"
            )
        return self

    def acts(self, epoch: int) -> bool:
        return self.start_epoch <= epoch and (self.end_epoch is None or epoch <= self.end_epoch)


def summed_scores(state: State, output: Output, target: Tensor) -> Tensor:
    """Σ_b ρ_b^m `[k]` of each modality alone on a batch: B times its score; float64, CPU, no gradient."""
    with torch.no_grad():
        return state.sum(sum_confidence(state.task, state.unimodal_logits(output), target))


def sum_confidence(task: Task, logits: dict[str, Tensor], target: Tensor) -> Tensor:
    """Σ_b ρ_b^m `[k]` of unimodal logits m → `[B, C]`; float64, on the CPU."""
    return torch.stack([task.confidence(u, target).double().sum() for u in logits.values()]).cpu()


def ratios(scores: Tensor, others: Literal["mean", "sum"] = "mean") -> Tensor:
    """r^m = s^m / mean of the others' s `[k]` (k = 2: the other's), or their `sum`. All 0: 1."""
    k, tiny = len(scores), torch.finfo(scores.dtype).tiny
    rest = (1 - torch.eye(k, dtype=scores.dtype, device=scores.device)) @ scores
    return scores.clamp_min(tiny) / (rest / (k - 1) if others == "mean" else rest).clamp_min(tiny)


def by_lead(scores: Tensor) -> list[int]:
    """The modalities' positions from the greatest score to the least; ties: the configuration's order.

    Random numbers are drawn in it, so that a modality's place and name do not decide which ones it gets."""
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    return order


def quantile_edges(target: Tensor, bins: int) -> Tensor:
    """The inner edges of so many quantile bins of a regression's target `[N]`, without repeated ones."""
    levels = np.arange(1, bins) / bins
    return torch.from_numpy(np.unique(np.quantile(target.cpu().numpy(), levels)))
