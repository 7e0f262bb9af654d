"""What a method may read beside its batches: rows, clean samples, the model's outputs; never of test."""

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

    def rows_of(split: str) -> Rows:
        if split not in ("train", "val"):
            raise ValueError(f"a method may read train and val, not {split!r}")
        return data.rows[split]

    def batch(rows: Rows) -> Batch:
        index = torch.from_numpy(rows)
        return Batch(index, gather(data, rows, device), target[index].to(device))

    def evaluate(rows: Rows) -> Iterator[tuple[Batch, Output]]:
        for start in range(0, len(rows), CHUNK):
            some = batch(rows[start : start + CHUNK])
            was_training = state.model.training
            state.model.eval()
            with torch.no_grad():
                output = state.model(some.inputs)
            state.model.train(was_training)
            yield some, output

    state.rows, state.batch, state.evaluate = rows_of, batch, evaluate
    state.targets = lambda rows: target[torch.from_numpy(rows)]
    state.new_optimizer = lambda parameters: build_optimizer(
        training.optimizer, [{"params": list(parameters)}], device
    )
