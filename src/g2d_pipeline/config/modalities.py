"""A modality: its features, its encoder (`teacher_encoder`: the teacher's, where it is another), its
augmentation."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from g2d_pipeline.config.augment import AudioAugment, ImageAugment, TabularAugment
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


class AudioModality(AudioFeatures):
    encoder: EncoderSettings = SmallCNN()
    teacher_encoder: EncoderSettings | None = None
    augment: AudioAugment | None = None

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        window = self.augment.window_frames if self.augment is not None else None
        if window is not None and window > self.frames:
            raise ValueError(
                f"augment.window_frames is {window}, but the spectrogram has {self.frames} frames"
            )
        return self


class ImageModality(ImageFeatures):
    encoder: EncoderSettings = SmallCNN()
    teacher_encoder: EncoderSettings | None = None
    augment: ImageAugment | None = None


class TabularModality(TabularFeatures):
    encoder: EncoderSettings = MLP()
    teacher_encoder: EncoderSettings | None = None
    augment: TabularAugment | None = None


class VideoModality(VideoFeatures):
    encoder: EncoderSettings = ResNet18()
    teacher_encoder: EncoderSettings | None = None
    augment: ImageAugment | None = None


class SequenceModality(SequenceFeatures):
    encoder: EncoderSettings = Transformer()
    teacher_encoder: EncoderSettings | None = None
    augment: TabularAugment | None = None


class VectorModality(VectorFeatures):
    encoder: EncoderSettings = MLP()
    teacher_encoder: EncoderSettings | None = None
    augment: TabularAugment | None = None


class TextModality(TextFeatures):
    encoder: EncoderSettings = Bag()
    teacher_encoder: EncoderSettings | None = None
    augment: None = None


ModalitySettings = Annotated[
    AudioModality
    | ImageModality
    | TabularModality
    | VideoModality
    | SequenceModality
    | VectorModality
    | TextModality,
    Field(discriminator="kind"),
]
