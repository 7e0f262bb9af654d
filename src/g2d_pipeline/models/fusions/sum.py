"""Sum fusion: a head a modality, added."""

import torch
from torch import Tensor

from g2d_pipeline.models.fusions.base import SeparateHeads


class SumFusion(SeparateHeads):
    """p = Σ_m W_m h^m + b_m: late fusion without the 1/k, so gradients are k times as large.

    Unimodal logits: the modality's own head (paper); the code takes 1/k of its bias."""

    adds_heads = True

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack([head(features[m]) for m, head in self.heads.items() if m in features]).sum(dim=0)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return self.head_alone(self.heads[modality], features[modality])
