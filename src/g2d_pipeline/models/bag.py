"""The bag of tokens of a text: ids `[L]`, 0 behind, → the mean of their embeddings, and a few layers on it."""

from __future__ import annotations

from torch import nn

from g2d_pipeline.config import Bag

PADDING = 0  # the id that stands behind short texts


def bag(settings: Bag, shape: tuple[int, ...], vocabulary: int) -> tuple[nn.Module, int]:
    """`[B, L]` integers below `vocabulary` → `[B, D]`, whatever L is; the order of the tokens has no
    influence.

    The embeddings start as torch starts them, N(0, 1), and that of padding, 0, never moves.
    """
    layers: list[nn.Module] = [nn.EmbeddingBag(vocabulary, settings.width, mode="mean", padding_idx=PADDING)]
    width = settings.width
    for following in settings.widths:
        layers += [*_dropout(settings), nn.Linear(width, following), nn.ReLU(inplace=True)]
        width = following
    return nn.Sequential(*layers, *_dropout(settings)), width


def _dropout(settings: Bag) -> list[nn.Module]:
    return [nn.Dropout(settings.dropout)] if settings.dropout > 0 else []
