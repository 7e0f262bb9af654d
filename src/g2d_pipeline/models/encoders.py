"""Encoders: one modality's input → feature `[B, D]`. A new one is a class (or a function) and a line in
`ENCODERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.config import MLP, EncoderSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.bag import bag
from g2d_pipeline.models.frames import fold, mean_of_frames, mobilenet_v2, resnet18, small_cnn
from g2d_pipeline.models.transformer import transformer

M = TypeVar("M", bound=nn.Module)
Shape = tuple[int, ...]


class Normaliser(nn.Module):
    """Stored numbers → what the encoder sees: (x · scale − mean) / std a channel (dim 1), as float32.

    The statistics come from *train* alone and are buffers, so that a saved model predicts from stored
    features. Shapes: x `[B, C, …]`, mean and std `[C]`. The channels of a sequence are its features; mean 0
    and std 1 leave its mask row as it is."""

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
        return torch.addcmul(
            (-self.mean / self.std).view(shape), x.float(), (self.scale / self.std).view(shape)
        )


class Encoder(nn.Module):
    """A normaliser and a trunk; `width` is D of the feature `[B, D]`.

    Clips `[B, C, T, H, W]` go through the trunk frame by frame; the feature is the mean over all frames. With
    `tokens` the trunk takes ids `[B, L]`, the integers that they are."""

    def __init__(
        self, trunk: nn.Module, width: int, normaliser: nn.Module | None = None, tokens: bool = False
    ) -> None:
        super().__init__()
        self.normaliser = normaliser or nn.Identity()
        self.trunk = trunk
        self.width = width
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        if self.tokens:
            return cast(Tensor, self.trunk(x))
        x = self.normaliser(x).float()
        if x.dim() == 5:
            return mean_of_frames(self.trunk(fold(x)), x.shape[0], self.width)
        return cast(Tensor, self.trunk(x))


def mlp(settings: MLP, shape: Shape) -> tuple[nn.Module, int]:
    """`[B, F]` → `[B, widths[-1]]`."""
    layers: list[nn.Module] = []
    width = shape[0]
    for position, following in enumerate(settings.widths):
        layers += [nn.Linear(width, following), nn.BatchNorm1d(following), nn.ReLU(inplace=True)]
        if position < len(settings.dropout) and settings.dropout[position] > 0:
            layers.append(nn.Dropout(settings.dropout[position]))
        width = following
    return nn.Sequential(*layers), width


TOKENS = 0  # stands for the ids of tokens among the numbers of dimensions
# Number of dimensions of one sample → how its shape is written, and what it is.
KINDS = {
    TOKENS: ("[L]", "the token ids of a text"),
    1: ("[F]", "a vector"),
    2: ("[F + 1, T]", "a sequence with its mask row"),
    3: ("[C, H, W]", "a picture or spectrogram"),
    4: ("[C, T, H, W]", "the frames of a clip"),
}
PICTURES = (3, 4)

# name → (builder, numbers of dimensions of the samples it takes, channels it needs or None for any); a
# builder is given settings and a sample's shape, and where it takes tokens, how many different ones there
# are.
ENCODERS: dict[str, tuple[Callable[..., tuple[nn.Module, int]], tuple[int, ...], int | None]] = {
    "small_cnn": (small_cnn, PICTURES, None),
    "resnet18": (resnet18, PICTURES, None),
    "mobilenet_v2": (mobilenet_v2, PICTURES, 3),
    "mlp": (mlp, (1,), None),
    "transformer": (transformer, (2, TOKENS), None),
    "bag": (bag, (TOKENS,), None),
}


def build_encoder(
    settings: EncoderSettings,
    shape: Shape,
    normaliser: nn.Module | None = None,
    vocabulary: int | None = None,
) -> Encoder:
    """The encoder for samples of `shape` (without the batch dimension), initialised as its settings say.

    `vocabulary`: samples are token ids below this number, and `normaliser` is not used. Raises ConfigError (a
    ValueError) where the encoder does not take such samples.
    """
    if not takes(settings.name, shape, vocabulary is not None):
        raise _refused(settings.name, shape, vocabulary is not None)
    build = ENCODERS[settings.name][0]
    trunk, width = build(settings, shape) if vocabulary is None else build(settings, shape, vocabulary)
    encoder = Encoder(trunk, width, normaliser, vocabulary is not None)
    if settings.initialisation == "published":
        initialise(encoder)
    if len(shape) in PICTURES:  # convolutions are faster with the channels innermost (docs/performance.md)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def takes(name: str, shape: Shape, tokens: bool = False) -> bool:
    """Whether the encoder called `name` takes samples of `shape`; `tokens`: they are token ids."""
    _, dimensions, channels = ENCODERS[name]
    if tokens:
        return TOKENS in dimensions and len(shape) == 1 and shape[0] > 0
    if not shape or len(shape) not in dimensions or min(shape) < 1:
        return False
    if len(shape) == 2:
        return shape[0] > 1  # a mask row alone has no features
    return channels in (None, shape[0])


def _refused(name: str, shape: Shape, tokens: bool) -> ConfigError:
    """Which shapes the encoder takes, and which encoders take this shape."""
    _, dimensions, channels = ENCODERS[name]
    given = TOKENS if tokens else len(shape) or -1
    wanted = [given] if given in dimensions else [d for d in dimensions if d != TOKENS] or list(dimensions)
    forms = " or ".join(KINDS[d][0].replace("C", str(channels or "C")) for d in wanted)
    forms += f" ({KINDS[TOKENS][1]})" if wanted == [TOKENS] else ""
    kind = f" ({KINDS[given][1]}: {KINDS[given][0]})" if given in KINDS else ""
    others = [other for other in ENCODERS if takes(other, shape, tokens)]
    message = f"encoder {name} takes samples of shape {forms}, not {list(shape)}{kind}. "
    message += f"Encoders that take these: {', '.join(others)}." if others else "No encoder takes these."
    if len(shape) == 2 and dimensions == PICTURES:
        message += f" Pictures without colour need their channel: [1, {shape[0]}, {shape[1]}]."
    return ConfigError(message)


def initialise(module: M) -> M:
    """Linear: Xavier normal, zero bias; convolution: Kaiming normal (fan-out, ReLU); norm: 1, 0 (datasets.md
    §0.2).

    Attention's query, key and value weights are no layer of their own and keep torch's start: Xavier uniform
    over the three together, zero bias. So do embeddings: N(0, 1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    return module
