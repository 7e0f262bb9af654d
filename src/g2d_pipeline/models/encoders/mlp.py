"""A multilayer perceptron for vectors and columns of tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from g2d_pipeline.models.encoders.base import VECTOR, Shape, Trunk


class MLP(Trunk, nn.Sequential):
    """`[B, F]` → `[B, widths[-1]]`."""

    dimensions = (VECTOR,)
    convolutional = False

    def __init__(self, shape: Shape, widths: Sequence[int], dropout: Sequence[float]) -> None:
        layers: list[nn.Module] = []
        width = shape[0]
        for position, following in enumerate(widths):
            layers += [nn.Linear(width, following), nn.BatchNorm1d(following), nn.ReLU(inplace=True)]
            if position < len(dropout) and dropout[position] > 0:
                layers.append(nn.Dropout(dropout[position]))
            width = following
        super().__init__(*layers)
        self.width = width
