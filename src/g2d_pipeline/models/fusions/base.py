"""What a fusion is: the features of all modalities → logits, and what one modality alone says."""

from collections.abc import Collection
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Readout = Literal["paper", "code"]
Widths = dict[str, int]


class Fusion(nn.Module):
    """`forward(features)`: modality → `[B, D_m]` gives logits `[B, C]`.

    `widths`: modality → D_m, in configuration order; `outputs`: C. `heads_of_its_own`: whether every modality
    has a head in it that is trained as such, so that its unimodal logits are those of a classifier.
    `adds_heads`: `forward` takes the features of some modalities alone, and leaves the others' heads out.
    `modality_options`: the options whose value is the name of a modality."""

    heads_of_its_own: ClassVar[bool] = False
    adds_heads: ClassVar[bool] = False
    min_modalities: ClassVar[int] = 1
    modality_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, widths: Widths, outputs: int, unimodal_readout: Readout = "paper") -> None:
        super().__init__()
        self.widths = dict(widths)
        self.outputs = outputs
        self.unimodal_readout = unimodal_readout

    def head_alone(self, head: nn.Module, x: Tensor, first: int = 0) -> Tensor:
        """Logits of a common `head` for one modality alone, x `[B, D]`, by its columns from `first` on. It
        gets all of the bias (our definition), or 1/k (the code)."""
        share = 1.0 if self.unimodal_readout == "paper" else 1.0 / len(self.widths)
        linear = cast(nn.Linear, head)
        return F.linear(x, linear.weight[:, first : first + x.shape[1]], linear.bias * share)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from `modality` alone. The default (paper A.5): the others' features are zeros."""
        return self.logits_without(features, features.keys() - {modality})

    def logits_without(self, features: dict[str, Tensor], absent: Collection[str]) -> Tensor:
        """Logits `[B, C]` where some modalities, not all, are absent: their heads are left out where logits
        are added up or averaged (`adds_heads`), else their features are zeros (paper A.5)."""
        if self.adds_heads:
            return cast(Tensor, self({m: f for m, f in features.items() if m not in absent}))
        zeroed = {m: torch.zeros_like(f) if m in absent else f for m, f in features.items()}
        return cast(Tensor, self(zeroed))


class SeparateHeads(Fusion):
    """Has a linear head a modality, `heads`, whose answer is the modality's unimodal logits."""

    heads_of_its_own = True

    def __init__(self, widths: Widths, outputs: int, **options: Any) -> None:
        super().__init__(widths, outputs, **options)
        self.heads = nn.ModuleDict({m: nn.Linear(width, outputs) for m, width in widths.items()})

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return cast(Tensor, self.heads[modality](features[modality]))


def projections(widths: Widths, width: int | None) -> tuple[nn.ModuleDict, int]:
    """To a common width (by default the greatest): a linear layer where D_m differs, else nothing."""
    common = width if width is not None else max(widths.values())
    layers = {m: nn.Identity() if d == common else nn.Linear(d, common) for m, d in widths.items()}
    return nn.ModuleDict(layers), common
