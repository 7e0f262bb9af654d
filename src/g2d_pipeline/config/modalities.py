"""The kinds of modality: features, default encoder and augmentation of each."""

from collections import Counter
from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, create_model

from g2d_pipeline.config.base import ColumnNames, Counts, Fraction, Numbers, Positives, Strict, by_tag
from g2d_pipeline.config.models import MLP, Bag, EncoderSettings, ResNet18, SmallCNN, Transformer

Stored = Literal["float32", "float16"]  # floats in the store; float16 is converted to float32 for training
Range = Annotated[Positives, Field(min_length=2, max_length=2)]  # least, greatest


class AudioFeatures(Strict):
    """A recording → a log-magnitude spectrogram `[1, F, T]`.

    In this order: mono, resample to `sample_rate`, cut or `fill` to `seconds` (zeros behind, or the recording
    repeated), `clamp` to [-1, 1], divide by the peak, add white noise of standard deviation `noise` (drawn
    once per recording from `noise_seed`), |STFT| (periodic Hann window, frames centred at 0, `hop_length`,
    …), optional mel bands, log(· + 1e-7). `padding` beyond both ends: `zeros`, as librosa from 0.9 on, and so
    the published CREMA-D and VGGSound (their Python 3.11 has no older one); `reflect`, as librosa before."""

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
    padding: Literal["zeros", "reflect"] = "zeros"
    n_mels: NonNegativeInt = 0  # 0: the linear spectrogram
    dtype: Stored = "float32"

    def _problems(self) -> Iterator[str]:
        if self.hop_length > self.n_fft:
            yield f"hop_length ({self.hop_length}) exceeds n_fft ({self.n_fft}): sound would be lost"

    @property
    def samples(self) -> int:
        """Of every prepared recording."""
        return round(self.seconds * self.sample_rate)

    @property
    def frames(self) -> int:
        """T of the spectrogram."""
        return 1 + (self.samples + 2 * (self.n_fft // 2) - self.n_fft) // self.hop_length


class _Pictures(Strict):
    """What images and the frames of clips share: their size, and the normaliser, one value a channel."""

    size: Annotated[Counts, Field(min_length=1, max_length=2)] = [224]
    mean: Numbers | None = None
    std: Positives | None = None

    def _problems(self) -> Iterator[str]:
        if (self.mean is None) != (self.std is None):
            yield "give both mean and std, or neither (then they are measured on train)"
        channels = getattr(self, "channels", 3)  # frames are in colour
        for key in ("mean", "std"):
            if (values := getattr(self, key)) is not None and len(values) != channels:
                yield f"{key} has {len(values)} values for {channels} channels"

    @property
    def height_width(self) -> tuple[int, int]:
        return self.size[0], self.size[-1]


class ImageFeatures(_Pictures):
    """An image → `[C, H, W]` bytes, or floats: of rows of an array file of floats, or with `pca_energy`.

    Resized to `size` ignoring the aspect ratio (bilinear, antialiased). `pca_energy`: keep the largest number
    of principal components (fitted on train) whose cumulative variance stays at or below this share, at least
    one, and do not add the mean back (AV-MNIST, datasets.md §2.1). `mean`/`std`: the normaliser, one value a
    channel, in units of [0, 1] pixels (of the array, where it holds floats); None: measured on train.
    `dtype`: of floats; bytes stay bytes. `value_range`: which values of grey files of 16 or 32 bits become 0
    and 255 (depth in millimetres, 12 bits in 16); None: of 16 bits the high byte is kept."""

    kind: Literal["image"] = "image"
    channels: Literal[1, 3] = 3
    pca_energy: Annotated[float, Field(gt=0, le=1)] | None = None
    value_range: Annotated[Numbers, Field(min_length=2, max_length=2)] | None = None
    dtype: Stored = "float32"

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            yield f"value_range {self.value_range} is not [lowest, highest]"


class TabularFeatures(Strict):
    """Columns of a table → `[F]` floats, everything learnt on train alone (§5.2). F in this order: `columns`:
    numbers, standardised by train mean and std, blanks being the train mean; `dates`: the year, and sine and
    cosine of the day in it, likewise; `categorical`: one-hot, a blank being a category; one that train lacks
    is 0 throughout.

    Of a user's table each may be a pattern (`band_*`), a range (`454..950`: columns whose names are numbers
    from one to the other; `a..c`: the columns from a to c) or, behind these, what they leave out (`!band_7`);
    the features are those that the manifest has."""

    kind: Literal["tabular"] = "tabular"
    columns: ColumnNames = []
    categorical: ColumnNames = []
    dates: ColumnNames = []

    def _problems(self) -> Iterator[str]:
        if not self.all_columns:
            yield "name at least one column under `columns` (numbers), `categorical` or `dates`"
        for key in ("columns", "categorical", "dates"):
            if (names := getattr(self, key)) and names[0].startswith("!"):
                yield f"{key} starts with {names[0]!r}: what it leaves it out of stands before it"
        counts = Counter(column for column in self.all_columns if not column.startswith("!"))
        if double := sorted(column for column, count in counts.items() if count > 1):
            yield f"columns that are named more than once: {', '.join(double)}"

    @property
    def all_columns(self) -> list[str]:
        """In the manifest's order."""
        return [*self.columns, *self.dates, *self.categorical]


def is_selector(name: str) -> bool:
    """Whether a column's name is a pattern, a range or an exclusion, unless the table has that column."""
    return "*" in name or ".." in name or name.startswith("!")


class VideoFeatures(_Pictures):
    """A clip (a file, or a folder of images) → bytes `[C, T, H, W]`: `frames` images, resized and normalised
    likewise. `pick`: `even`: evenly over the clip's length; `published`: of one picture a second (the frame
    rate rounded down), those that the authors' code draws with its fixed seed (datasets.md §1.3, §3.3)."""

    kind: Literal["video"] = "video"
    frames: PositiveInt = 3
    pick: Literal["even", "published"] = "even"


class SequenceFeatures(Strict):
    """An array file `[L, F]` (or a row of one `[N, L, F]`) → floats `[F + 1, steps]`: F features and a row
    that is 1 where a step is real. Longer sequences lose their end, shorter ones are padded with zeros.
    `cut_leading_zeros`: steps of zeros before the first other one are cut as padding. Steps of NaN at the end
    are padding, too; other not finite values become 0 and are counted."""

    kind: Literal["sequence"] = "sequence"
    steps: PositiveInt = 50
    cut_leading_zeros: bool = False
    dtype: Stored = "float32"


class VectorFeatures(Strict):
    """An array file `[F]` (or a row of one `[N, F]`) → floats `[F]`, standardised on train."""

    kind: Literal["vector"] = "vector"
    dtype: Stored = "float32"


class TextFeatures(Strict):
    """A text → the ids of its first `length` tokens, `[length]`, padded with 0. The tokens (byte-pair
    encoding; at most `vocabulary` with 0, padding, and 1, unknown) are learnt on train, after NFKC, small
    letters (`lowercase`), and cuts at spaces and between words and punctuation."""

    kind: Literal["text"] = "text"
    vocabulary: Annotated[int, Field(ge=3)] = 2000
    length: PositiveInt = 64
    lowercase: bool = True


class ExternalFeatures(Strict):
    """A kind without settings here: a file of `features/kinds`, an entry point or a dotted path; its
    `settings_class` is called with the `options`."""

    kind: str = ""
    options: dict[str, Any] = {}


class AudioAugment(Strict):
    """Random changes of a training batch of spectrograms `[B, C, F, T]`, drawn for each sample in each epoch.

    `time_masks`, `frequency_masks`: how many stretches of up to `time_width` frames or `frequency_width` bins
    become the train mean; `noise`: standard deviation of Gaussian noise, in standard deviations of the
    modality on train. `window_frames`: so many frames in a row are used, from a random one on; without
    randomness (val, test) those in the middle (VGGSound, datasets.md §3.3)."""

    kind: Literal["audio"] = "audio"
    window_frames: PositiveInt | None = None
    time_masks: NonNegativeInt = 0
    time_width: PositiveInt = 20
    frequency_masks: NonNegativeInt = 0
    frequency_width: PositiveInt = 10
    noise: NonNegativeFloat = 0.0


class ImageAugment(Strict):
    """Random changes of a training batch of images `[B, C, H, W]`, for each sample in each epoch: `crop`, the
    range of the area that a random resized crop keeps (published: 0.08/1); `crop_ratio`: of its width ÷
    height; `flip`: the probability of a left-right flip; `noise`: as of audio."""

    kind: Literal["image"] = "image"
    crop: Range | None = None
    crop_ratio: Range = [0.75, 4 / 3]
    flip: Fraction = 0.0
    noise: NonNegativeFloat = 0.0

    def _problems(self) -> Iterator[str]:
        for key in ("crop", "crop_ratio"):
            if (values := getattr(self, key)) is not None and values[0] > values[1]:
                yield f"{key} is least/greatest, in this order: {values[0]:g} exceeds {values[1]:g}"
        if self.crop is not None and self.crop[1] > 1:
            yield f"crop is a share of the area: {self.crop[1]:g} exceeds 1"


class TabularAugment(Strict):
    """Gaussian noise on a training batch `[B, F]`, in standard deviations of each column on train."""

    kind: Literal["tabular"] = "tabular"
    noise: NonNegativeFloat = 0.0


AugmentSettings = Annotated[AudioAugment | ImageAugment | TabularAugment, Field(discriminator="kind")]

# Of each kind: settings of its features, default encoder, settings of its augmentation.
KINDS: list[tuple[type[Strict], Any, Any]] = [
    (AudioFeatures, SmallCNN(), AudioAugment),
    (ImageFeatures, SmallCNN(), ImageAugment),
    (TabularFeatures, MLP(), TabularAugment),
    (VideoFeatures, ResNet18(), ImageAugment),
    (SequenceFeatures, Transformer(), TabularAugment),
    (VectorFeatures, MLP(), TabularAugment),
    (TextFeatures, Bag(), NoneType),
    (ExternalFeatures, ..., TabularAugment),
]
KIND_GROUP = "g2d_pipeline.kinds"  # of entry points: kinds of other packages, by name


class Modality(Strict):
    """What a modality has beside its features; `teacher_encoder`: the teacher's, where it is another."""

    encoder: EncoderSettings
    teacher_encoder: EncoderSettings | None = None
    augment: AugmentSettings | None = None

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        window, frames = getattr(self.augment, "window_frames", None), getattr(self, "frames", 0)
        if window is not None and window > frames:
            yield f"augment.window_frames is {window}, but the spectrogram has {frames} frames"


MODALITIES: dict[str, type[Any]] = {
    features.model_fields["kind"].default: create_model(
        features.__name__.replace("Features", "Modality"),
        __base__=(Modality, features),
        encoder=(EncoderSettings, encoder),
        augment=(augment | None, None),
    )
    for features, encoder, augment in KINDS
}
if TYPE_CHECKING:
    FeatureSettings = Any  # mypy knows no union that is made from a list
    ModalitySettings = Any
else:
    FEATURES = {row[0].model_fields["kind"].default: row[0] for row in KINDS}
    FeatureSettings = by_tag("kind", FEATURES, "features/kinds", KIND_GROUP)
    ModalitySettings = by_tag("kind", MODALITIES, "features/kinds", KIND_GROUP)
