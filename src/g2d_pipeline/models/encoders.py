"""Encoders: one modality's input → feature `[B, D]`. A new one is a class (or a function) and a line in `ENCODERS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.config import MLP, EncoderSettings, MobileNetV2, ResNet18, SmallCNN
from g2d_pipeline.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


class Normaliser(nn.Module):
    """Stored numbers → what the encoder sees: (x · scale − mean) / std a channel (dim 1), as float32.

    The statistics come from *train* alone and are buffers, so that a saved model predicts from stored features.
    Shapes: x `[B, C, …]`, mean and std `[C]`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scale: float, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.scale = float(scale)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        # One pass over x, and one that makes floats of bytes.
        return torch.addcmul((-self.mean / self.std).view(shape), x.float(), (self.scale / self.std).view(shape))


class Encoder(nn.Module):
    """A normaliser and a trunk; `width` is D of the feature `[B, D]`."""

    def __init__(self, trunk: nn.Module, width: int, normaliser: nn.Module | None = None) -> None:
        super().__init__()
        self.normaliser = normaliser or nn.Identity()
        self.trunk = trunk
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.trunk(self.normaliser(x).float()))


def small_cnn(settings: SmallCNN, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[B, C, H, W]` → `[B, widths[-1] · rows · columns]` with at most grid × grid cells of the last map.

    Pooling stops where the map would vanish. ReLU follows the pooling: the same numbers (both are monotone), a quarter
    of the work.
    """
    layers: list[nn.Module] = []
    channels, height, width = shape
    for position, following in enumerate(settings.widths):
        stride = settings.stride if position == 0 else 1
        height, width = math.ceil(height / stride), math.ceil(width / stride)
        layers += [nn.Conv2d(channels, following, 3, stride, padding=1, bias=False), nn.BatchNorm2d(following)]
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        layers.append(nn.ReLU(inplace=True))
        channels = following
    rows, columns = min(settings.grid, height), min(settings.grid, width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((rows, columns)), nn.Flatten()), channels * rows * columns


def resnet18(settings: ResNet18, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[B, C, H, W]` → `[B, 512]`; the stem takes any number of channels C (datasets.md §0.2)."""
    from torchvision.models import resnet18 as build

    trunk = build(weights=None)
    trunk.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    trunk.fc = nn.Identity()
    return trunk, 512


def mobilenet_v2(settings: MobileNetV2, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[B, 3, H, W]` → `[B, 1280]` (datasets.md §5.3)."""
    from torchvision.models import mobilenet_v2 as build

    return nn.Sequential(build(weights=None).features, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1280


def mlp(settings: MLP, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """`[B, F]` → `[B, widths[-1]]`."""
    layers: list[nn.Module] = []
    width = shape[0]
    for position, following in enumerate(settings.widths):
        layers += [nn.Linear(width, following), nn.BatchNorm1d(following), nn.ReLU(inplace=True)]
        if position < len(settings.dropout) and settings.dropout[position] > 0:
            layers.append(nn.Dropout(settings.dropout[position]))
        width = following
    return nn.Sequential(*layers), width


# name → (builder, number of dimensions of one sample, channels it needs or None for any)
ENCODERS: dict[str, tuple[Callable[[Any, tuple[int, ...]], tuple[nn.Module, int]], int, int | None]] = {
    "small_cnn": (small_cnn, 3, None),
    "resnet18": (resnet18, 3, None),
    "mobilenet_v2": (mobilenet_v2, 3, 3),
    "mlp": (mlp, 1, None),
}


def build_encoder(settings: EncoderSettings, shape: tuple[int, ...], normaliser: nn.Module | None = None) -> Encoder:
    """The encoder for samples of `shape` (without the batch dimension), initialised as published (`initialise`).

    Raises ConfigError (a ValueError) where the encoder does not take samples of that shape.
    """
    build, dimensions, channels = ENCODERS[settings.name]
    if len(shape) != dimensions or (channels is not None and shape[0] != channels):
        wanted = "[F]" if dimensions == 1 else f"[{channels or 'C'}, H, W]"
        raise ConfigError(f"encoder {settings.name} takes samples of shape {wanted}, not {list(shape)}")
    trunk, width = build(settings, shape)
    encoder = initialise(Encoder(trunk, width, normaliser))
    if dimensions == 3:  # convolutions are faster with the channels innermost (docs/performance.md)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def initialise(module: M) -> M:
    """Linear: Xavier normal, zero bias; convolution: Kaiming normal (fan-out, ReLU); norm: 1, 0 (datasets.md §0.2)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    return module
