"""What the tests of methods share: a student on little data, and whether two are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods.base import Method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.training import Data, fit, train_student
from tests.conftest import TINY, recipe


def student(data: Data, encoder: Any = TINY, **settings: Any) -> Trained:
    """Two epochs without teachers; `settings`: of `train_student`."""
    settings = {"training": recipe(2), "progress": False, **settings}
    return train_student(data, dict.fromkeys(data.modalities, encoder), {}, **settings)


def same(a: Trained | nn.Module, b: Trained | nn.Module) -> bool:
    """Whether two models have the same parameters and buffers, bit for bit."""
    x, y = ((of.model if isinstance(of, Trained) else of).state_dict() for of in (a, b))
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of `[B, C]`, over the classes."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def goes_on_after_a_kill(
    build: Callable[[], tuple[MultimodalModel, Method]], data: Data, folder: Path, *, epochs: int, batch: int
) -> bool:
    """Whether a training stopped in its `batch`-th batch and started again ends in the bits of an undisturbed
    one."""

    def train(name: str, stop_at: int = 0) -> nn.Module:
        model, method = build()
        ours: Any = method.train_batch
        count = 0

        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == stop_at:
                raise InterruptedRun("stopped", 2)
            return ours(*arguments)

        method.train_batch = counted  # type: ignore[method-assign]
        run: Any = {
            "training": recipe(epochs),
            "progress": False,
            "folder": folder / name,
            "checkpoint_minutes": 0,
        }
        return fit(model, data, method, **run).model

    whole = train("whole")
    with pytest.raises(InterruptedRun):
        train("cut", stop_at=batch)
    return same(whole, train("cut"))
