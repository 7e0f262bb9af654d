"""Random changes of training batches, drawn for each sample in each epoch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from g2d_pipeline.config.base import Fraction, Positives, Strict

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

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for key, values in (("crop", self.crop), ("crop_ratio", self.crop_ratio)):
            if values is not None and values[0] > values[1]:
                raise ValueError(
                    f"{key} is least/greatest, in this order: {values[0]:g} exceeds {values[1]:g}"
                )
        if self.crop is not None and self.crop[1] > 1:
            raise ValueError(f"crop is a share of the area: {self.crop[1]:g} exceeds 1")
        return self


class TabularAugment(Strict):
    """Gaussian noise on a training batch of columns `[B, F]`, in standard deviations of each column on
    train."""

    kind: Literal["tabular"] = "tabular"
    noise: NonNegativeFloat = 0.0


AugmentSettings = Annotated[AudioAugment | ImageAugment | TabularAugment, Field(discriminator="kind")]
