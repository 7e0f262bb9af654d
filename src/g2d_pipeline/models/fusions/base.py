"""What a fusion is: the features of all modalities → logits, and what one modality alone says."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn

Readout = Literal["paper", "code"]
Widths = dict[str, int]


class Fusion(nn.Module):
    """`forward(features)`: modality → `[B, D_m]` gives logits `[B, C]`.

    `widths`: modality → D_m, in configuration order; `outputs`: C. `heads_of_its_own`: whether every modality
    has a head in it that is trained as such, so that its unimodal logits are those of a classifier.
    `adds_terms`: whether `forward` adds up, or averages, a term a modality, of those that `features` holds.
    `modality_options`: the options whose value is the name of a modality."""

    heads_of_its_own: ClassVar[bool] = False
    adds_terms: ClassVar[bool] = False
    min_modalities: ClassVar[int] = 1
    modality_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, widths: Widths, outputs: int, unimodal_readout: Readout = "paper") -> None:
        super().__init__()
        self.widths = dict(widths)
        self.outputs = outputs
        self.unimodal_readout = unimodal_readout

    @property
    def bias_share(self) -> float:
        """The share of a common bias that one modality alone has: all (our definition), or 1/k (the code)."""
        return 1.0 if self.unimodal_readout == "paper" else 1.0 / len(self.widths)

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from `modality` alone. The default (paper A.5): the others' features are zeros."""
        return self._with_zeros({modality: features[modality]})

    def partial_logits(self, features: dict[str, Tensor]) -> Tensor:
        """Logits `[B, C]` where only the modalities that `features` holds are there; the others are absent.

        All: as `forward`. One: its unimodal logits. Of several, a fusion that `adds_terms` adds, or averages,
        theirs; of any other the absent features are zeros (paper A.5). Raises ValueError for none."""
        if not features:
            raise ValueError("no modality is there")
        if len(features) == 1 < len(self.widths):
            return self.unimodal_logits(features, next(iter(features)))
        return cast(Tensor, self(features)) if self.adds_terms else self._with_zeros(features)

    def _with_zeros(self, features: dict[str, Tensor]) -> Tensor:
        """Logits where the features that are not given are zeros."""
        like = next(iter(features.values()))
        every = {
            m: features[m] if m in features else like.new_zeros(len(like), d) for m, d in self.widths.items()
        }
        return cast(Tensor, self(every))


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
