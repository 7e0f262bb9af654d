"""MLA: Multimodal representation Learning by Alternating unimodal adaptation (Zhang et al., CVPR 2024)."""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, State
from g2d_pipeline.models import Task
from g2d_pipeline.models.fusions.shared import SharedFusion


def regularisation_at(progress: float, base: float = 0.1) -> float:
    """λ = base^(1 + progress), `progress` from 0 to 1: the share of the epoch that is done."""
    return float(base ** (1 + progress))


def update_projection(projection: Tensor, direction: Tensor, regularisation: float) -> Tensor:
    """P − (P r)(P r)ᵀ / (λ + rᵀ P r) of P `[D, D]` and a direction r `[D]`: one step of recursive least
    squares. Of a step along P r only λ / (λ + rᵀ P r) is left."""
    gain = projection @ direction
    return projection - torch.outer(gain, gain) / (regularisation + direction @ gain)


def project_gradient(head: nn.Linear, projection: Tensor) -> None:
    """The gradient G of the head's weight `[C, D]` becomes G Pᵀ, in place; P `[D + 1, D + 1]`: with bias."""
    weight = cast(Tensor, head.weight.grad)
    if len(projection) == weight.shape[1]:
        weight.copy_(weight @ projection.T)
        return
    bias = cast(Tensor, head.bias.grad)
    projected = torch.cat([weight, bias[:, None]], dim=1) @ projection.T
    weight.copy_(projected[:, :-1])
    bias.copy_(projected[:, -1])


def squared_error(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of a regression in units of the train target's variance, from ρ = exp(−e²/2)."""
    confidence = task.confidence(logits, target)
    return -2 * confidence.clamp_min(torch.finfo(confidence.dtype).tiny).log().mean()


class MLA(Method):
    """On every batch the modalities take turns: each trains, by itself, its encoder and the shared head.

    The head's gradient is projected away from the mean feature of the modality before, so that what it said
    of that one stays; momentum and weight decay act after it, as published. Turns follow the configuration's
    order. Predictions are weighted by certainty: fusion `shared` with `combine: entropy`. Regression: weights
    by running squared errors on train (our definition)."""

    class Parameters(MethodParameters):
        regularisation: Annotated[float, Field(gt=0, lt=1)] = 0.1
        remember: Literal["previous", "current"] = "previous"
        normalise_projection: bool = False
        project_head: bool = True
        project_bias: bool = False
        error_memory: Annotated[float, Field(ge=0, lt=1)] = 0.9

    parameters: Parameters
    equation = (
        "for each m: L = L_S(h(f^m), y), P ← P − (P r)(P r)ᵀ / (λ + rᵀ P r), ∇W ← ∇W·Pᵀ; p = Σ_m w^m σ(u^m)"
    )
    source = "Zhang et al., CVPR 2024, alternating adaptation, head modification, test-time fusion"
    distributed = "exact"
    fusions = ("shared",)
    works_with_smp = False
    steps_itself = True

    def check(self, context: MethodContext) -> None:
        super().check(context)
        if hidden := context.fusion_settings.get("hidden"):
            raise ValueError(
                f"mla projects the gradient of one linear head: leave out fusion.hidden = {hidden}"
            )

    def on_fit_start(self, state: State) -> None:
        head = state.model.fusion.head
        if not isinstance(head, nn.Linear):
            raise ConfigError("mla needs one linear head for all modalities: fusion shared, no hidden layers")
        width = head.in_features + self.parameters.project_bias
        self.projection = torch.eye(width, device=head.weight.device)
        # The mean of what the head saw in the turn before, and in this one.
        self.before = self.mean = torch.zeros(width, device=head.weight.device)
        self.turns = 0

    def on_epoch_start(self, state: State) -> None:
        self.seen = 0  # samples of this epoch

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        self.progress = self.seen / len(state.rows("train"))
        self.seen += len(state.whole(batch))
        features = state.forward(batch).features
        terms: dict[str, Tensor] = {}
        for m in features:
            if terms:
                state.step()  # ends the turn before; the trainer ends the last one
            logits = state.model.unimodal_logits(features, m)  # by the head as the turn before has left it
            terms[f"task_{m}"] = state.task.loss(logits, batch.target)
            state.backward(terms[f"task_{m}"])
            self._remember(m, features, logits.detach(), batch.target, state)
        return terms

    def after_backward(self, state: State) -> None:
        p = self.parameters
        if p.project_head and self.turns:
            direction = (self.before if p.remember == "previous" else self.mean).to(self.mean)
            regularisation = regularisation_at(self.progress, p.regularisation)
            self.projection = update_projection(self.projection.to(direction), direction, regularisation)
            if p.normalise_projection:
                self.projection = self.projection / torch.linalg.matrix_norm(self.projection)
            project_gradient(cast(nn.Linear, state.model.fusion.head), self.projection)
        self.before = self.mean
        self.turns += 1

    @torch.no_grad()
    def _remember(
        self, modality: str, features: dict[str, Tensor], logits: Tensor, target: Tensor, state: State
    ) -> None:
        """The mean of what the head sees in this turn; of a regression the squared error, for the fusion."""
        fusion = cast(SharedFusion, state.model.fusion)
        mean = state.mean(fusion.head_input(features, modality).mean(dim=0))
        self.mean = torch.cat([mean, mean.new_ones(1)]) if self.parameters.project_bias else mean
        if fusion.errors is not None:
            position = state.model.modalities.index(modality)
            is_first = self.turns < len(state.model.modalities)
            weight = 1.0 if is_first else 1 - self.parameters.error_memory
            fusion.errors[position].lerp_(state.mean(squared_error(state.task, logits, target)), weight)
