"""Scores of a split from one forward, which epoch is kept, and when training ends early."""

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.methods.base import Method, Validation
from g2d_pipeline.models import MultimodalModel, Task
from g2d_pipeline.models.multimodal import preserve_norm_stats
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.data import Data, Rows, chunks, gather, take
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.loader import FeatureCache
from g2d_pipeline.training.teachers import TeacherOutputs

Scores = dict[str, dict[str, float]]  # split → part → value
Key = tuple[float, float]  # larger is better: by the selection metric, then by the task loss
WORST: Key = (-math.inf, -math.inf)


@dataclass(frozen=True)
class Evaluator:
    """Runs a model over splits of the data in evaluation mode; each process of `group` runs its share.

    `target` `[N]`: encoded; `teachers`: those whose features are compared with the model's."""

    data: Data
    method: Method
    target: Tensor
    device: torch.device
    teachers: Mapping[str, TeacherOutputs] = field(default_factory=dict)
    group: Group | None = None

    @torch.no_grad()
    def forward(
        self, model: MultimodalModel, split: str, cache: FeatureCache | None = None
    ) -> Iterator[tuple[Rows, dict[str, Tensor], dict[str, Tensor]]]:
        """One forward over a split by chunks: (rows `[B]`, features, logits), on the CPU.

        `features`: m → `[B, D_m]`; `logits`: part → `[B, C]` ("multi" and each modality, all from the same
        features). Encoders whose features are in the cache do not run; new features are added to it."""
        cached = cache.of_split(split) if cache is not None else {}
        uncached = [m for m in model.modalities if m not in cached]
        split_rows, longest = self.data.rows[split], None
        if self.group is not None and self.group.world > 1:  # shards of encoders are gathered by all at once
            longest = math.ceil(len(split_rows) / self.group.world)
            split_rows = split_rows[self.group.part(len(split_rows))]
        with preserve_norm_stats(model, "frozen"):
            for rows in chunks(split_rows, map(self.data.shape, uncached), self.device, longest):
                features = {m: take(array, rows).to(self.device) for m, array in cached.items()}
                output = model(gather(self.data, rows, self.device, uncached), features=features)
                logits = {"multi": self.method.predict(output).cpu()}
                logits |= {m: model.unimodal_logits(output.features, m).cpu() for m in model.modalities}
                if cache is not None:
                    for m in uncached:
                        cache.keep(m, rows, output.features[m])
                yield rows, {m: output.features[m].cpu() for m in model.modalities}, logits
        if cache is not None:
            for m in uncached:
                cache.complete(m, split)

    def score(self, model: MultimodalModel, split: str, cache: FeatureCache | None = None) -> Validation:
        """Logits and targets of a split, the scores of every part, and the mean cosine of the features with
        those of teachers that are as wide."""
        group, task, rows_of_split = self.group or Group(), self.data.task, self.data.rows[split]
        count, outputs = len(rows_of_split), defaultdict[str, list[Tensor]](list)
        cosines = defaultdict[str, float](float)
        for rows, features, logits in self.forward(model, split, cache):
            for part, values in logits.items():
                outputs[part].append(values)
            for m, teacher in self.teachers.items():
                if teacher.feature.shape[1:] == features[m].shape[1:]:
                    cosine = cosine_similarity(features[m].float(), take(teacher.feature, rows).float())
                    cosines[f"cosine/{m}"] += float(cosine.sum()) / count
        target = self.target[torch.from_numpy(rows_of_split)]
        logits_of = {part: group.gather(torch.cat(values), count) for part, values in outputs.items()}
        if cosines:
            sums = group.sum(torch.tensor(list(cosines.values()), dtype=torch.float64)).tolist()
            cosines.update(zip(cosines, sums, strict=True))
        scores = {part: task.score(logits, target) for part, logits in logits_of.items()}
        if len(model.modalities) == 1:  # a teacher: its one modality is the whole
            del scores["multi"]
        scores |= {"loss": float(task.loss(logits_of["multi"], target)), **cosines}
        return Validation(logits_of, target, scores)


def score_key(task: Task, scores: dict[str, float], metric: str | None = None) -> Key:
    """The first value of `scores` is "multi", or a teacher's one modality. `metric`: `selection_metric`."""
    sign = 1 if task.higher_is_better else -1
    first = -scores["loss"] if metric == "loss" else sign * next(iter(scores.values()))
    return first, -scores["loss"]


class ModelSelector(Stateful):
    """Keeps weights and method state of the best epoch of the last phase so far (`select_in: all`: of all).

    Of epochs with the same selection metric, the one of the lowest task loss; of equal ones, the earlier.
    `phase`: of the selected `epoch`; `first`: the first epoch of those that it was selected from."""

    state_names: ClassVar = ("epoch", "phase", "first", "key", "weights", "method")

    def __init__(self, task: Task, training: TrainingSettings) -> None:
        self.task, self.training = task, training
        self.epoch, self.phase, self.first = 0, 0, 1
        self.key = WORST
        self.weights: dict[str, Tensor] | None = None
        self.method: dict[str, Any] = {}

    def update(self, epoch: int, phase: int, scores: Scores, model: MultimodalModel, method: Method) -> None:
        """Keep this epoch's weights if they are the best so far; the phases, from 1, never fall."""
        selection = self.training.selection
        if selection == "last":
            self.epoch, self.first, self.phase = epoch, epoch, phase
            return
        begins = phase > self.phase and self.training.select_in == "last_phase"
        if begins:
            self.first = epoch
        key = score_key(self.task, scores[selection], self.training.selection_metric)
        if self.weights is None or begins or key > self.key:
            self.key, self.epoch, self.phase = key, epoch, phase
            self.weights = copy.deepcopy(model.state_dict())
            self.method = copy.deepcopy(method.state_dict())

    def restore(self, model: MultimodalModel, method: Method, last: MultimodalModel) -> None:
        """Load the selected weights into `model`; where none were selected, those of `last`."""
        if self.weights is not None:
            model.load_state_dict(self.weights)
            method.load_state_dict(self.method)
        elif last is not model:
            model.load_state_dict(last.state_dict())


class EarlyStopping(Stateful):
    """Counts the epochs without a better validation score; `patience` of them end training (None: never).

    Better is what `ModelSelector` takes for better."""

    state_names: ClassVar = ("epochs", "key")

    def __init__(self, task: Task, training: TrainingSettings) -> None:
        self.task, self.training = task, training
        self.epochs, self.key = 0, WORST

    def update(self, scores: dict[str, float], counts: bool) -> None:
        """After an epoch; it is left out unless it `counts`."""
        if counts:
            key = score_key(self.task, scores, self.training.selection_metric)
            self.epochs = 0 if key > self.key else self.epochs + 1
            self.key = max(self.key, key)

    @property
    def reached(self) -> bool:
        patience = self.training.early_stopping
        return patience is not None and self.epochs >= patience
