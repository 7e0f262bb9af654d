"""ReconBoost: boosting over modalities that reconciles them with the ensemble (Hua et al., ICML 2024)."""

import logging
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from g2d_pipeline.config import Shared
from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, State
from g2d_pipeline.models import Classification, Output

logger = logging.getLogger(__name__)

Reduction = Literal["mean", "sum"]


def stage_of(epoch: int, stage_epochs: int, rectification_epochs: int) -> tuple[int, int]:
    """The stage (from 0) that an epoch (from 1) lies in, and how many of its epochs are done before it."""
    return divmod(epoch - 1, stage_epochs + rectification_epochs)


def agreement(logits: Tensor, target: Tensor, reduction: Reduction = "sum") -> Tensor:
    """−Σ_c y_c log softmax(u)_c of logits `[B, C]` and classes `[B]`, batch mean; `mean`: 1/C of it."""
    loss = F.cross_entropy(logits, target)
    return loss / logits.shape[1] if reduction == "mean" else loss


def explained(logits: Tensor, ensemble: Tensor, target: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Σ_c y_c softmax(Φ)_c log softmax(u)_c, batch mean: minus the loss of a sample, as far as Φ `[B, C]` has
    it right. No gradient reaches the ensemble. `mean`: 1/C of it (the code)."""
    share = ensemble.detach().softmax(dim=1).gather(1, target[:, None]).squeeze(1)
    gain = -(share * F.cross_entropy(logits, target, reduction="none")).mean()
    return gain / logits.shape[1] if reduction == "mean" else gain


def consolidation(logits: Tensor, previous: Tensor, gradient: bool = True) -> Tensor:
    """MSE(softmax(u^m), softmax(u^prev)) over samples and classes of logits `[B, C]`; u^prev gets no
    gradient. `gradient=False`: nor does u^m, so that the term changes nothing (the public code)."""
    own = logits if gradient else logits.detach()
    return F.mse_loss(own.softmax(dim=1), previous.detach().softmax(dim=1))


class ReconBoost(Method):
    """In a stage one modality learns, in turn: to agree with the target where the others' ensemble does not.

    Its encoder and the head move, the others rest. After each stage all learn together from the sum of the
    logits (rectification). Stages follow the configuration's order, and each begins with fresh momentum, as
    does each rectification. All modalities are in the ensemble from the start (in the public code a modality
    joins it with its first stage). Regression (our definition): a stage fits L_S(u^m + Φ, y), what the others
    leave of the target, without weights."""

    class Parameters(MethodParameters):
        stage_epochs: PositiveInt = 4
        rectification_epochs: NonNegativeInt = 4
        agreement_weight: PositiveFloat = 5.0
        reconcilement_weight: NonNegativeFloat = 1.0
        consolidation_weight: NonNegativeFloat = 0.5
        consolidation_gradient: bool = True
        reduction: Reduction = "mean"

        @model_validator(mode="after")
        def _loss_has_a_lower_bound(self) -> Self:
            if self.reconcilement_weight > self.agreement_weight:
                raise ValueError(
                    f"reconcilement_weight = {self.reconcilement_weight:g} exceeds agreement_weight = "
                    f"{self.agreement_weight:g}: the loss would have no lower bound. Make it that or less"
                )
            return self

    parameters: Parameters
    equation = (
        "stage m: L = −w₁·y·log σ(u^m) + w₂·y·σ(Φ)·log σ(u^m) + α·MSE(σ(u^m), σ(u^prev)), "
        "Φ = Σ_{j≠m} u^j; then L = CE(Σ_m u^m, y)"
    )
    source = "Hua et al., ICML 2024, modality-alternating boosting with global rectification"
    distributed = "exact"
    fusions = ("shared", "sum")
    works_with_smp = False

    def check(self, context: MethodContext) -> None:
        super().check(context)
        combine = context.fusion_settings.get("combine", Shared().combine)
        if context.fusion == "shared" and combine != "sum":
            raise ValueError(f"reconboost adds logits; fusion.combine = {combine!r}: say fusion.combine=sum")

    def on_fit_start(self, state: State) -> None:
        self.stage = self.done = 0
        p, k = self.parameters, len(state.model.modalities)
        if state.epochs < (needed := k * p.stage_epochs + (k - 1) * p.rectification_epochs):
            note = f"takes {needed} epochs, not {state.epochs}: say epochs={needed} or a smaller stage_epochs"
            logger.warning("reconboost: a stage of each of the %d modalities %s", k, note)

    def phase(self, epoch: int, state: State) -> int:
        """One more than the modalities that have had their first stage: finished once all have."""
        p, k = self.parameters, len(state.model.modalities)
        rounds = (epoch + p.rectification_epochs) // (p.stage_epochs + p.rectification_epochs)
        return 1 + min(rounds, k)

    def on_epoch_start(self, state: State) -> None:
        p = self.parameters
        self.stage, self.done = stage_of(state.epoch, p.stage_epochs, p.rectification_epochs)
        if state.epoch > 1 and self.done in (0, p.stage_epochs):
            state.optimizer.state.clear()

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        if not self.rectifies:
            state.active = (self.learner(state, self.stage),)
        return super().train_batch(batch, state)

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if self.rectifies:
            return super().loss(output, batch, state)
        m = self.learner(state, self.stage)
        logits = state.model.unimodal_logits(output.features, m)
        if not isinstance(state.task, Classification):
            return {"task": state.task.loss(logits + self.ensemble(output, m, state), batch.target)}
        p, alone = self.parameters, len(state.model.modalities) == 1
        terms = {"agreement": p.agreement_weight * agreement(logits, batch.target, p.reduction)}
        if p.reconcilement_weight > 0 and not alone:
            gain = explained(logits, self.ensemble(output, m, state), batch.target, p.reduction)
            terms["reconcilement"] = p.reconcilement_weight * gain
        if p.consolidation_weight > 0 and self.stage > 0 and not alone:
            with torch.no_grad():
                previous = state.model.unimodal_logits(output.features, self.learner(state, self.stage - 1))
            distance = consolidation(logits, previous, p.consolidation_gradient)
            terms["consolidation"] = p.consolidation_weight * distance
        return terms

    @property
    def rectifies(self) -> bool:
        """Whether this epoch is one of rectification."""
        return self.done >= self.parameters.stage_epochs

    def learner(self, state: State, stage: int) -> str:
        """The modality whose stage it is: round robin."""
        return state.model.modalities[stage % len(state.model.modalities)]

    @torch.no_grad()
    def ensemble(self, output: Output, modality: str, state: State) -> Tensor:
        """Φ `[B, C]`: the sum of the logits of all modalities but one (zeros where it is the only one)."""
        others = (m for m in state.model.modalities if m != modality)
        logits = (state.model.unimodal_logits(output.features, m) for m in others)
        return sum(logits, torch.zeros_like(output.logits))
