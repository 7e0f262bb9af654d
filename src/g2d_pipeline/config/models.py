"""The encoders (datasets.md §0.2, §4.4, §5.3) and fusions (paper A.3; g2d.md §8), and their settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from g2d_pipeline.config.base import BelowOne, Counts, Numbers, Strict
from g2d_pipeline.errors import did_you_mean

# Entry points of other packages' encoders and fusions, by name.
ENCODER_GROUP, FUSION_GROUP = "g2d_pipeline.encoders", "g2d_pipeline.fusions"


class External(Strict):
    """A plug-in by file, entry point or dotted path; its class is called with the keywords `options`."""

    name: str = ""
    options: dict[str, Any] = {}


def settings_by_name(union: Any) -> dict[str, Any]:
    """name → settings class of an annotated union whose last member is External, without that one."""
    return {c.model_fields["name"].default: c for c in get_args(get_args(union)[0])[:-1]}


@dataclass(frozen=True)
class ByName:
    """Annotates a union of settings classes, the last one External, from which `name` chooses.

    A word stands for the section `{name: word}`. `group`: of entry points, and the folder of `models` whose
    files without a settings class are plug-ins, too. `default`: the name where none is given. Raises
    ValueError for an unknown name, with the nearest one."""

    group: str
    default: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        *ours, external = get_args(source)
        known = {str(c.model_fields["name"].default): c for c in ours}

        def section(value: Any) -> Any:
            value = {"name": value} if isinstance(value, str) else value
            if not isinstance(value, dict):
                return value
            name, path = value.get("name", self.default), "or the dotted path of a module"
            if not isinstance(name, str):
                raise ValueError(f"its name is missing: one of {', '.join(known)}, {path}")
            if name in known or "." in name:
                return value
            names = [*dict.fromkeys([*known, *self._files()])]
            names += [] if name in names else [e.name for e in entry_points(group=self.group)]
            if name not in names:
                hint = did_you_mean(name, names)
                raise ValueError(f"allowed are {', '.join(names)}, {path}{hint and '.' + hint}")
            return value

        def tag(value: Any) -> str:
            name = value.get("name", self.default) if isinstance(value, dict) else getattr(value, "name", "")
            return name if name in known else external.__name__

        choices = {name: handler.generate_schema(c) for name, c in known.items()}
        choices[external.__name__] = handler.generate_schema(external)
        union = core_schema.tagged_union_schema(choices, tag)
        return core_schema.no_info_before_validator_function(section, union)

    def _files(self) -> list[str]:
        """The names of our files, as `plugins.files` has them: without importing them, or torch."""
        folder = Path(__file__).parents[1] / "models" / self.group.rpartition(".")[2]
        return sorted(f.stem for f in folder.glob("*.py") if f.stem != "base" and f.stem[0] != "_")


class _Encoder(Strict):
    """`initialisation`: `published` (§0.2): Xavier (linear layers) and Kaiming (convolutions); or `torch`."""

    initialisation: Literal["published", "torch"] = "published"


class SmallCNN(_Encoder):
    """A block a width: 3×3 convolution, batch norm, 2×2 max-pool, ReLU; then average pooling to `grid`².

    `stride`: of the first convolution. D = widths[-1] × `grid`² (fewer where the map is smaller). `grid: 1`
    loses positions, such as the pitch in a spectrogram, and small drifts of batch norm's running statistics
    flip the predictions (docs/results/spoken_mnist.md)."""

    name: Literal["small_cnn"] = "small_cnn"
    widths: Counts = [16, 32, 64]
    stride: Literal[1, 2] = 1
    grid: PositiveInt = 4


class _Pretrained(_Encoder):
    """`weights`: a local file (.safetensors, .pth, .pt; relative to the project) that the trunk starts from,
    whose content is part of fingerprints; None: drawn at random."""

    FILES: ClassVar[dict[str, str]]  # torchvision's names of weights → their files, the default last

    weights: str | None = Field(None, exclude_if=lambda file: file is None)

    @field_validator("weights")
    @classmethod
    def _weights_are_a_file(cls, value: str | None) -> str | None:
        if value is None or value.endswith((".safetensors", ".pth", ".pt")):
            return value
        known = cls.FILES | {"DEFAULT": list(cls.FILES.values())[-1]}
        if file := known.get(value.rpartition(".")[2].upper()):
            url, folder = f"https://download.pytorch.org/models/{file}", "data/01_raw/weights/"
            raise ValueError(
                f"nothing is downloaded at run time. Once, put {url} into, say, {folder}, and give weights: "
                f"{folder}{file}"
            )
        raise ValueError("a file that ends in .safetensors, .pth or .pt")


class ResNet18(_Pretrained):
    """torchvision's ResNet-18 trunk, any number of input channels, global average; 512 wide (§0.2)."""

    FILES = {"IMAGENET1K_V1": "resnet18-f37072fd.pth"}

    name: Literal["resnet18"] = "resnet18"


