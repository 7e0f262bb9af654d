"""Late fusion: the mean of a head a modality. The default, and that of all headline numbers."""

import math
from typing import Any

import torch
from torch import Tensor

from g2d_pipeline.models.fusions.base import SeparateHeads, Widths


class LateFusion(SeparateHeads):
    """p = mean over m of W_m h^m + b_m. Unimodal logits: the modality's own head with its whole bias (paper
    and code). The heads are trained through their mean alone, as the authors' code does.
    `average="probabilities"`: p = log of the mean over m of softmax(W_m h^m + b_m), so that softmax(p) is
    that mean. Raises ValueError for it with one output."""

    adds_heads = True

    def __init__(self, widths: Widths, outputs: int, average: str = "logits", **options: Any) -> None:
        super().__init__(widths, outputs, **options)
        if average == "probabilities" and outputs == 1:
            raise ValueError("average = probabilities: a regression has none. Say average=logits")
        self.average = average

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        logits = torch.stack([head(features[m]) for m, head in self.heads.items() if m in features])
        if self.average == "probabilities":
            return torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(logits))
        return logits.mean(dim=0)
