"""AMCo: adaptive mask co-optimisation against modal dependence (Zhou et al., 2023)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from g2d_pipeline.methods._heads import weighted_losses
from g2d_pipeline.methods._scores import Window, by_lead, sum_confidence, summed_scores
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output, Task

CODE_EPOCHS = 10  # the code's progress grows by a tenth of the epoch's number with every batch


def dependence_shares(task: Task, logits: dict[str, Tensor], target: Tensor) -> Tensor:
    """The share `[k]` of each modality in one softmax over all modalities' logits side by side, mean over the
    batch. Regression (our definition): s^m / Σ_j s^j, of the mean confidences."""
    if task.outputs > 1:
        p = torch.cat(list(logits.values()), dim=1).double().softmax(dim=1)
        return torch.stack([part.sum(dim=1).mean() for part in p.split(task.outputs, dim=1)]).cpu()
    return shares_of(sum_confidence(task, logits, target))


def shares_of(scores: Tensor) -> Tensor:
    """s^m / Σ_j s^j `[k]`."""
    return scores / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)


def masked_share(progress: float, epsilon: float) -> float:
    """p = sin(π/2 · min(ε, l) / ε) of the progress l ≥ 0: from 0 to 1, where l reaches ε."""
    return math.sin(math.pi / 2 * min(epsilon, progress) / epsilon)


def mask_features(feature: Tensor, dimensions: Tensor) -> Tensor:
    """The feature `[B, D]` with zeros in these dimensions, of all samples alike."""
    mask = torch.ones(feature.shape[1])
    mask[dimensions] = 0
    return feature * mask.to(feature)


class AMCo(Method):
    """Of a modality whose share of the summed softmax exceeds σ, ⌊p·D_m⌋ feature dimensions are masked.

    Which ones is drawn anew for every batch; p grows over the epochs. The share is that of the batch itself,
    before anything is masked (the code decides by the batch before). The published mask has U = 512
    dimensions, which is the width of all features there; ours has each modality's own width. Every modality
    has a task loss of its own besides, from what is left of its feature. Regression: shares of confidence
    (our definition). Predictions use all features."""

    class Parameters(Window):
        sigma: Annotated[float, Field(gt=0, le=1)] = 0.5
        epsilon: PositiveFloat = 0.3
        progress: Literal["epochs", "batches"] = "epochs"
        greatest_share: Annotated[float, Field(ge=0, le=1)] = 1.0
        hold: Literal["batch", "epoch"] = "batch"
        rescale: bool = False
        unimodal_weight: NonNegativeFloat = 1.0

    parameters: Parameters
    min_modalities = 2
    equation = (
        "L = L_S(l, y) + w Σ_m L_S(u^m, y); share^m > σ: ⌊p·D_m⌋ dimensions of f^m ← 0, "
        "p = sin(π/2·min(ε, l_t)/ε)"
    )
    source = "Zhou et al., 2023, adaptive mask co-optimization; sine schedule of its public code"
    distributed = "exact"

    def on_fit_start(self, state: State) -> None:
        self.batches = 0  # of this epoch
        self.held: list[str] = []  # masked to the end of this epoch

    def on_epoch_start(self, state: State) -> None:
        self.batches, self.held = 0, []

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p = self.parameters
        if not p.acts(state.epoch):
            return super().loss(output, batch, state)
        share = self._share(state)
        self.batches += 1
        masked = self._masked(output, batch, share, state) if p.sigma < 1 and p.greatest_share > 0 else {}
        if masked:
            features = output.features | masked
            output = Output(features, state.model.fusion(features))
        terms = super().loss(output, batch, state)
        if p.unimodal_weight > 0:
            alone = state.unimodal_logits(output)
            terms |= weighted_losses(state.task, alone, batch.target, p.unimodal_weight)
        return terms

    def _share(self, state: State) -> float:
        """p in this batch."""
        p = self.parameters
        done = state.epoch - 1
        progress = done / state.epochs if p.progress == "epochs" else self.batches * done / CODE_EPOCHS
        return min(masked_share(progress, p.epsilon), p.greatest_share)

    def _masked(self, output: Output, batch: Batch, share: float, state: State) -> dict[str, Tensor]:
        """m → its masked feature, of the modalities on which too much depends."""
        with torch.no_grad():
            if state.task.outputs > 1:
                alone = state.unimodal_logits(output)
                shares = state.mean(dependence_shares(state.task, alone, batch.target))
            else:
                shares = shares_of(summed_scores(state, output, batch.target))
        names = state.model.modalities
        over = [m for m, s in zip(names, shares.tolist(), strict=True) if s > self.parameters.sigma]
        if self.parameters.hold == "epoch":
            self.held = [*self.held, *(m for m in over if m not in self.held)]
            over = self.held
        features: dict[str, Tensor] = {}
        for m in (names[position] for position in by_lead(shares)):
            width = output.features[m].shape[1]
            if m not in over or int(share * width) == 0:
                continue
            features[m] = mask_features(output.features[m], torch.randperm(width)[: int(share * width)])
            if self.parameters.rescale:
                features[m] = features[m] / max(1 - share, 0.1)
        return features
