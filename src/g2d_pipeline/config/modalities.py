"""The kinds of modality, each listed once: its features, its encoder, its augmentation in training."""

from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, create_model

from g2d_pipeline.config.base import Fraction, Positives, Strict
from g2d_pipeline.config.encoders import MLP, Bag, EncoderSettings, ResNet18, SmallCNN, Transformer
from g2d_pipeline.config.features import (
    AudioFeatures,
    ImageFeatures,
    SequenceFeatures,
    TabularFeatures,
    TextFeatures,
    VectorFeatures,
    VideoFeatures,
)

Range = Annotated[Positives, Field(min_length=2, max_length=2)]  # least, greatest


class AudioAugment(Strict):
    """Random changes of a training batch of spectrograms `[B, C, F, T]`, drawn for each sample in each epoch.

    `time_masks`, `frequency_masks`: how many stretches of up to `time_width` frames or `frequency_width` bins
    become the train mean; `noise`: standard deviation of Gaussian noise, in standard deviations of the
    modality on train. `window_frames`: only so many frames in a row are used, from a random place on; of val
    and test, and wherever the input is not to be random, those in the middle (VGGSound, datasets.md §3.3)."""

    kind: Literal["audio"] = "audio"
    window_frames: PositiveInt | None = None
    time_masks: NonNegativeInt = 0
    time_width: PositiveInt = 20
    frequency_masks: NonNegativeInt = 0
    frequency_width: PositiveInt = 10
    noise: NonNegativeFloat = 0.0


class ImageAugment(Strict):
    """Random changes of a training batch of images `[B, C, H, W]`, drawn for each sample in each epoch.

    `crop`: the least and the greatest share of the area that a random resized crop keeps (published: 0.08/1);
    `crop_ratio`: its least and greatest width ÷ height; `flip`: the probability of a left-right flip;
    `noise`: as of audio."""

    kind: Literal["image"] = "image"
    crop: Range | None = None
    crop_ratio: Range = [0.75, 4 / 3]
    flip: Fraction = 0.0
    noise: NonNegativeFloat = 0.0

    def _problems(self) -> Iterator[str]:
        for key, values in (("crop", self.crop), ("crop_ratio", self.crop_ratio)):
            if values is not None and values[0] > values[1]:
                yield f"{key} is least/greatest, in this order: {values[0]:g} exceeds {values[1]:g}"
        if self.crop is not None and self.crop[1] > 1:
            yield f"crop is a share of the area: {self.crop[1]:g} exceeds 1"


class TabularAugment(Strict):
    """Gaussian noise on a training batch `[B, F]`, in standard deviations of each column on train."""

    kind: Literal["tabular"] = "tabular"
    noise: NonNegativeFloat = 0.0


AugmentSettings = Annotated[AudioAugment | ImageAugment | TabularAugment, Field(discriminator="kind")]

# the settings of its features, its encoder where none is named, and the settings of its augmentation
KINDS: list[tuple[type[Strict], Any, Any]] = [
    (AudioFeatures, SmallCNN(), AudioAugment),
    (ImageFeatures, SmallCNN(), ImageAugment),
    (TabularFeatures, MLP(), TabularAugment),
    (VideoFeatures, ResNet18(), ImageAugment),
    (SequenceFeatures, Transformer(), TabularAugment),
    (VectorFeatures, MLP(), TabularAugment),
    (TextFeatures, Bag(), NoneType),
]


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
    FeatureSettings = Annotated[Union[tuple(row[0] for row in KINDS)], Field(discriminator="kind")]  # noqa: UP007
    ModalitySettings = Annotated[Union[tuple(MODALITIES.values())], Field(discriminator="kind")]  # noqa: UP007
