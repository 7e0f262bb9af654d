"""Fusion modules: the features of all modalities → logits `[B, C]` (paper A.3). A new one is a class and a line below.

Every fusion defines `unimodal_logits(features, m)`: what the model says from modality m alone. Analyses and half of
the methods need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g2d_pipeline.models.encoders import initialise


class Fusion(nn.Module):
    """`forward(features)`: dict of `[B, D_m]` → logits `[B, C]`."""

    def __init__(self, widths: dict[str, int], outputs: int) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.outputs = outputs

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from the feature of `modality` alone."""
        raise TypeError(f"{type(self).__name__} does not define unimodal_logits")


class LateFusion(Fusion):
    """p = mean over m of W_m h^m + b_m. Unimodal logits: the modality's own head, with its whole bias."""

    def __init__(self, widths: dict[str, int], outputs: int) -> None:
        super().__init__(widths, outputs)
        self.heads = nn.ModuleDict({m: nn.Linear(width, outputs) for m, width in widths.items()})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack([head(features[m]) for m, head in self.heads.items()]).mean(dim=0)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return cast(Tensor, self.heads[modality](features[modality]))


class ConcatFusion(Fusion):
    """p = W [h^1 … h^k] + b. Unimodal logits: the modality's columns of W and the whole bias b (our definition)."""

    def __init__(self, widths: dict[str, int], outputs: int) -> None:
        super().__init__(widths, outputs)
        self.head = nn.Linear(sum(widths.values()), outputs)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.head(torch.cat([features[m] for m in self.widths], dim=1)))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        names = list(self.widths)
        start = sum(self.widths[m] for m in names[: names.index(modality)])
        columns = self.head.weight[:, start : start + self.widths[modality]]
        return F.linear(features[modality], columns, self.head.bias)


FUSIONS: dict[str, Callable[[dict[str, int], int], Fusion]] = {"late": LateFusion, "concat": ConcatFusion}


def build_fusion(name: str, widths: dict[str, int], outputs: int) -> Fusion:
    """The fusion called `name` over features of the given widths (in configuration order), initialised as published."""
    return initialise(FUSIONS[name](widths, outputs))
