"""A small convolutional encoder of images, spectrograms and clips."""

import math

from torch import nn

from g2d_pipeline.models.encoders.base import CLIP, IMAGE, Shape, Trunk


class SmallCNN(Trunk, nn.Sequential):
    """`[N, C, H, W]` → `[N, widths[-1] · rows · columns]` with at most grid × grid places of the last map.

    Pooling stops where the map would vanish. ReLU follows the pooling: the same numbers (both are monotone),
    a quarter of the work. The feature of a clip is the mean over its frames, place by place."""

    dimensions = (IMAGE, CLIP)
    has_stages = True

    def __init__(self, shape: Shape, widths: list[int], stride: int, grid: int) -> None:
        layers: list[nn.Module] = []
        channels, height, width = shape[0], *shape[-2:]
        for position, following in enumerate(widths):
            step = stride if position == 0 else 1
            height, width = math.ceil(height / step), math.ceil(width / step)
            layers += [nn.Conv2d(channels, following, 3, step, 1, bias=False), nn.BatchNorm2d(following)]
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU(inplace=True))
            channels = following
        rows, columns = min(grid, height), min(grid, width)
        super().__init__(*layers, nn.AdaptiveAvgPool2d((rows, columns)), nn.Flatten())
        self.width = channels * rows * columns

    def stages(self) -> list[nn.Module]:
        parts = list(self)
        starts = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d | nn.AdaptiveAvgPool2d)]
        return [nn.Sequential(*parts[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=True)]
