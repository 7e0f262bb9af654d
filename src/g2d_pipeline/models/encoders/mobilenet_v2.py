"""MobileNetV2 (torchvision's trunk) for colour images and clips (datasets.md §5.3)."""

from torch import nn
from torchvision.models import mobilenet_v2

from g2d_pipeline.models.encoders.base import CLIP, IMAGE, Shape, Trunk


class MobileNetV2(Trunk, nn.Sequential):
    """`[N, 3, H, W]` → `[N, 1280]` (clips: `[N, 1280 · h · w]`)."""

    dimensions = (IMAGE, CLIP)
    channels = 3
    weight_names = ("features.", "0.", "classifier.", "features.0.0.weight")

    def __init__(self, shape: Shape) -> None:
        pool = nn.Identity() if len(shape) == CLIP else nn.AdaptiveAvgPool2d(1)
        super().__init__(mobilenet_v2(weights=None).features, pool, nn.Flatten())
        self.width = 1280
