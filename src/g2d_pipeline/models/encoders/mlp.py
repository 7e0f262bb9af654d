"""A multilayer perceptron for vectors and columns of tables."""

from collections.abc import Callable

from torch import nn

from g2d_pipeline.models.encoders.base import VECTOR, Shape, Trunk

NORMS: dict[str, Callable[[int], list[nn.Module]]] = {
    "batch": lambda width: [nn.BatchNorm1d(width)],
    "layer": lambda width: [nn.LayerNorm(width)],
    "none": lambda width: [],
}


class MLP(Trunk, nn.Sequential):
    """`[B, F]` → `[B, widths[-1]]`. `norm`: `batch`, `layer` or `none`, before each ReLU."""

    dimensions = (VECTOR,)
    convolutional = False

    def __init__(self, shape: Shape, widths: list[int], dropout: list[float], norm: str = "batch") -> None:
        layers: list[nn.Module] = []
        width = shape[0]
        for position, following in enumerate(widths):
            layers += [nn.Linear(width, following), *NORMS[norm](following), nn.ReLU(inplace=True)]
            if position < len(dropout) and dropout[position] > 0:
                layers.append(nn.Dropout(dropout[position]))
            width = following
        super().__init__(*layers)
        self.width = width
