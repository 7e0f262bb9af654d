"""What the tests of methods share: a student on little data, and whether two are the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.training import Data, train_student
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
