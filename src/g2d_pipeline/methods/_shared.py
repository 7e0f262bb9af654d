"""Shared by methods: when one acts, scores, unimodal heads, Shapley values, a start as the teachers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Literal, Self, TypeVar, cast

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import MethodParameters, State
from g2d_pipeline.models import MultimodalModel, Output, Task
from g2d_pipeline.models.encoders import initialise
from g2d_pipeline.models.fusions.weighted import WeightedFusion

MULTI = "multi"  # the multimodal prediction, as in the history
REMEDY = """Give the student the teacher's encoder (no teacher_encoder, or the same one), and train teachers \
for it: kedro run --pipeline teachers."""
V = TypeVar("V", float, Tensor)
Coalition = frozenset[str]


class Window(MethodParameters):
    """`start_epoch`, `end_epoch`: the first and last epoch, from 1, in which it acts (default: all)."""

    start_epoch: PositiveInt = 1
    end_epoch: PositiveInt | None = None

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.end_epoch is not None and self.end_epoch < self.start_epoch:
            raise ValueError(
                f"end_epoch = {self.end_epoch} is before start_epoch = {self.start_epoch}, so it never "
                f"acts: say an end_epoch of {self.start_epoch} or more, or null for the whole run"
            )
        return self

    def acts(self, epoch: int) -> bool:
        return self.start_epoch <= epoch and (self.end_epoch is None or epoch <= self.end_epoch)


# ----------------------------------------------------------------------------------------------------- scores
def summed_scores(state: State, output: Output, target: Tensor) -> Tensor:
    """Σ_b ρ_b^m `[k]` of each modality alone on a batch: B times its score; float64, CPU, no gradient."""
    with torch.no_grad():
        return state.sum(sum_confidence(state.task, state.unimodal_logits(output), target))


def sum_confidence(task: Task, logits: dict[str, Tensor], target: Tensor) -> Tensor:
    """Σ_b ρ_b^m `[k]` of unimodal logits m → `[B, C]`; float64, on the CPU."""
    return torch.stack([task.confidence(u, target).double().sum() for u in logits.values()]).cpu()


def ratios(scores: Tensor, others: Literal["mean", "sum"] = "mean") -> Tensor:
    """r^m = s^m / mean of the others' s `[k]` (k = 2: the other's), or their `sum`. All 0: 1."""
    k, tiny = len(scores), torch.finfo(scores.dtype).tiny
    rest = (1 - torch.eye(k, dtype=scores.dtype, device=scores.device)) @ scores
    return scores.clamp_min(tiny) / (rest / (k - 1) if others == "mean" else rest).clamp_min(tiny)


def by_lead(scores: Tensor) -> list[int]:
    """The modalities' positions from the greatest score to the least; ties: the configuration's order.

    Random numbers are drawn in it, so that a modality's place and name do not decide which ones it gets."""
    order: list[int] = scores.argsort(descending=True, stable=True).tolist()
    return order


def quantile_edges(target: Tensor, bins: int) -> Tensor:
    """The inner edges of so many quantile bins of a regression's target `[N]`, without repeated ones."""
    return torch.from_numpy(np.unique(np.quantile(target.cpu().numpy(), np.arange(1, bins) / bins)))


