"""FiLM: one modality scales and shifts the others, feature by feature (Perez et al. 2018; paper A.3)."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths, projections


class FiLMFusion(Fusion):
    """γ, β = linear(h^c); z = γ ⊙ h^m + β of each other modality m, averaged over them (k > 2: our
    definition); head. c is `condition`, by default the first modality. Unimodal logits: the others' features
    are zeros (paper A.5); the code lets each feature modulate itself and takes 1/k of the head's bias. Raises
    ValueError for an unknown condition and for k = 1."""

    min_modalities = 2
    modality_options = ("condition",)

    def __init__(
        self,
        widths: Widths,
        outputs: int,
        condition: str | None = None,
        width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(widths, outputs, **options)
        self.condition = condition if condition is not None else next(iter(widths))
        self.projections, common = projections(widths, width)
        self.film = nn.Linear(common, 2 * common)
        self.head = nn.Linear(common, outputs)

    def _modulated(self, by: Tensor, h: Tensor) -> Tensor:
        gamma, beta = self.film(by).chunk(2, dim=1)
        return torch.addcmul(beta, gamma, h)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        h = {m: self.projections[m](features[m]) for m in self.widths}
        by = h.pop(self.condition)
        modulated = torch.stack([self._modulated(by, other) for other in h.values()]).mean(dim=0)
        return cast(Tensor, self.head(modulated))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        if self.unimodal_readout == "paper":
            return super().unimodal_logits(features, modality)
        h = self.projections[modality](features[modality])
        return self.head_alone(self.head, self._modulated(h, h))
