"""Encoders of pictures and spectrograms `[C, H, W]`, which take clips `[C, T, H, W]` as well (datasets.md
§0.2).

A builder returns a trunk for `[N, C, H, W]` and the width D of the feature. `Encoder` folds the T frames of a
clip into N and takes one mean over everything that is left of them. So a trunk for clips keeps its last maps
`[N, D · h · w]`, where one for pictures averages them itself; the names of its weights are the same."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from g2d_pipeline.config import MobileNetV2, ResNet18, SmallCNN

CLIP = 4  # dimensions of a sample [C, T, H, W]


def fold(x: Tensor) -> Tensor:
    """`[B, C, T, H, W]` → `[T · B, C, H, W]`, as a tensor of its own: torch.compile trips over a view of that
    shape."""
    return torch.cat(x.unbind(2))


def mean_of_frames(maps: Tensor, batch: int, width: int) -> Tensor:
    """`[T · B, D · cells]` → `[B, D]`: the mean over frames and cells at once; the order of frames has no
    influence."""
    return torch.mean(maps.view(-1, batch, width, maps.shape[1] // width), dim=(0, 3))


def small_cnn(settings: SmallCNN, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[N, C, H, W]` → `[N, widths[-1] · rows · columns]` with at most grid × grid cells of the last map.

    Pooling stops where the map would vanish. ReLU follows the pooling: the same numbers (both are monotone),
    a quarter of the work. The feature of a clip is the mean over its frames, cell by cell."""
    layers: list[nn.Module] = []
    channels, height, width = shape[0], *shape[-2:]
    for position, following in enumerate(settings.widths):
        stride = settings.stride if position == 0 else 1
        height, width = math.ceil(height / stride), math.ceil(width / stride)
        layers += [
            nn.Conv2d(channels, following, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(following),
        ]
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        layers.append(nn.ReLU(inplace=True))
        channels = following
    rows, columns = min(settings.grid, height), min(settings.grid, width)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d((rows, columns)), nn.Flatten()
    ), channels * rows * columns


def resnet18(settings: ResNet18, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[N, C, H, W]` → `[N, 512]` (clips: `[N, 512 · h · w]`); the stem takes any number of channels C
    (§0.2)."""
    from torchvision.models import resnet18 as build

    trunk = cast(nn.Module, build(weights=None))
    trunk.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    trunk.fc = nn.Identity()
    if len(shape) == CLIP:
        trunk.avgpool = nn.Identity()
    return trunk, 512


def mobilenet_v2(settings: MobileNetV2, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[N, 3, H, W]` → `[N, 1280]` (clips: `[N, 1280 · h · w]`; datasets.md §5.3)."""
    from torchvision.models import mobilenet_v2 as build

    pool = nn.Identity() if len(shape) == CLIP else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(build(weights=None).features, pool, nn.Flatten()), 1280


def stages_of(trunk: nn.Module) -> list[nn.Module]:
    """A trunk in parts, to be run one after the other: stages that end in maps `[N, C, h, w]`, then the rest.

    ResNet-18: stem and layer 1, layers 2, 3, 4; the small CNN: its convolution blocks. Empty for any other
    trunk."""
    if hasattr(trunk, "layer4"):
        stem = [trunk.get_submodule(name) for name in ("conv1", "bn1", "relu", "maxpool", "layer1")]
        layers = [trunk.get_submodule(f"layer{i}") for i in (2, 3, 4)]
        rest = nn.Sequential(trunk.get_submodule("avgpool"), nn.Flatten(), trunk.get_submodule("fc"))
        return [nn.Sequential(*stem), *layers, rest]
    parts = list(trunk) if isinstance(trunk, nn.Sequential) else []
    if not parts or not isinstance(parts[0], nn.Conv2d):
        return []
    starts = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d | nn.AdaptiveAvgPool2d)]
    return [nn.Sequential(*parts[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=True)]


def channels_of(stage: nn.Module) -> int:
    """C of the maps that a stage ends in."""
    return next(part.out_channels for part in reversed(list(stage.modules())) if isinstance(part, nn.Conv2d))
