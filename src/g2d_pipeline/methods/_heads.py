"""A linear head a modality, for methods that train one beside the fusion (`heads per modality` in
rivals.md)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.encoders import initialise


class UnimodalHeads(nn.Module):
    """u^m `[B, C]`: by the fusion's own head of m where it has one (late, sum), else by a linear head made
    here.

    Make it in `on_fit_start`, as an attribute of the method: then it is trained, saved and moved like the
    model."""

    def __init__(self, model: MultimodalModel, outputs: int) -> None:
        super().__init__()
        widths = {} if model.fusion.heads_of_its_own else model.fusion.widths
        self.heads = initialise(nn.ModuleDict({m: nn.Linear(width, outputs) for m, width in widths.items()}))

    def logits(self, model: MultimodalModel, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` of one modality from its feature `[B, D_m]`."""
        if modality in self.heads:
            return cast(Tensor, self.heads[modality](features[modality]))
        return model.unimodal_logits(features, modality)
