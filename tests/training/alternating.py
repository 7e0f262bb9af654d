"""A method with everything that makes resuming hard: a head of its own, running tensors, stages, a rewritten
epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output


class Alternating(Method):
    """Steps for one modality after the other; nothing in it knows that it will be resumed."""

    def on_fit_start(self, state: State) -> None:
        self.head = nn.Linear(5, state.task.outputs)  # shared by all modalities
        self.projection = torch.eye(5)
        self.running: dict[str, float] = {}
        self.seen: list[int] = []
        self.stage = ("warm", 0)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters())}, {"params": list(self.head.parameters()), "lr": 0.02}]

    def on_epoch_start(self, state: State) -> None:
        self.stage = ("warm" if state.epoch < 3 else "hot", state.epoch)

    def rows(self, rows: np.ndarray, state: State) -> np.ndarray:  # type: ignore[type-arg]
        extra = sum(self.seen) % 17
        return np.concatenate([rows, rows[:extra]])

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        terms = {}
        for m in state.model.modalities:
            feature = F.dropout(state.forward(batch).features[m], 0.2) @ self.projection
            terms[m] = F.cross_entropy(self.head(feature), batch.target)
            state.backward(terms[m])
            state.step()
            mean = feature.detach().mean(dim=0, keepdim=True)
            self.projection = self.projection - 0.01 * mean.T @ mean
            self.running[m] = 0.9 * self.running.get(m, 0.0) + 0.1 * float(terms[m].detach())
        self.seen.append(int(batch.index[0]))
        return terms

    def predict(self, output: Output) -> Tensor:
        return torch.stack([self.head(f @ self.projection) for f in output.features.values()]).mean(dim=0)
