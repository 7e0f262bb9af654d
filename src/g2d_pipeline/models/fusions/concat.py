"""Concatenation: one head on all features side by side; their widths may differ."""

from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths


class ConcatFusion(Fusion):
    """p = W [h^1 … h^k] + b.

    Unimodal logits: the modality's columns of W and the bias, whole (our definition) or 1/k of it (code)."""

    def __init__(self, widths: Widths, outputs: int, **options: Any) -> None:
        super().__init__(widths, outputs, **options)
        self.head = nn.Linear(sum(widths.values()), outputs)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.head(torch.cat([features[m] for m in self.widths], dim=1)))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        before = takewhile(lambda m: m != modality, self.widths)
        return self.head_alone(self.head, features[modality], first=sum(self.widths[m] for m in before))
