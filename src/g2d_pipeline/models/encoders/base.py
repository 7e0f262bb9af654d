"""An encoder is a normaliser for stored numbers and a trunk: `[B, …]` → feature `[B, D]`."""

from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
Shape = tuple[int, ...]
# Kinds of samples by their number of dimensions; token ids, which have one dimension as vectors do, are 0.
TOKENS, VECTOR, SEQUENCE, IMAGE, CLIP = range(5)


class Trunk(nn.Module):
    """The layers of an encoder; a new encoder is one file with one subclass, called with (shape, **options).

    `shape`: of a sample, without the batch dimension; for token ids the keyword `vocabulary`, how many
    different ones there are, comes with it. It sets `width`, D of the feature. Where CLIP is among its
    `dimensions`, the trunk is called on all frames `[N, C, H, W]`, and may keep maps `[N, D · h · w]`: see
    `Encoder`."""

    dimensions: ClassVar[tuple[int, ...]]  # kinds of samples that it takes
    channels: ClassVar[int | None] = None  # how many it needs (None: any number)
    convolutional: ClassVar[bool] = True  # whether it has convolution weights (ogm with scope = conv_only)
    has_stages: ClassVar[bool] = False  # whether it has `stages` (models/exchange.py)
    # For files of `weights`: the prefix of the file's names, of this class's names and of a classifier's, and
    # the name of the first convolution's weight in the file. None: it takes no such file.
    weight_names: ClassVar[tuple[str, str, str, str] | None] = None
    width: int

    def stages(self) -> list[nn.Module]:
        """Parts to run in turn: stages that end in maps `[N, C, h, w]`, then what follows them."""
        raise NotImplementedError


class Normaliser(nn.Module):
    """Stored numbers → what the trunk sees: (x · scale − mean) / std a channel (dim 1), as float32.

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
        shift, factor = (-self.mean / self.std).view(shape), (self.scale / self.std).view(shape)
        if x.dim() > 2:  # written out along the last axis: addcmul of two broadcast operands has no vectors
            row = x[(slice(1), slice(None), *[slice(1)] * (x.dim() - 3))]
            shift, factor = (torch.empty_like(row, dtype=torch.float32).copy_(v) for v in (shift, factor))
        floats = x.float()
        return torch.addcmul(shift, floats, factor, out=None if floats is x else floats)


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
        if not self.tokens:
            x = self.normaliser(x).float()
            if x.dim() == 5:
                return mean_of_frames(self.trunk(fold(x)), x.shape[0], self.width)
        return cast(Tensor, self.trunk(x))


def middle(x: Tensor, frames: int) -> Tensor:
    """The `frames` in the middle of `[…, T]`, T ≥ frames: what is evaluated of spectrograms of which windows
    are trained on."""
    return x.narrow(-1, (x.shape[-1] - frames) // 2, frames)


def train_mean(encoder: nn.Module, like: Tensor) -> Tensor:
    """Stored numbers of the shape of `like` `[B, …]` that are 0 to the encoder's trunk: the mean of train."""
    normaliser = cast(Normaliser, encoder.normaliser)
    shape = (1, -1) + (1,) * (like.dim() - 2)
    return (normaliser.mean / normaliser.scale).view(shape).expand(like.shape)


def fold(x: Tensor) -> Tensor:
    """`[B, C, T, H, W]` → `[T · B, C, H, W]`, a copy: torch.compile fails on a view of that shape."""
    return torch.cat(x.unbind(2))


def mean_of_frames(maps: Tensor, batch: int, width: int) -> Tensor:
    """`[T · B, D · h · w]` → `[B, D]`: the mean over frames and places."""
    return torch.mean(maps.view(-1, batch, width, maps.shape[1] // width), dim=(0, 3))


def initialise(module: M) -> M:
    """Linear: Xavier normal, zero bias; convolution: Kaiming normal (fan-out, ReLU); norm: 1, 0 (datasets.md
    §0.2). Attention's query, key and value weights are no layer of their own and keep torch's start: Xavier
    uniform over the three together, zero bias. So do embeddings: N(0, 1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
        elif isinstance(part, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    return module
