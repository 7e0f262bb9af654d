"""Two stages of maps without batch norm: nothing in it knows of other samples."""

from __future__ import annotations

from torch import nn

from g2d_pipeline.models.encoders.base import IMAGE, Shape, Trunk


class PlainCNN(Trunk, nn.Sequential):
    dimensions = (IMAGE,)
    has_stages = True

    def __init__(self, shape: Shape) -> None:
        first = [nn.Conv2d(shape[0], 6, 3, padding=1), nn.ReLU()]
        second = [nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
        super().__init__(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.width = 8

    def stages(self) -> list[nn.Module]:
        parts = list(self)
        return [nn.Sequential(*parts[0:2]), nn.Sequential(*parts[2:4]), nn.Sequential(*parts[4:])]
