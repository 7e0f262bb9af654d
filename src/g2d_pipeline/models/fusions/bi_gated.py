"""Gated fusion: one modality opens and closes the features of the others (Kiela et al. 2018; paper A.3)."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths


class BiGatedFusion(Fusion):
    """z^m = linear_m(h^m), of one width; p = head(sigmoid(z^g) ⊙ Σ_{m ≠ g} z^m) (the sum for k > 2: our
    definition). g is `gate`, by default the first modality. Unimodal logits: the others' features are zeros
    (paper A.5); the code puts the projected feature alone through the head, with 1/k of its bias."""

    min_modalities = 2
    modality_options = ("gate",)

    def __init__(
        self, widths: Widths, outputs: int, gate: str | None = None, width: int | None = None, **options: Any
    ) -> None:
        super().__init__(widths, outputs, **options)
        self.gate = gate if gate is not None else next(iter(widths))
        common = width if width is not None else max(widths.values())
        self.projections = nn.ModuleDict({m: nn.Linear(d, common) for m, d in widths.items()})
        self.head = nn.Linear(common, outputs)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        z = {m: self.projections[m](features[m]) for m in self.widths}
        gate = z.pop(self.gate).sigmoid()
        return cast(Tensor, self.head(gate * torch.stack(list(z.values())).sum(dim=0)))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        if self.unimodal_readout == "paper":
            return super().unimodal_logits(features, modality)
        return self.head_alone(self.head, self.projections[modality](features[modality]))
