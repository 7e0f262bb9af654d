"""Scores of a split from one forward, and which epoch is kept."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from g2d_pipeline.methods.base import Method, Validation
from g2d_pipeline.models import MultimodalModel, Task
from g2d_pipeline.training.data import Data, gather, take
from g2d_pipeline.training.feature_cache import CHUNK, FeatureCache

Scores = dict[str, dict[str, float]]  # split → part → value


@torch.no_grad()
def forward_split(
    model: MultimodalModel,
    data: Data,
    method: Method,
    split: str,
    device: torch.device,
    memory: FeatureCache | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Tensor], dict[str, Tensor]]]:
    """One forward in evaluation mode over a split, chunk by chunk: (rows `[B]`, features, logits), on the
    CPU.

    `features`: m → `[B, D_m]`; `logits`: part → `[B, C]` ("multi" and each modality, all from the same
    features). Encoders whose features the memory knows do not run; what is new is kept there."""
    was_training = model.training
    model.eval()
    known = memory.of_split(split) if memory is not None else {}
    unknown = [m for m in model.modalities if m not in known]
    for start in range(0, len(data.rows[split]), CHUNK):
        rows = data.rows[split][start : start + CHUNK]
        features = {m: take(array, rows).to(device) for m, array in known.items()}
        output = model(gather(data, rows, device, unknown), features=features)
        logits = {"multi": method.predict(output).cpu()}
        logits |= {m: model.unimodal_logits(output.features, m).cpu() for m in model.modalities}
        if memory is not None:
            for m in unknown:
                memory.keep(m, rows, output.features[m])
        yield rows, {m: output.features[m].cpu() for m in model.modalities}, logits
    if memory is not None:
        for m in unknown:
            memory.done(m, split)
    model.train(was_training)


def score_split(
    model: MultimodalModel,
    data: Data,
    method: Method,
    target: Tensor,
    split: str,
    device: torch.device,
    memory: FeatureCache | None = None,
) -> Validation:
    """Logits and targets of a split, and the scores of every part. `target` `[N]`: encoded."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for _, _, logits in forward_split(model, data, method, split, device, memory):
        for part, values in logits.items():
            found[part].append(values)
    of = target[torch.from_numpy(data.rows[split])]
    whole = {part: torch.cat(values) for part, values in found.items()}
    scores = {part: data.task.score(logits, of) for part, logits in whole.items()}
    if len(model.modalities) == 1:  # a teacher: its one modality is the whole
        del scores["multi"]
    return Validation(whole, of, scores | {"loss": float(data.task.loss(whole["multi"], of))})


class ModelSelector:
    """Remembers weights and method of the best epoch: by the metric, then by the task loss, then the earlier
    one.

    `patience`: epochs offered with `counts` since the best validation score of those; see `early_stopping`.
    """

    def __init__(self, task: Task, selection: Literal["val", "last", "test"]) -> None:
        self.sign = 1 if task.higher_is_better else -1
        self.selection = selection
        self.epoch = 0
        self.key: tuple[float, float] = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] | None = None
        self.method: dict[str, Any] = {}
        self.patience = 0
        self.watched: tuple[float, float] = (-math.inf, -math.inf)

    def update(
        self, epoch: int, scores: Scores, model: MultimodalModel, method: Method, counts: bool
    ) -> None:
        """Keep this epoch's weights if they are the best so far."""
        if counts:
            on_val = self._key(scores["val"])
            self.patience = 0 if on_val > self.watched else self.patience + 1
            self.watched = max(self.watched, on_val)
        if self.selection == "last":
            self.epoch = epoch
            return
        key = self._key(scores[self.selection])
        if self.weights is None or key > self.key:
            self.key, self.epoch = key, epoch
            self.weights = copy.deepcopy(model.state_dict())
            self.method = copy.deepcopy(method.state_dict())

    def _key(self, of: dict[str, float]) -> tuple[float, float]:
        """Larger is better. The first value is "multi", or a teacher's one modality."""
        return self.sign * next(iter(of.values())), -of["loss"]

    def restore(self, model: MultimodalModel, method: Method) -> None:
        if self.weights is not None:
            model.load_state_dict(self.weights)
            method.load_state_dict(self.method)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("sign", "selection")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
