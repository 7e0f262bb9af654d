"""Every parameter as a pydantic model: the only place that knows defaults and allowed values.

Nothing here imports torch or Kedro, so that a run with nothing to do starts at once. How files, method defaults and
`--params` are merged into these models is the business of `resolve.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

Task = Literal["classification", "regression"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Fraction = Annotated[float, Field(ge=0, le=1)]


def split_slashes(value: Any) -> Any:
    """`8/16` → `["8", "16"]`, a single value → a list of one: Kedro's `--params` cannot carry commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split("/")]
    return value if isinstance(value, list | tuple) else [value]


Names = Annotated[list[str], BeforeValidator(split_slashes)]
Counts = Annotated[list[PositiveInt], BeforeValidator(split_slashes)]
Seeds = Annotated[list[NonNegativeInt], BeforeValidator(split_slashes), Field(min_length=1)]
Numbers = Annotated[list[float], BeforeValidator(split_slashes)]


class Strict(BaseModel):
    """Unknown keys, infinities and changes after validation are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


# --------------------------------------------------------------------------------------------------------- encoders
class SmallCNN(Strict):
    """A block a width: 3×3 convolution, batch norm, 2×2 max-pool, ReLU; then the means over a `grid` × `grid` raster.

    `stride`: of the first convolution. D = widths[-1] × grid² (fewer where the map is smaller than the raster). With
    `grid: 1` the place of a pattern is lost, the pitch in a spectrogram above all, and small drifts of batch norm's
    running statistics flip the predictions (docs/results/spoken_mnist.md).
    """

    name: Literal["small_cnn"] = "small_cnn"
    widths: Counts = [16, 32, 64]
    stride: Literal[1, 2] = 1
    grid: PositiveInt = 4


class _Pretrained(Strict):
    """`weights`: a local file (.safetensors, .pth, .pt) that the trunk starts from, or nothing: drawn at random."""

    FILES: ClassVar[dict[str, str]]  # torchvision's names for weights → the files they stand for, the default last

    weights: str | None = None

    @model_serializer(mode="wrap")
    def _plain_without_weights(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value is not None}

    @field_validator("weights")
    @classmethod
    def _weights_are_a_file(cls, value: str | None) -> str | None:
        if value is None or value.endswith((".safetensors", ".pth", ".pt")):
            return value
        known = cls.FILES | {"DEFAULT": list(cls.FILES.values())[-1]}
        if file := known.get(value.rpartition(".")[2].upper()):
            raise ValueError(
                f"nothing is downloaded at run time. Once, put https://download.pytorch.org/models/{file} into, say, "
                f"data/01_raw/weights/, and give weights: data/01_raw/weights/{file}"
            )
        raise ValueError("a file that ends in .safetensors, .pth or .pt")


class ResNet18(_Pretrained):
    """torchvision's ResNet-18 trunk, any number of input channels, global average; 512 wide (datasets.md §0.2)."""

    FILES = {"IMAGENET1K_V1": "resnet18-f37072fd.pth"}

    name: Literal["resnet18"] = "resnet18"


class MobileNetV2(_Pretrained):
    """torchvision's MobileNetV2 trunk, global average; 1280 wide (datasets.md §5.3)."""

    FILES = {"IMAGENET1K_V1": "mobilenet_v2-b0353104.pth", "IMAGENET1K_V2": "mobilenet_v2-7ebf99e0.pth"}

    name: Literal["mobilenet_v2"] = "mobilenet_v2"


class MLP(Strict):
    """Linear, batch norm, ReLU (and dropout where given) a width; the default is MIS-ME's table network (§5.3)."""

    name: Literal["mlp"] = "mlp"
    widths: Counts = [256, 128, 64, 32, 16]
    dropout: Numbers = [0.3, 0.2, 0.1]

    @model_validator(mode="after")
    def _dropout_fits(self) -> Self:
        if len(self.dropout) > len(self.widths):
            raise ValueError(f"dropout has {len(self.dropout)} values for {len(self.widths)} widths")
        if any(not 0 <= p < 1 for p in self.dropout):
            raise ValueError("dropout values lie in [0, 1)")
        return self


