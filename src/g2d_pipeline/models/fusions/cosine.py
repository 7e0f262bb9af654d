"""Cosine fusion: what counts of a feature is its direction, not its norm (MMCosine, Xu et al. 2023)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths


class CosineFusion(Fusion):
    """l_c = Σ_m s·cos(f^m, W_c^m) with class weights W^m `[C, D_m]` without bias; s: `scale` (published: 15).

    Unimodal logits: the modality's own term, in both readouts. A feature of zeros says nothing: its logits
    are 0. Raises ValueError with one output: a regression has no classes."""

    heads_of_its_own = True

    def __init__(self, widths: Widths, outputs: int, scale: float = 15.0, **options: Any) -> None:
        super().__init__(widths, outputs, **options)
        if outputs == 1:
            raise ValueError(
                "it compares features with class weights, and a regression has no classes. Say fusion=sum"
            )
        self.scale = scale
        self.heads = nn.ModuleDict({m: nn.Linear(width, outputs, bias=False) for m, width in widths.items()})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.unimodal_logits(features, m) for m in self.widths]).sum(dim=0)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        weight = cast(Tensor, self.heads[modality].weight)
        return self.scale * F.linear(F.normalize(features[modality], dim=1), F.normalize(weight, dim=1))
