"""Cross-attention: every modality asks all the others (paper A.3)."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths, projections


class CrossAttentionFusion(Fusion):
    """z^m = norm(h^m + attention(query h^m; keys and values: the features of all others)); p = W [z^1 … z^k]
    + b. A feature is one token, so for k = 2 the attention weights are 1 and what is learnt is the value's
    projection. `heads`: 8, or 4 below a width of 64 (paper A.3). Unimodal logits: the others' features are
    zeros (A.5), in both readouts: the code has no cross-attention. Raises ValueError where the width is no
    multiple of the heads."""

    min_modalities = 2

    def __init__(
        self,
        widths: Widths,
        outputs: int,
        heads: int | None = None,
        width: int | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(widths, outputs, **options)
        self.projections, common = projections(widths, width)
        count = heads if heads is not None else (8 if common >= 64 else 4)
        if common % count:
            raise ValueError(
                f"cross_attention: width {common} is no multiple of heads ({count}): set heads or width"
            )
        self.attention = nn.ModuleDict(
            {m: nn.MultiheadAttention(common, count, dropout=dropout, batch_first=True) for m in widths}
        )
        self.norms = nn.ModuleDict({m: nn.LayerNorm(common) for m in widths})
        self.head = nn.Linear(common * len(widths), outputs)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        h = {m: self.projections[m](features[m]) for m in self.widths}
        attended = []
        for m, query in h.items():
            others = torch.stack([other for n, other in h.items() if n != m], dim=1)  # [B, k − 1, D]
            answer, _ = self.attention[m](query[:, None], others, others, need_weights=False)
            attended.append(self.norms[m](query + answer[:, 0]))
        return cast(Tensor, self.head(torch.cat(attended, dim=1)))