class Transformer(Strict):
    """A 1×1 convolution to `width`, then `layers` × `heads` of self-attention over the steps of a sequence (§4.4).

    `pool`: `mean` over the real steps, or the `first` step (as published). Padding is masked: it changes nothing.
    """

    name: Literal["transformer"] = "transformer"
    width: PositiveInt = 768
    layers: PositiveInt = 4
    heads: PositiveInt = 8
    feedforward: PositiveInt = 2048
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    pool: Literal["mean", "first"] = "mean"

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) is not a multiple of heads ({self.heads})")
        return self


EncoderSettings = Annotated[SmallCNN | ResNet18 | MobileNetV2 | MLP | Transformer, Field(discriminator="name")]


# ------------------------------------------------------------------------------------------------------- modalities
class AudioFeatures(Strict):
    """A recording → a log-magnitude spectrogram `[1, F, T]`.

    The order of the steps: mono, resample to `sample_rate`, cut or `fill` to `seconds` (zeros behind, or the recording
    over and over), `clamp` to [-1, 1], divide by the peak, add white noise of standard deviation `noise` (drawn once
    per recording from `noise_seed`), |STFT| (Hann window, centred), optional mel bands, log(· + 1e-7).
    """

    kind: Literal["audio"] = "audio"
    sample_rate: PositiveInt = 16_000
    seconds: PositiveFloat = 1.0
    fill: Literal["zeros", "repeat"] = "zeros"
    clamp: bool = False
    peak_normalise: bool = True
    noise: NonNegativeFloat = 0.0
    noise_seed: NonNegativeInt = 0
    n_fft: Annotated[int, Field(ge=16)] = 256
    hop_length: PositiveInt = 128
    n_mels: NonNegativeInt = 0  # 0: the linear spectrogram

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length ({self.hop_length}) exceeds n_fft ({self.n_fft}): sound would be lost")
        return self


class ImageFeatures(Strict):
    """An image → `[C, H, W]` bytes, or floats where `pca_energy` is set or rows of an array file of floats are read.

    Resized to `size` ignoring the aspect ratio (bilinear, antialiased). `pca_energy`: keep the largest number of
    principal components (fitted on train) whose cumulative variance stays at or below this share, at least one, and
    do not add the mean back (AV-MNIST, datasets.md §2.1). `mean`/`std`: the normaliser in units of [0, 1] pixels (or of
    the array's own, where it holds floats), one value a channel; left out: measured on train.
    """

    kind: Literal["image"] = "image"
    size: Annotated[list[PositiveInt], BeforeValidator(split_slashes), Field(min_length=1, max_length=2)] = [224]
    channels: Literal[1, 3] = 3
    pca_energy: Annotated[float, Field(gt=0, le=1)] | None = None
    mean: Numbers | None = None
    std: Annotated[list[PositiveFloat], BeforeValidator(split_slashes)] | None = None

    @model_validator(mode="after")
    def _normaliser_fits(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither (then they are measured on train)")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{key} has {len(values)} values for {self.channels} channels")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        return self.size[0], self.size[-1]


class TabularFeatures(Strict):
    """Numeric columns → `[F]` floats: blanks become the train mean, then standardised by train mean and std (§5.2)."""

    kind: Literal["tabular"] = "tabular"
    columns: Annotated[list[str], BeforeValidator(split_slashes), Field(min_length=1)]


