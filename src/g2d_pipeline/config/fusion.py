"""The fusions and their settings (paper A.3; g2d.md §8); `fusion: film` has the defaults."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from g2d_pipeline.config.base import Counts, Strict
from g2d_pipeline.config.external import ByName, External, settings_by_name

FUSION_GROUP = "g2d_pipeline.fusions"  # of entry points: fusions of other packages, by name


class _Fusion(Strict):
    """`unimodal_readout`: how one modality is read from it; `paper` (A.5) or the authors' `code`. They
    differ in what stands in for the other modalities and in the share of the bias (see each class)."""

    unimodal_readout: Literal["paper", "code"] = "paper"


class Late(_Fusion):
    """The mean of a linear head a modality. `average`: of their `logits`, or of their `probabilities`."""

    name: Literal["late"] = "late"
    average: Literal["logits", "probabilities"] = "logits"


class Sum(_Fusion):
    """The sum of a linear head a modality."""

    name: Literal["sum"] = "sum"


class Concat(_Fusion):
    """One linear head on the concatenated features."""

    name: Literal["concat"] = "concat"


class FiLM(_Fusion):
    """One modality, `condition` (left out: the first), scales and shifts the others.

    `width`, to which modalities of another width are projected; left out: the greatest."""

    name: Literal["film"] = "film"
    condition: str | None = None
    width: PositiveInt | None = None


class BiGated(_Fusion):
    """A sigmoid of one modality, `gate` (left out: the first), multiplies the others; `width` as of film."""

    name: Literal["bi_gated"] = "bi_gated"
    gate: str | None = None
    width: PositiveInt | None = None


class CrossAttention(_Fusion):
    """Every modality attends to the others. `heads`: of attention (left out: 8, or 4 below a width of 64)."""

    name: Literal["cross_attention"] = "cross_attention"
    heads: PositiveInt | None = None
    width: PositiveInt | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Shared(_Fusion):
    """One head for all modalities (equal widths), the fusion of MLA and ReconBoost.

    `width`: where encoders differ in width, features are projected to this or the `greatest` one (left out:
    refused). `hidden`: widths of layers before the last (ReconBoost: 256). `combine`: the `sum` or `mean` of
    the modalities' logits, or `entropy`: the mean weighted by certainty (MLA); `entropy_of_batch`: as MLA's
    code does it, with one weight for the whole batch."""

    name: Literal["shared"] = "shared"
    width: PositiveInt | Literal["greatest"] | None = None
    hidden: Counts = []
    combine: Literal["sum", "mean", "entropy", "entropy_of_batch"] = "mean"


class Cosine(_Fusion):
    """MMCosine: the sum over modalities of `scale` · cos(feature, class weight)."""

    name: Literal["cosine"] = "cosine"
    scale: PositiveFloat = 15.0


class Weighted(_Fusion):
    """MIS-ME: heads a modality, added with learnt scalar weights that start at `start` (left out: 1 / k)."""

    name: Literal["weighted"] = "weighted"
    start: NonNegativeFloat | None = None


class ExternalFusion(_Fusion, External):
    """A fusion of another package: called with (widths, outputs, unimodal_readout=…, **options)."""


FusionSettings = Annotated[
    Late | Sum | Concat | FiLM | BiGated | CrossAttention | Shared | Cosine | Weighted | ExternalFusion,
    ByName(FUSION_GROUP, default="late"),
]
FUSIONS: dict[str, type[_Fusion]] = settings_by_name(FusionSettings)
