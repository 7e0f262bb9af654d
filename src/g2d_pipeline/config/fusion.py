"""The fusions and their settings (paper A.3; g2d.md §8). A word is enough for the defaults: `fusion: film`."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, Tag

from g2d_pipeline.config.base import Counts, Strict

FUSION_GROUP = "g2d_pipeline.fusions"  # of entry points: fusions of other packages, by name


class _Fusion(Strict):
    """`unimodal_readout`: how one modality alone is read from the fusion; `paper` (A.5) or the authors'
    `code`.

    They differ in what stands in for the other modalities and in the share of the bias: see each fusion's
    class."""

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

    `width`: common width of the features (left out: the greatest); modalities of another width are projected
    to it."""

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


Known = Late | Sum | Concat | FiLM | BiGated | CrossAttention | Shared | Cosine | Weighted
FUSIONS: dict[str, type[_Fusion]] = {of.model_fields["name"].default: of for of in get_args(Known)}


class ExternalFusion(_Fusion):
    """A fusion of another package: an entry point of the group `g2d_pipeline.fusions`, or a module's dotted
    path.

    `options`: what its class is given beside widths and outputs.
    """

    name: str = ""
    options: dict[str, Any] = {}


def _by_name(value: Any) -> Any:
    """`film` → `{name: film}`. Raises ValueError for a name that is nowhere, with the nearest one."""
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and name not in FUSIONS and "." not in name:
        known = [*FUSIONS, *(e.name for e in entry_points(group=FUSION_GROUP))]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f". Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"allowed are {', '.join(known)}, or the dotted path of a module{hint}")
    return {"name": value} if isinstance(value, str) else value


def _class_of(value: Any) -> str:
    name = value.get("name", "late") if isinstance(value, dict) else getattr(value, "name", "late")
    return name if name in FUSIONS else "outside"


FusionSettings = Annotated[
    Annotated[Late, Tag("late")]
    | Annotated[Sum, Tag("sum")]
    | Annotated[Concat, Tag("concat")]
    | Annotated[FiLM, Tag("film")]
    | Annotated[BiGated, Tag("bi_gated")]
    | Annotated[CrossAttention, Tag("cross_attention")]
    | Annotated[Shared, Tag("shared")]
    | Annotated[Cosine, Tag("cosine")]
    | Annotated[Weighted, Tag("weighted")]
    | Annotated[ExternalFusion, Tag("outside")],
    Discriminator(_class_of),
    BeforeValidator(_by_name),
]
