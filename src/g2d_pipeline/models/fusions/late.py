"""Late fusion: the mean of a head a modality. The default, and that of all headline numbers."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Readout


class LateFusion(Fusion):
    """p = mean over m of W_m h^m + b_m. Unimodal logits: the modality's own head with its whole bias (paper
    and code).

    The heads are trained through their mean alone, as the authors' code does. `average="probabilities"`: p =
    log of the mean over m of softmax(W_m h^m + b_m), so that softmax(p) is that mean. Raises ValueError for
    it with one output."""

    heads_of_its_own = True

    def __init__(
        self,
        widths: dict[str, int],
        outputs: int,
        average: Literal["logits", "probabilities"] = "logits",
        unimodal_readout: Readout = "paper",
    ) -> None:
        super().__init__(widths, outputs, unimodal_readout)
        if average == "probabilities" and outputs == 1:
            raise ValueError("average = probabilities: a regression has none. Say average=logits")
        self.average = average
        self.heads = nn.ModuleDict({m: nn.Linear(width, outputs) for m, width in widths.items()})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        logits = torch.stack([head(features[m]) for m, head in self.heads.items()])
        if self.average == "probabilities":
            return torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(self.heads))
        return logits.mean(dim=0)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return cast(Tensor, self.heads[modality](features[modality]))
