"""A modality: its features, its encoder, its augmentation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from g2d_pipeline.config.augment import AudioAugment, ImageAugment, TabularAugment
from g2d_pipeline.config.encoders import MLP, EncoderSettings, ResNet18, SmallCNN, Transformer
from g2d_pipeline.config.features import (
    AudioFeatures,
    ImageFeatures,
    SequenceFeatures,
    TabularFeatures,
    VectorFeatures,
    VideoFeatures,
)


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
