"""What a method may ask of the data beside its batches: rows, clean samples, the model's answers; never of
test."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import Output
from g2d_pipeline.training.data import Data, gather
from g2d_pipeline.training.feature_cache import CHUNK
from g2d_pipeline.training.loader import Rows
from g2d_pipeline.training.optimisation import build_optimizer


def attach_data_access(
    state: State, data: Data, target: Tensor, training: TrainingSettings, device: torch.device
) -> None:
    """Fill in `State.rows`, `targets`, `batch`, `evaluate` and `new_optimizer`."""

    def rows(split: str) -> Rows:
        if split not in ("train", "val"):
            raise ValueError(f"a method may read train and val, not at {split!r}")
        return data.rows[split]

    def batch(of: Rows) -> Batch:
        index = torch.from_numpy(of)
        return Batch(index, gather(data, of, device), target[index].to(device))

    def evaluate(of: Rows) -> Iterator[tuple[Batch, Output]]:
        for start in range(0, len(of), CHUNK):
            some = batch(of[start : start + CHUNK])
            was_training = state.model.training
            state.model.eval()
            with torch.no_grad():
                output = state.model(some.inputs)
            state.model.train(was_training)
            yield some, output

    state.rows, state.batch, state.evaluate = rows, batch, evaluate
    state.targets = lambda of: target[torch.from_numpy(of)]
    state.new_optimizer = lambda parameters: build_optimizer(
        training.optimizer, [{"params": list(parameters)}], device
    )
