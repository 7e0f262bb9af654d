"""The bag of tokens of a text: ids `[L]`, 0 behind, → the mean of their embeddings, and a few layers."""

from torch import nn

from g2d_pipeline.models.encoders.base import TOKENS, Shape, Trunk

PADDING = 0  # the id that stands behind short texts


class Bag(Trunk, nn.Sequential):
    """`[B, L]` integers below `vocabulary` → `[B, D]`, whatever L is; the order of the tokens has no
    influence. The embeddings start as torch starts them, N(0, 1), and that of padding, 0, never moves."""

    dimensions = (TOKENS,)
    convolutional = False

    def __init__(self, shape: Shape, vocabulary: int, width: int, widths: list[int], dropout: float) -> None:
        layers: list[nn.Module] = [nn.EmbeddingBag(vocabulary, width, mode="mean", padding_idx=PADDING)]
        for following in widths:
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            layers += [nn.Linear(width, following), nn.ReLU(inplace=True)]
            width = following
        super().__init__(*layers, *([nn.Dropout(dropout)] if dropout > 0 else []))
        self.width = width
