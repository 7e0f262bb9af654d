"""PMR (Fan et al., CVPR 2023): the slower modality is drawn to its class prototypes."""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from g2d_pipeline.methods._scores import Window, quantile_edges, ratios
from g2d_pipeline.methods.base import Batch, Method, Rows, State
from g2d_pipeline.models import Output


def similarities(features: Tensor, prototypes: Tensor) -> Tensor:
    """z = −‖f − c‖₂ `[B, C]` of features `[B, D]` and prototypes `[C, D]`."""
    return -torch.cdist(features, prototypes, compute_mode="donot_use_mm_for_euclid_dist")


def prototype_weight(ratio: Tensor, alpha: float, rule: Literal["paper", "code"] = "paper") -> Tensor:
    """λ^m `[k]` = α·clip(1/r^m − 1, 0, 1) (`paper`), or α where r^m < 1, else 0 (`code`)."""
    return alpha * ((1 / ratio - 1).clamp(0, 1) if rule == "paper" else (ratio < 1).to(ratio.dtype))


def entropy_reward(ratio: Tensor, weight: float) -> Tensor:
    """μ·clip(r^m − 1, 0, 1) `[k]`: how much the entropy of a modality that leads is rewarded."""
    return weight * (ratio - 1).clamp(0, 1)


def entropy(similarity: Tensor) -> Tensor:
    """Batch mean of H(softmax(z)) of similarities `[B, C]`."""
    log_p = similarity.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()


def stratified(rows: Rows, labels: Rows, order: Rows, share: float) -> Rows:
    """A share of the rows `[N]` of each label, at least one, the first in `order` (a permutation)."""
    sorted_labels = labels[order]
    classes, counts = np.unique(labels, return_counts=True)
    quotas = np.ceil(share * counts).astype(int)
    chosen = [order[sorted_labels == c][:n] for c, n in zip(classes, quotas, strict=True)]
    return np.sort(rows[np.concatenate(chosen)])


class PMR(Method):
    """Distances to class prototypes say how far each modality is; a loss draws the slower one to them.

    A modality that leads is slowed in the first epochs by a reward for the entropy of its similarities.
    Prototypes are class means of features of clean train samples, looked at once an epoch. They remember the
    epochs before, but not the encoders before training (as in the code). More than two modalities: against
    the mean of the others; regression: classes are quantile bins of the target (both our definition). With α
    = 0 and μ = 0 it is joint training."""

    class Parameters(Window):
        alpha: NonNegativeFloat = 1.0
        rule: Literal["paper", "code"] = "paper"
        entropy_weight: NonNegativeFloat = 0.1
        entropy_epochs: NonNegativeInt = 5
        memory: Annotated[float, Field(ge=0, lt=1)] = 0.2
        share: Annotated[float, Field(gt=0, le=1)] = 0.1
        bins: Annotated[int, Field(ge=2)] = 10

    parameters: Parameters
    equation = (
        "L = L_S + Σ_m λ^m·CE(z^m, y) − Σ_m μ·clip(r^m − 1, 0, 1)·H(σ(z^m)), z^m = −‖f^m − c^m‖, "
        "λ^m = α·clip(1/r^m − 1, 0, 1), r^m = p^m / p^others, p^m = mean σ(z^m)[y]"
    )
    source = "Fan et al., CVPR 2023, prototypical cross-entropy and prototypical entropy regularisation"
    distributed = "exact"

    def on_fit_start(self, state: State) -> None:
        target = state.targets(state.rows("train"))
        self.edges = torch.zeros(0)  # between the bins of a regression
        if target.is_floating_point():
            self.edges = quantile_edges(target, self.parameters.bins).float().unique()
        self.present = self._binned(target).unique()  # classes that train has samples of
        self.prototypes: dict[str, Tensor] = {}
        self.learnt = False  # whether they are of encoders that have been trained

    def _binned(self, target: Tensor) -> Tensor:
        return torch.bucketize(target, self.edges.to(target.device)) if target.is_floating_point() else target

    def labels(self, target: Tensor) -> Tensor:
        """Encoded targets `[B]` → rows `[B]` of the prototypes."""
        return torch.searchsorted(self.present.to(target.device), self._binned(target))

    def _rewards_entropy(self, state: State) -> bool:
        return self.parameters.entropy_weight > 0 and state.epoch <= self.parameters.entropy_epochs

    def _acts(self, state: State) -> bool:
        p = self.parameters
        return p.acts(state.epoch) and (p.alpha > 0 or self._rewards_entropy(state))

    def on_epoch_start(self, state: State) -> None:
        if not self._acts(state):
            return
        fresh = self._class_means(state)
        keep = self.parameters.memory if self.learnt else 0.0
        if keep > 0:
            fresh = {m: keep * self.prototypes[m].to(c) + (1 - keep) * c for m, c in fresh.items()}
        self.prototypes = fresh
        self.learnt = state.epoch > 1

    def _class_means(self, state: State) -> dict[str, Tensor]:
        """m → `[C, D_m]`, of a share of the train samples."""
        rows = state.rows("train")
        if self.parameters.share < 1:
            labels = self.labels(state.targets(rows)).numpy()
            rows = stratified(rows, labels, torch.randperm(len(rows)).numpy(), self.parameters.share)
        sums: dict[str, Tensor] = {}
        count: Tensor | float = 0.0
        for batch, output in state.evaluate(rows):
            member = F.one_hot(self.labels(batch.target), len(self.present)).float()  # [n, C]
            count = count + member.sum(dim=0)[:, None]
            for m, feature in output.features.items():
                sums[m] = sums.get(m, 0.0) + member.T @ feature
        return {m: total / count for m, total in sums.items()}

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p, terms = self.parameters, super().loss(output, batch, state)
        if not self._acts(state):
            return terms
        label = self.labels(batch.target)
        z = {m: similarities(f, self.prototypes[m].to(f)) for m, f in output.features.items()}
        with torch.no_grad():
            scores = torch.stack([u.softmax(dim=1).gather(1, label[:, None]).mean() for u in z.values()])
            ratio = ratios(state.mean(scores))
        learning = [(i, u) for i, u in enumerate(z.values()) if u.requires_grad]
        if p.alpha > 0:
            weight = prototype_weight(ratio, p.alpha, p.rule)
            attractions = [weight[i] * F.cross_entropy(u, label) for i, u in learning]
            terms["prototypes"] = sum(attractions, ratio.new_zeros(()))
        if self._rewards_entropy(state):
            weight = entropy_reward(ratio, p.entropy_weight)
            rewards = [-weight[i] * entropy(u) for i, u in learning]
            terms["entropy"] = sum(rewards, ratio.new_zeros(()))
        return terms
