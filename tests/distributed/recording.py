"""Joint training that remembers what it has seen."""

from __future__ import annotations

from torch import Tensor

from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output


class Recording(Method):
    """`epochs`: number → the rows of its batches, of all devices."""

    distributed = "exact"

    def on_fit_start(self, state: State) -> None:
        self.epochs: dict[str, list[list[int]]] = {}

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        self.epochs.setdefault(str(state.epoch), []).append(state.whole(batch).tolist())
        return super().loss(output, batch, state)
