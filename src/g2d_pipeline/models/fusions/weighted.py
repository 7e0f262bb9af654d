"""Weighted fusion: a head a modality, added with learnt scalar weights (MIS-ME)."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import SeparateHeads, Widths


class WeightedFusion(SeparateHeads):
    """p = Σ_m w_m p_m with p_m = W_m h^m + b_m and w_m learnt, from `start` on (left out: 1 / k, which is
    late). MIS-ME's code has the weights on the features, before its head. Unimodal logits: the modality's own
    head without its weight, p_m, in both readouts (our definition). Weights act before any sigmoid."""

    adds_heads = True

    def __init__(self, widths: Widths, outputs: int, start: float | None = None, **options: Any) -> None:
        super().__init__(widths, outputs, **options)
        first = start if start is not None else 1.0 / len(widths)
        self.weights = nn.ParameterDict({m: nn.Parameter(torch.tensor(float(first))) for m in widths})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        heads = ((m, head) for m, head in self.heads.items() if m in features)
        return torch.stack([self.weights[m] * head(features[m]) for m, head in heads]).sum(dim=0)

    def logits_without(self, features: dict[str, Tensor], absent: Collection[str]) -> Tensor:
        """The weights that are left sum to what all of them do (our definition; where none is below 0), so
        that equal weights are late fusion here, too."""
        logits = super().logits_without(features, absent)
        weights = {m: w.item() for m, w in self.weights.items()}
        left = [w for m, w in weights.items() if m not in absent]
        return logits * (sum(weights.values()) / sum(left)) if min(weights.values()) > 0 else logits