class VideoFeatures(Strict):
    """A clip (a file, or a folder of pictures) → bytes `[C, T, H, W]`: `frames` pictures, resized like images.

    `pick`: `even`: spread evenly over the clip's length; `published`: of one picture a second (the frame rate rounded
    down), those that the authors' code draws with its fixed seed (datasets.md §1.3, §3.3). `mean`/`std`: as of images.
    """

    kind: Literal["video"] = "video"
    frames: PositiveInt = 3
    pick: Literal["even", "published"] = "even"
    size: Annotated[list[PositiveInt], BeforeValidator(split_slashes), Field(min_length=1, max_length=2)] = [224]
    mean: Numbers | None = None
    std: Annotated[list[PositiveFloat], BeforeValidator(split_slashes)] | None = None

    @model_validator(mode="after")
    def _normaliser_fits(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither (then they are measured on train)")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"{key} has {len(values)} values for 3 channels")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        return self.size[0], self.size[-1]


class SequenceFeatures(Strict):
    """An array file `[L, F]` (or a row of one `[N, L, F]`) → floats `[F + 1, steps]`: F features and a row that is 1
    where a step is real.

    Longer sequences lose their end, shorter ones are padded with zeros behind. `cut_leading_zeros`: steps of zeros
    before the first other one are padding and cut. Steps at the end that are NaN throughout are padding, too; other not
    finite values become 0 and are counted.
    """

    kind: Literal["sequence"] = "sequence"
    steps: PositiveInt = 50
    cut_leading_zeros: bool = False


class VectorFeatures(Strict):
    """An array file `[F]` (or a row of one `[N, F]`) → floats `[F]`, standardised on train by the normaliser."""

    kind: Literal["vector"] = "vector"


FeatureSettings = Annotated[
    AudioFeatures | ImageFeatures | TabularFeatures | VideoFeatures | SequenceFeatures | VectorFeatures,
    Field(discriminator="kind"),
]


class AudioAugment(Strict):
    """Random changes of a training batch of spectrograms `[B, C, F, T]`, drawn for each sample in each epoch.

    `time_masks`, `frequency_masks`: how many stretches of up to `time_width` frames or `frequency_width` bins become
    the train mean; `noise`: standard deviation of Gaussian noise, in standard deviations of the modality on train.
    """

    kind: Literal["audio"] = "audio"
    time_masks: NonNegativeInt = 0
    time_width: PositiveInt = 20
    frequency_masks: NonNegativeInt = 0
    frequency_width: PositiveInt = 10
    noise: NonNegativeFloat = 0.0


class ImageAugment(Strict):
    """Random changes of a training batch of images `[B, C, H, W]`, drawn for each sample in each epoch.

    `crop`: the least and the greatest share of the area that a random resized crop keeps (published: 0.08/1);
    `crop_ratio`: its least and greatest width ÷ height; `flip`: the probability of a left-right flip; `noise`: as of
    audio.
    """

    kind: Literal["image"] = "image"
    crop: Annotated[list[PositiveFloat], BeforeValidator(split_slashes), Field(min_length=2, max_length=2)] | None = (
        None
    )
    crop_ratio: Annotated[list[PositiveFloat], BeforeValidator(split_slashes), Field(min_length=2, max_length=2)] = [
        0.75,
        4 / 3,
    ]
    flip: Fraction = 0.0
    noise: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for key, values in (("crop", self.crop), ("crop_ratio", self.crop_ratio)):
            if values is not None and values[0] > values[1]:
                raise ValueError(f"{key} is least/greatest, in this order: {values[0]:g} exceeds {values[1]:g}")
        if self.crop is not None and self.crop[1] > 1:
            raise ValueError(f"crop is a share of the area: {self.crop[1]:g} exceeds 1")
        return self


class TabularAugment(Strict):
    """Gaussian noise on a training batch of columns `[B, F]`, in standard deviations of each column on train."""

    kind: Literal["tabular"] = "tabular"
    noise: NonNegativeFloat = 0.0


AugmentSettings = Annotated[AudioAugment | ImageAugment | TabularAugment, Field(discriminator="kind")]


class AudioModality(AudioFeatures):
    encoder: EncoderSettings = SmallCNN()
    augment: AudioAugment | None = None


class ImageModality(ImageFeatures):
    encoder: EncoderSettings = SmallCNN()
    augment: ImageAugment | None = None


class TabularModality(TabularFeatures):
    encoder: EncoderSettings = MLP()
    augment: TabularAugment | None = None


class VideoModality(VideoFeatures):
    encoder: EncoderSettings = ResNet18()
    augment: ImageAugment | None = None


class SequenceModality(SequenceFeatures):
    encoder: EncoderSettings = Transformer()
    augment: TabularAugment | None = None


class VectorModality(VectorFeatures):
    encoder: EncoderSettings = MLP()
    augment: TabularAugment | None = None


ModalitySettings = Annotated[
    AudioModality | ImageModality | TabularModality | VideoModality | SequenceModality | VectorModality,
    Field(discriminator="kind"),
]


# ---------------------------------------------------------------------------------------------------- raw → manifest
class AVDigits(Strict):
    """Bundled: scikit-learn's handwritten digits × spoken digits synthesised with espeak-ng; always a SAMPLE."""

    layout: Literal["av_digits"] = "av_digits"
    raw_dir: str
    seed: NonNegativeInt = 0  # of the pairing


class SpokenMNIST(Strict):
    """Real recordings (FSDD) × real handwriting (MNIST test images), paired by digit; pairs never cross splits.

    `test_takes` is FSDD's official test set; `val_takes` are held out of its training takes. `pairs`: how many pairs
    each split gets; images never repeat, recordings do where there are more pairs than recordings.
    """

    layout: Literal["spoken_mnist"] = "spoken_mnist"
    raw_dir: str
    pairs: dict[Split, PositiveInt] = {"train": 2000, "val": 500, "test": 1000}
    test_takes: list[NonNegativeInt] = [0, 1, 2, 3, 4]
    val_takes: list[NonNegativeInt] = [5, 6, 7, 8, 9]
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _takes_are_disjoint(self) -> Self:
        if both := set(self.test_takes) & set(self.val_takes):
            raise ValueError(f"takes {sorted(both)} are in both test_takes and val_takes")
        if missing := [s for s in SPLITS if s not in self.pairs]:
            raise ValueError(f"pairs lacks {missing}")
        return self


class MISME(Strict):
    """MIS-ME: XLSX label files + a flat image folder → volumetric water content (datasets.md §5.1).

    `sample_rows`: rows of the simulated sample per split, where the raw folder is absent.
    """

    layout: Literal["mis_me"] = "mis_me"
    raw_dir: str
    sample_rows: dict[Split, PositiveInt] = {"train": 160, "val": 40, "test": 45}
    seed: NonNegativeInt = 0


class CremaD(Strict):
    """CREMA-D (datasets.md §1): WAV + FLV (or extracted pictures) → 6 emotions.

    `split`: `published` is the field's 6,698 / 744 clips, of whose train part `val_fraction` is held out, stratified;
    `speakers`: no actor in two splits. `broken_clips`: the four whose video is known to be broken (§1.5), all of train.
    `sample_clips`: clips of the simulated sample.
    """

    layout: Literal["crema_d"] = "crema_d"
    raw_dir: str
    split: Literal["published", "speakers"] = "published"
    broken_clips: Literal["drop", "keep"] = "drop"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    sample_clips: Annotated[int, Field(ge=36)] = 120
    seed: NonNegativeInt = 0


class AVMNIST(Strict):
    """AV-MNIST (datasets.md §2): six arrays → 10 digits. The last 5,000 train rows are val (MultiBench's split)."""

    layout: Literal["av_mnist"] = "av_mnist"
    raw_dir: str
    val_rows: PositiveInt = 5000
    sample_rows: dict[Split, PositiveInt] = {"train": 500, "val": 100, "test": 200}
    seed: NonNegativeInt = 0


class VGGSound(Strict):
    """VGGSound (datasets.md §3): the published CSV + whatever clips could be downloaded → 309 sounds."""

    layout: Literal["vggsound"] = "vggsound"
    raw_dir: str
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    sample_clips: Annotated[int, Field(ge=60)] = 120
    seed: NonNegativeInt = 0


class URFunny(Strict):
    """UR-Funny V2 (datasets.md §4): published pickles, read without executing anything → humour yes/no, k = 3."""

    layout: Literal["ur_funny"] = "ur_funny"
    raw_dir: str
    context: bool = False  # the sentences before the punchline, too
    sample_rows: dict[Split, PositiveInt] = {"train": 240, "val": 60, "test": 60}
    seed: NonNegativeInt = 0


class SplitFractions(Strict):
    """A split that is drawn: `val` and `test` are shares of the rows; `group` (a column) never crosses splits."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    stratify: bool = True
    group: str | None = None
    seed: NonNegativeInt = 0


def _column_or_fractions(value: Any) -> str:
    return "str" if isinstance(value, str) else "SplitFractions"


SplitSettings = Annotated[
    Annotated[str, Tag("str")] | Annotated[SplitFractions, Tag("SplitFractions")], Discriminator(_column_or_fractions)
]


class Table(Strict):
    """Anybody's own data: one table (csv, tsv, jsonl, parquet, xlsx), a row a sample (datasets.md §6).

    `table`: the file, relative to `raw_dir`; `root`: where paths in it start (left out: the table's folder). `columns`:
    modality → its column of paths, or a template such as `images/{row}_front.jpg` of the row's number (`{row}` from 1,
    `{index}` from 0) and columns (`{name}`); tabular modalities have their own `columns`. `target`, `id`: columns.
    `split`: a column of train/val/test, or fractions. `classes`: the class names in order (left out: sorted). `names`:
    the columns of a text table without a header. `log_target`: the natural logarithm of the target is predicted.
    """

    layout: Literal["table"] = "table"
    raw_dir: str
    table: str = "metadata.csv"
    root: str | None = None
    columns: dict[str, str] = {}
    target: str
    id: str | None = None
    split: SplitSettings = SplitFractions()
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    names: list[str] | None = None
    log_target: bool = False


LayoutSettings = Annotated[
    AVDigits | SpokenMNIST | MISME | CremaD | AVMNIST | VGGSound | URFunny | Table, Field(discriminator="layout")
]


class TargetSettings(Strict):
    """What is predicted: the name and unit shown in tables; `output` is how a regression's last number is read.

    `sigmoid`: the target is min-max scaled on train to [0, 1] and predicted through a sigmoid (g2d.md §2, our
    definition); `identity`: the target is standardised on train and predicted as it is.
    """

    name: str = "label"
    unit: str = ""
    output: Literal["sigmoid", "identity"] = "sigmoid"


# --------------------------------------------------------------------------------------------------------- training
class SGD(Strict):
    name: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 1e-4


class Adam(Strict):
    name: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0


class AdamW(Strict):
    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2


OptimizerSettings = Annotated[SGD | Adam | AdamW, Field(discriminator="name")]


class _Schedule(Strict):
    """`warmup`: epochs in which the learning rate climbs evenly to its full value, before the schedule proper."""

    warmup: NonNegativeInt = 0


class StepSchedule(_Schedule):
    """lr × `gamma` every `every` epochs."""

    name: Literal["step"] = "step"
    every: PositiveInt = 200
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class MultiStepSchedule(_Schedule):
    """lr × `gamma` after each of the epochs `milestones`."""

    name: Literal["multistep"] = "multistep"
    milestones: Counts
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class CosineSchedule(_Schedule):
    """Half a cosine from lr down to `min_lr` over the epochs that the warm-up leaves."""

    name: Literal["cosine"] = "cosine"
    min_lr: NonNegativeFloat = 0.0


class WarmupSchedule(_Schedule):
    """The warm-up alone; then lr stays."""

    name: Literal["warmup"] = "warmup"
    warmup: NonNegativeInt = 5


class PlateauSchedule(_Schedule):
    """lr × `gamma` where the validation task loss has not fallen for `patience` epochs, down to `min_lr`."""

    name: Literal["plateau"] = "plateau"
    patience: NonNegativeInt = 10
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_lr: NonNegativeFloat = 0.0


LRSchedule = Annotated[
    StepSchedule | MultiStepSchedule | CosineSchedule | WarmupSchedule | PlateauSchedule, Field(discriminator="name")
]


def parse_batch_size(value: Any) -> Any:
    """A whole number from 2 on, or `auto`."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 2):
        return value
    raise ValueError("a whole number from 2 on (batch norm cannot train on one sample), or the word auto")


class TrainingSettings(Strict):
    """The recipe of one training run, teacher or student (g2d.md §7).

    `batch_size`: samples a batch; `auto` (CUDA): the largest that fits, found by halving. `accumulation`: batches
    whose gradients are averaged for one step. `clip_norm`: the greatest norm of the whole gradient. `ema`: decay of the
    average of the weights that is evaluated and kept instead of the weights. `early_stopping`: epochs without a better
    validation score after which training ends, counted in the last phase only: SMP's phases are never cut.
    `selection`: `val` keeps the weights of the best validation epoch; `last` the last ones; `test` reproduces the
    published protocol (best epoch on *test*), and every number made with it is labelled so.
    `precision`: of the encoders (fusion and losses are float32); `channels_last`: memory format of convolutions;
    `compile`: encoders through torch.compile; `checkpoint_activations`: encoders compute their activations again in the
    backward pass instead of keeping them. `teacher_view`: where a modality is augmented, its teacher sees the
    `augmented` batch (as published) or its remembered answers on the `clean` samples are used.
    """

    epochs: PositiveInt = 300
    batch_size: Annotated[int | Literal["auto"], BeforeValidator(parse_batch_size)] = 16
    accumulation: PositiveInt = 1
    optimizer: OptimizerSettings = SGD()
    lr_schedule: LRSchedule = StepSchedule()
    clip_norm: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    early_stopping: PositiveInt | None = None
    selection: Literal["val", "last", "test"] = "val"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_activations: bool = False
    teacher_view: Literal["augmented", "clean"] = "augmented"


def parse_tau(value: Any) -> Any:
    """`half`, `8/16`, `[8, 16]` or `8` → "half" or a list of non-negative whole numbers."""
    if value == "half":
        return value
    parts = split_slashes(value)
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = [-1]
    if min(numbers, default=-1) < 0:
        raise ValueError("epochs of each phase: whole numbers from 0 on, such as 8/16; or the word half")
    return numbers


class SMPSettings(Strict):
    """Sequential Modality Prioritization (g2d.md §4): who learns when.

    `tau`: epochs of each phase, one a modality from the least confident on; the last (all together) may be left out.
    `half`: half of the epochs shared equally by the k − 1 single-modality phases, the other half together.
    """

    tau: Annotated[Literal["half"] | list[int], BeforeValidator(parse_tau)] = "half"
    suppression: Literal["complete"] = "complete"
    ranking: Literal["batch", "epoch", "dataset"] = "batch"
    confidence_on: Literal["train", "val"] = "train"
    update: Literal["skip", "zero_grad"] = "skip"
    suppressed_norm: Literal["batch", "frozen"] = "frozen"

    def phases(self, modalities: int, epochs: int) -> list[int]:
        """Epochs of each of the k phases, the last one filling up to `epochs`.

        Raises ValueError where `tau` has the wrong length or its single-modality phases do not leave an epoch.
        """
        k = modalities
        if k < 2:
            raise ValueError("SMP needs at least two modalities")
        if self.tau == "half":
            single, extra = divmod(epochs // 2, k - 1)
            alone = [single + (i < extra) for i in range(k - 1)]
        else:
            if len(self.tau) not in (k - 1, k):
                raise ValueError(f"{len(self.tau)} values; {k} modalities need {k} (or {k - 1}: the last is the rest)")
            alone = self.tau[: k - 1]
        if sum(alone) > epochs:
            raise ValueError(
                f"the phases of one modality alone take {sum(alone)} epochs of {epochs}: shorten tau or say tau=half"
            )
        return [*alone, epochs - sum(alone)]


class DatasetSettings(Strict):
    """One `parameters_<dataset>.yml`: where the raw data are, what each modality is, how everything is trained."""

    raw: LayoutSettings
    task: Task
    target: TargetSettings = TargetSettings()
    modalities: dict[str, ModalitySettings] = Field(min_length=1)
    fusion: Literal["late", "concat"] = "late"
    training: TrainingSettings = TrainingSettings()
    max_bad_fraction: Fraction = 0.0

    @field_validator("modalities")
    @classmethod
    def _names_are_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "multi":
                raise ValueError(f"modality name {name!r}: lower-case letters, digits and _ only, and not 'multi'")
        return value


class RunSettings(Strict):
    """The top of `parameters.yml`: which dataset, which method, how many seeds, on what machine."""

    dataset: str
    method: str = "g2d"
    compare: Names = ["joint"]
    seeds: Seeds = [0, 1, 2]
    source: Literal["auto", "raw", "sample"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    workers: PositiveInt = 2
    progress: Literal["auto"] | bool = "auto"
    checkpoint_minutes: NonNegativeFloat = 10.0
    log: Annotated[list[Literal["csv", "tensorboard"]], BeforeValidator(split_slashes)] = []
    rebuild: bool = False
    debug: bool = False

    @property
    def students(self) -> list[str]:
        """The methods that train a student, baselines first, without repetition; `unimodal` is the teachers alone."""
        return [m for m in dict.fromkeys([*self.compare, self.method]) if m != "unimodal"]


# ------------------------------------------------------------------------------------- what each stage is told to do
class Machine(Strict):
    """Where and how to run: never part of a fingerprint."""

    device: str
    progress: Literal["auto"] | bool
    workers: PositiveInt = 2
    checkpoint_minutes: NonNegativeFloat = 10.0
    log: list[Literal["csv", "tensorboard"]] = []
    project: str = "."  # the project's folder, where relative paths start


class IngestSettings(Strict):
    dataset: str
    source: Literal["raw", "sample"]
    task: Task
    target: TargetSettings
    raw: LayoutSettings
    columns: dict[str, list[str]]  # modality → its columns in the manifest: one path, or the table's values
    max_bad_fraction: Fraction
    machine: Machine


class FeaturizeSettings(Strict):
    dataset: str
    modalities: dict[str, FeatureSettings]
    machine: Machine


class TeacherCell(Strict):
    """One teacher to train: everything that fixes its weights."""

    modality: str
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    encoder: EncoderSettings
    augment: AugmentSettings | None = None
    training: TrainingSettings


class StudentCell(Strict):
    """One student to train: everything that fixes its weights, given its teachers."""

    method: str
    algorithm: str
    seed: NonNegativeInt
    task: Task
    target: TargetSettings
    fusion: Literal["late", "concat"]
    encoders: dict[str, EncoderSettings]
    augment: dict[str, AugmentSettings | None] = {}
    training: TrainingSettings
    parameters: dict[str, Any]
    smp: SMPSettings | None
    needs_teachers: bool


class TeachersSettings(Strict):
    dataset: str
    cells: dict[str, TeacherCell]
    machine: Machine


class DistillSettings(Strict):
    dataset: str
    cells: dict[str, StudentCell]
    machine: Machine


class EvaluateSettings(Strict):
    dataset: str
    teachers: list[str]
    students: list[str]
    configuration: dict[str, Any]