# ------------------------------------------------------------------------------------------- heads and losses
class UnimodalHeads(nn.Module):
    """u^m `[B, C]`: by the fusion's own head of m where it has one, else by a linear head made here.

    `needed`: the modalities whose head is made here (left out: all, where the fusion has none of its own).
    As an attribute of the method, made in `on_fit_start`, it is trained, checkpointed and moved as the model
    is, and not part of the model that is saved."""

    def __init__(self, model: MultimodalModel, outputs: int, needed: Collection[str] | None = None) -> None:
        super().__init__()
        if needed is None:
            needed = () if model.fusion.heads_of_its_own else model.modalities
        heads = {m: nn.Linear(model.fusion.widths[m], outputs) for m in needed}
        self.heads = initialise(nn.ModuleDict(heads))

    def logits(self, model: MultimodalModel, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` of one modality from its feature `[B, D_m]`."""
        if modality in self.heads:
            return cast(Tensor, self.heads[modality](features[modality]))
        return model.unimodal_logits(features, modality)

    def losses(
        self, output: Output, target: Tensor, weights: Mapping[str, float], state: State
    ) -> dict[str, Tensor]:
        """w_p · task loss of each part p ("multi" or a modality) of positive weight: `task` or `task_<m>`."""
        parts = [part for part, weight in weights.items() if weight > 0]
        logits = {m: self.logits(state.model, output.features, m) for m in parts if m != MULTI}
        logits = {part: output.logits if part == MULTI else logits[part] for part in parts}
        return weighted_losses(state.task, logits, target, weights)


def weighted_losses(
    task: Task, logits: Mapping[str, Tensor], target: Tensor, weights: Mapping[str, float] | float = 1.0
) -> dict[str, Tensor]:
    """w_p · task loss of the logits `[B, C]` of each part p of positive weight."""
    by_part = weights if isinstance(weights, Mapping) else dict.fromkeys(logits, weights)
    return {
        "task" if part == MULTI else f"task_{part}": by_part[part] * task.loss(u, target)
        for part, u in logits.items()
        if by_part[part] > 0
    }


# ---------------------------------------------------------------------------------------------------- subsets
def coalitions(modalities: Sequence[str]) -> list[Coalition]:
    """All 2^k subsets, the smaller ones first: from none to all."""
    return [frozenset(some) for size in range(len(modalities) + 1) for some in combinations(modalities, size)]


def shapley(modalities: Sequence[str], value: Callable[[Coalition], V]) -> dict[str, V]:
    """φ^m = Σ_{S ∌ m} |S|! (k − |S| − 1)! / k! · (v(S ∪ {m}) − v(S)); they sum to v(all) − v(∅) (Shapley
    1953).

    `value` is called once for each of the 2^k subsets; it gives numbers, or tensors of one shape."""
    k, values = len(modalities), {some: value(some) for some in coalitions(modalities)}
    contributions: dict[str, V] = {}
    for m in modalities:
        parts: list[V] = [
            factorial(len(some)) * factorial(k - len(some) - 1) / factorial(k) * (values[some | {m}] - before)
            for some, before in values.items()
            if m not in some
        ]
        contributions[m] = sum(parts[1:], parts[0])
    return contributions


def mask_others(features: Mapping[str, Tensor], kept: Coalition) -> dict[str, Tensor]:
    """The features `[B, D_m]`, with zeros in place of the modalities that are not in `kept`."""
    return {m: feature if m in kept else torch.zeros_like(feature) for m, feature in features.items()}


# --------------------------------------------------------------------------------------------------- teachers
def start_as_teachers(state: State, method: str) -> None:
    """Write each teacher's encoder, and its head where the student's fusion has one of its own for every
    modality, into the student's of the same modality.

    A fusion that weighs its heads (`weighted`) weighs them by w_m ∝ 1 / the task loss of teacher m on val (in
    a regression: its held-out precision), Σ_m w_m = 1. Raises ConfigError, naming the method, the modality
    and the first difference, where they have other layers, and where only a teacher's outputs are given."""
    model = state.model
    student_state, copied = model.state_dict(), dict[str, Tensor]()
    for m, outputs in state.teachers.items():
        if outputs.model is None:
            raise ConfigError(
                f"{method} copies the teacher of {m}, and only its stored outputs are given: "
                "give the trained teacher itself"
            )
        parts = (f"encoders.{m}.", *([f"fusion.heads.{m}."] if model.fusion.heads_of_its_own else []))
        teacher_state = {n: value for n, value in outputs.model.state_dict().items() if n.startswith(parts)}
        for name in dict.fromkeys([*(n for n in student_state if n.startswith(parts)), *teacher_state]):
            ours, theirs = (
                list(of[name].shape) if name in of else None for of in (student_state, teacher_state)
            )
            if ours != theirs:
                raise ConfigError(
                    f"{method}: the teacher of {m} has another encoder than the student: {name} is "
                    f"{theirs or 'absent'} in the teacher and {ours or 'absent'} in the student. {REMEDY}"
                )
        copied |= teacher_state
    model.load_state_dict(student_state | copied)
    if isinstance(model.fusion, WeightedFusion):
        rows, precision = state.rows("val"), dict[str, float]()
        target = state.targets(rows)
        for m, teacher in state.teachers.items():
            loss = float(state.task.loss(teacher.view(rows, target.device).logits.float(), target))
            precision[m] = 1.0 / max(loss, torch.finfo(torch.float32).tiny)
        for m, value in precision.items():
            model.fusion.weights[m].data.fill_(value / sum(precision.values()))
