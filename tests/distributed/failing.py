"""A method that cannot take one of the samples."""

from __future__ import annotations

from torch import Tensor

from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output

BAD = 41  # row of the store


class Failing(Method):
    """Joint training, but for one sample."""

    distributed = "exact"

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if BAD in batch.index.tolist():
            raise ValueError("this sample is bad")
        return super().loss(output, batch, state)
