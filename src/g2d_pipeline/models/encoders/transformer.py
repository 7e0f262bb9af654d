"""The transformer encoder of sequences `[F + 1, T]`, whose last row is 1 on real steps (datasets.md §4.4).

As published: no positional encoding, so the order of steps has no influence. Not as published: padding is
masked everywhere, so that neither its length nor its content nor a batch's other samples change a feature."""

import torch
from torch import Tensor, nn

from g2d_pipeline.models.encoders.bag import PADDING
from g2d_pipeline.models.encoders.base import SEQUENCE, TOKENS, Shape, Trunk


class Transformer(Trunk):
    """`[B, F + 1, T]` → `[B, width]`: 1×1 convolution without bias, torch's encoder layers, a mean over real
    steps. With a `vocabulary` the steps are tokens: ids `[B, L]`, real where they are not 0, each with a
    learnt embedding. `pool="first"`: the first real step instead of the mean. A sample without any real step
    has the feature 0, and no gradient comes from it. The layers stand in a list and not in
    `nn.TransformerEncoder`: that one starts every layer from a copy of the same random attention weights, and
    its nested tensors cut the padding off in evaluation alone. A list is also what `blocks`
    (training/precision.py) looks into: the layers are the blocks that are computed again to save memory."""

    dimensions = (SEQUENCE, TOKENS)
    convolutional = False

    def __init__(
        self,
        shape: Shape,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        pool: str,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.width = pool, width
        self.projection: nn.Conv1d | nn.Embedding
        if vocabulary is None:
            self.projection = nn.Conv1d(shape[0] - 1, width, 1, bias=False)
        else:
            self.projection = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor
        if isinstance(self.projection, nn.Embedding):
            real = x != PADDING  # [B, T]
            steps = self.projection(x)
        else:
            real = x[:, -1] > 0.5
            # Zeros, for what stands in the padding may be NaN, and attention's weight 0 times NaN is NaN.
            steps = self.projection(x[:, :-1].masked_fill(~real[:, None], 0)).transpose(1, 2)
        # A softmax over no step at all is NaN: a sample that is all padding attends to its zeros.
        padding = ~real & real.any(dim=1, keepdim=True)
        for layer in self.layers:
            steps = layer(steps, src_key_padding_mask=padding)
        counted = real & (real.cumsum(dim=1) == 1) if self.pool == "first" else real
        total = steps.masked_fill(~counted[..., None], 0).sum(dim=1, dtype=torch.float32)
        return total / counted.sum(dim=1, keepdim=True).clamp(min=1)
