"""Encoders: one modality's input → feature `[B, D]`; each is one file (see `base.Trunk`)."""

from typing import Any

import torch
from torch import nn

from g2d_pipeline.config import ENCODER_GROUP, ENCODERS, EncoderSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.encoders.base import (
    CLIP,
    IMAGE,
    SEQUENCE,
    TOKENS,
    VECTOR,
    Encoder,
    Normaliser,
    Shape,
    Trunk,
    initialise,
)
from g2d_pipeline.plugins import find_class

# Kind of sample → how its shape is written, and what it is.
KINDS = {
    TOKENS: ("[L]", "the token ids of a text"),
    VECTOR: ("[F]", "a vector"),
    SEQUENCE: ("[F + 1, T]", "a sequence with its mask row"),
    IMAGE: ("[C, H, W]", "an image or spectrogram"),
    CLIP: ("[C, T, H, W]", "the frames of a clip"),
}


def load_encoder(name: str) -> type[Trunk]:
    """The trunk's class by the encoder's name: a file of this folder, an entry point, a module's or class's
    path. Raises ConfigError for a name that leads nowhere, for a module without exactly one trunk, and for a
    class that does not say its `dimensions`."""
    cls = find_class(name, Trunk, __name__, ENCODER_GROUP)
    if not hasattr(cls, "dimensions"):
        raise ConfigError(f"encoder {name}: {cls.__name__} does not say what it takes: set `dimensions`")
    return cls


def build_encoder(
    settings: EncoderSettings,
    shape: Shape,
    normaliser: nn.Module | None = None,
    vocabulary: int | None = None,
) -> Encoder:
    """The encoder for samples of `shape` (without the batch dimension), initialised as its settings say.

    `vocabulary`: samples are token ids below this number, and `normaliser` is not used. Raises ConfigError (a
    ValueError) where the encoder does not take such samples, or does not know its options."""
    cls, tokens = load_encoder(settings.name), vocabulary is not None
    if not takes(cls, shape, tokens):
        raise _refused(settings.name, cls, shape, tokens)
    options: dict[str, Any] = {"vocabulary": vocabulary} if tokens else {}
    fields = settings.model_dump(exclude={"name", "initialisation", "weights"})
    options |= fields.pop("options", fields)  # those of another package's encoder
    try:
        trunk = cls(shape, **options)
        encoder = Encoder(trunk, trunk.width, normaliser, tokens)
    except (TypeError, ValueError, AttributeError) as error:
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigError(f"encoder {settings.name}({arguments}): {error}") from error
    if settings.initialisation == "published":
        initialise(encoder)
    # Convolutions are faster with the channels innermost (docs/performance.md).
    if len(shape) in (IMAGE, CLIP):
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def takes(cls: type[Trunk], shape: Shape, tokens: bool = False) -> bool:
    """Whether an encoder takes samples of `shape`; `tokens`: they are token ids."""
    if tokens:
        return TOKENS in cls.dimensions and len(shape) == 1 and shape[0] > 0
    if not shape or len(shape) not in cls.dimensions or min(shape) < 1:
        return False
    if len(shape) == SEQUENCE:
        return shape[0] > 1  # a mask row alone has no features
    return cls.channels in (None, shape[0])


def _refused(name: str, cls: type[Trunk], shape: Shape, tokens: bool) -> ConfigError:
    """Which shapes the encoder takes, and which encoders take this shape."""
    kind = TOKENS if tokens else len(shape) or -1
    expected = [kind] if kind in cls.dimensions else [d for d in cls.dimensions if d != TOKENS] or [TOKENS]
    forms = " or ".join(KINDS[d][0].replace("C", str(cls.channels or "C")) for d in expected)
    forms += f" ({KINDS[TOKENS][1]})" if expected == [TOKENS] else ""
    what = f" ({KINDS[kind][1]}: {KINDS[kind][0]})" if kind in KINDS else ""
    others = [other for other in ENCODERS if takes(load_encoder(other), shape, tokens)]
    message = f"encoder {name} takes samples of shape {forms}, not {list(shape)}{what}. "
    message += f"Encoders that take these: {', '.join(others)}." if others else "No encoder takes these."
    if len(shape) == 2 and cls.dimensions == (IMAGE, CLIP):
        message += f" Images without colour need their channel: [1, {shape[0]}, {shape[1]}]."
    return ConfigError(message)
