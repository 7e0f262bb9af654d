"""Gradient-Blending (Wang et al., CVPR 2020): losses weighted by how branches generalise and overfit."""

import copy
import logging
import math
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from g2d_pipeline.methods._heads import MULTI, UnimodalHeads
from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, Rows, State
from g2d_pipeline.models import MultimodalModel, Output

logger = logging.getLogger(__name__)

Losses = dict[str, tuple[float, float]]  # branch → mean loss on train and on val


def generalisation(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    """(G, O) of a branch from its (train, val) losses: G = fall of the val loss, O = rise of val − train."""
    return before[1] - after[1], (after[1] - after[0]) - (before[1] - before[0])


def blend(
    before: Losses, after: Losses, floor: float, gain: Literal["fall", "absolute"] = "fall"
) -> dict[str, float]:
    """w ∝ G/O², summing to 1; empty where no branch gained anything.

    |O| counts as no less than `floor` times the mean val loss before, and a G below 0, or not finite, as 0
    (both: our definition). `absolute`: |G|, as in the code, where a branch that gets worse gains weight."""
    least = floor * float(np.mean([val for _, val in before.values()]))
    ratios: dict[str, float] = {}
    for branch in before:
        g, o = generalisation(before[branch], after[branch])
        g = abs(g) if gain == "absolute" else max(g, 0.0)
        counts = math.isfinite(g) and math.isfinite(o) and g > 0
        ratios[branch] = g / max(abs(o), least) ** 2 if counts else 0.0
    total = sum(ratios.values())
    return {branch: w / total for branch, w in ratios.items()} if total > 0 else {}


def at_least(weights: dict[str, float], least: float) -> dict[str, float]:
    """The same weights, shrunk so that each is at least `least` and their sum stays."""
    share = 1 - least * len(weights)
    return {branch: share * w + least for branch, w in weights.items()}


class Branches:
    """A copy of every branch: a modality's encoder and head, or the whole model; and its optimizer."""

    def __init__(self, heads: UnimodalHeads, state: State) -> None:
        model, self.task = state.model, state.task
        self.models: dict[str, tuple[MultimodalModel, UnimodalHeads]] = {}
        self.optimizers = {}
        for branch in (MULTI, *model.modalities):
            kept = model.modalities if branch == MULTI else (branch,)
            encoders: dict[str, Any] = {m: copy.deepcopy(model.encoders[m]) for m in kept}
            branch_model = MultimodalModel(encoders, copy.deepcopy(model.fusion))
            branch_model.requires_grad_()  # also what SMP suppresses
            self.models[branch] = branch_model, copy.deepcopy(heads)
            parameters = (p for part in self.models[branch] for p in part.parameters())
            self.optimizers[branch] = state.new_optimizer(parameters)
            for group in self.optimizers[branch].param_groups:
                group["lr"] = state.optimizer.param_groups[0]["lr"]  # of this epoch

    def _loss(self, branch: str, batch: Batch) -> Tensor:
        model, heads = self.models[branch]
        if branch == MULTI:
            return self.task.loss(model(batch.inputs).logits, batch.target)
        features = {branch: model.encoders[branch](batch.inputs[branch]).float()}
        return self.task.loss(heads.logits(model, features, branch), batch.target)

    def learn(self, batch: Batch) -> None:
        """A step of each branch on the same samples."""
        for branch, optimizer in self.optimizers.items():
            self.models[branch][0].train()
            optimizer.zero_grad(set_to_none=True)
            self._loss(branch, batch).backward()
            optimizer.step()

    @torch.no_grad()
    def losses(self, state: State) -> Losses:
        """Each branch's mean loss on the samples of train and val, as they are stored, in evaluation mode."""
        sums = {branch: [0.0, 0.0] for branch in self.models}
        for i, split in enumerate(("train", "val")):
            for some in _batches(rows := state.rows(split), state.batch_size):
                batch = state.batch(some)
                for branch, (model, _) in self.models.items():
                    model.eval()
                    sums[branch][i] += float(self._loss(branch, batch)) * len(some) / len(rows)
        return {branch: (train, val) for branch, (train, val) in sums.items()}


def _batches(rows: Rows, size: int) -> list[Rows]:
    """Parts of nearly equal length, up to `size`: none has one sample (batch norm)."""
    return np.array_split(rows, max(1, math.ceil(len(rows) / size)))


class GBlending(Method):
    """Every modality alone and all together have a task loss; the weight of each is G/O², measured on copies.

    Copies of the branches (one for each modality, and the whole) learn alone from train as it is stored,
    without augmentation: G is what the val loss falls by, O by how much more it exceeds the train loss then.
    A branch that only overfits weighs nothing but `least`; where no branch gains, the weights stay. A fusion
    without a head for each modality gets linear ones besides. The branches share their batches. Val also
    selects the epoch here, where the paper holds out a part of train. Regression: squared errors (ours)."""

    class Parameters(MethodParameters):
        measure: Literal["online", "offline"] = "online"
        super_epoch: PositiveInt = 10
        branch_epochs: PositiveInt | None = None
        floor: PositiveFloat = 0.01
        least: Annotated[float, Field(ge=0, lt=1)] = 0.01
        gain: Literal["fall", "absolute"] = "fall"
        weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)

        @model_validator(mode="after")
        def _one_counts(self) -> Self:
            if self.weights and not 0 < sum(self.weights.values()) < math.inf:
                raise ValueError(
                    f"weights = {self.weights} must have a finite sum above 0: give one branch a weight, or "
                    "leave weights out so that they are measured"
                )
            return self

    parameters: Parameters
    by_part = ("weights",)
    equation = "L = w₀·L_S(l, y) + Σ_m w_m·L_S(u^m, y), w ∝ G/O², G = −ΔL_val, O = Δ(L_val − L_train)"
    source = "Wang et al., CVPR 2020, offline and online Gradient-Blending"
    distributed = "exact"
    no_sharding = "trains copies of the encoders"

    def check(self, context: MethodContext) -> None:
        super().check(context)
        p, count = self.parameters, len(context.modalities) + 1
        if not p.weights and p.least * count >= 1:
            raise ValueError(
                f"least = {p.least:g}: {count} branches cannot each have that much of a sum of 1. "
                f"Say less than {1 / count:.3g}"
            )

    def on_fit_start(self, state: State) -> None:
        p, branches = self.parameters, (MULTI, *state.model.modalities)
        self.heads = UnimodalHeads(state.model, state.task.outputs)
        weights = p.weights or dict.fromkeys(branches, 1.0)
        self.weights = {branch: weights.get(branch, 0.0) / sum(weights.values()) for branch in branches}

    def on_epoch_start(self, state: State) -> None:
        p = self.parameters
        every = state.epochs if p.measure == "offline" else p.super_epoch
        if p.weights or (state.epoch - 1) % every:
            return
        measured = self._measure(p.branch_epochs or min(every, state.epochs - state.epoch + 1), state)
        if measured:
            self.weights = at_least(measured, p.least)
        weights = ", ".join(f"{branch} {w:.3g}" for branch, w in self.weights.items())
        note = "" if measured else " (no branch gained: as before)"
        logger.info("gblending: weights from epoch %d on%s: %s", state.epoch, note, weights)

    def _measure(self, epochs: int, state: State) -> dict[str, float]:
        """Weights from training copies of all branches alone for so many epochs; empty where none gained."""
        branches = Branches(self.heads, state)
        before = branches.losses(state)
        rows = state.rows("train")
        for _ in range(epochs):
            for some in _batches(rows[torch.randperm(len(rows)).numpy()], state.batch_size):
                branches.learn(state.batch(some))
        weights = blend(before, branches.losses(state), self.parameters.floor, self.parameters.gain)
        agreed: dict[str, float] = state.agree(weights)
        return agreed

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        return self.heads.losses(output, batch.target, self.weights, state)