class MobileNetV2(_Pretrained):
    """torchvision's MobileNetV2 trunk, global average; 1280 wide (datasets.md §5.3)."""

    FILES = {"IMAGENET1K_V1": "mobilenet_v2-b0353104.pth", "IMAGENET1K_V2": "mobilenet_v2-7ebf99e0.pth"}

    name: Literal["mobilenet_v2"] = "mobilenet_v2"


class MLP(_Encoder):
    """Linear, `norm`, ReLU (and dropout) a width; the default is MIS-ME's table network (§5.3).

    `norm`: `batch` norm; `layer` norm, for small batches and where statistics of train do not hold; or
    `none`."""

    name: Literal["mlp"] = "mlp"
    widths: Counts = [256, 128, 64, 32, 16]
    dropout: Numbers = [0.3, 0.2, 0.1]
    norm: Literal["batch", "layer", "none"] = "batch"

    def _problems(self) -> Iterator[str]:
        if (n := len(self.dropout)) > len(self.widths):
            default = "" if "dropout" in self.model_fields_set else " by default"
            yield f"dropout has {n} values{default} for {len(self.widths)} widths: say dropout: []"
        if any(not 0 <= p < 1 for p in self.dropout):
            yield "dropout values lie in [0, 1)"


class Transformer(_Encoder):
    """A 1×1 convolution (of a text: an embedding) to `width`, then `layers` × `heads` of self-attention over
    the steps, padding masked (§4.4). `pool`: `mean` over the real steps, or the `first` (as published)."""

    name: Literal["transformer"] = "transformer"
    width: PositiveInt = 768
    layers: PositiveInt = 4
    heads: PositiveInt = 8
    feedforward: PositiveInt = 2048
    dropout: BelowOne = 0.1
    pool: Literal["mean", "first"] = "mean"

    def _problems(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"width ({self.width}) is not a multiple of heads ({self.heads})"


class Bag(_Encoder):
    """The mean of a text's token embeddings, `width` wide (0 without tokens); then linear, ReLU a width of
    `widths`, which may be empty. D is the last width. `dropout`: of the mean, and after every layer."""

    name: Literal["bag"] = "bag"
    width: PositiveInt = 64
    widths: Counts = [64]
    dropout: BelowOne = 0.0


class ExternalEncoder(_Encoder, External):
    """An encoder without settings of its own: the class of its trunk is called with (shape, **options)."""


EncoderSettings = Annotated[
    SmallCNN | ResNet18 | MobileNetV2 | MLP | Transformer | Bag | ExternalEncoder, ByName(ENCODER_GROUP)
]
ENCODERS: dict[str, type[_Encoder]] = settings_by_name(EncoderSettings)


class _Fusion(Strict):
    """`unimodal_readout`: the prediction from one modality, of the `paper` (A.5) or of the authors' `code`,
    which differ in the stand-in for the other modalities and in the share of the bias (see each class)."""

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
    """One modality, `condition` (None: the first), scales and shifts the others. `width`: to which modalities
    of another width are projected (None: the greatest)."""

    name: Literal["film"] = "film"
    condition: str | None = None
    width: PositiveInt | None = None


class BiGated(_Fusion):
    """A sigmoid of one modality, `gate` (None: the first), multiplies the others; `width` as of film."""

    name: Literal["bi_gated"] = "bi_gated"
    gate: str | None = None
    width: PositiveInt | None = None


class CrossAttention(_Fusion):
    """Every modality attends to the others. `heads`: of attention (None: 8, or 4 below a width of 64)."""

    name: Literal["cross_attention"] = "cross_attention"
    heads: PositiveInt | None = None
    width: PositiveInt | None = None
    dropout: BelowOne = 0.0


class Shared(_Fusion):
    """One head for all modalities (equal widths), the fusion of MLA and ReconBoost.

    `width`: encoders of other widths are projected to this or the `greatest` one (None: refused). `hidden`:
    widths of layers before the last (ReconBoost: 256). `combine`: the `sum` or `mean` of the modalities'
    logits, or `entropy`: the mean weighted by certainty (MLA); `entropy_of_batch`: with one weight for the
    whole batch, as in MLA's code."""

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
