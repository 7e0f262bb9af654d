"""The kinds of modality, each listed once: its features, its encoder, its augmentation."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Self, Union

from pydantic import Field, create_model, model_validator

from g2d_pipeline.config.augment import AudioAugment, AugmentSettings, ImageAugment, TabularAugment
from g2d_pipeline.config.base import Strict
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

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        window, frames = getattr(self.augment, "window_frames", None), getattr(self, "frames", 0)
        if window is not None and window > frames:
            raise ValueError(f"augment.window_frames is {window}, but the spectrogram has {frames} frames")
        return self


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
