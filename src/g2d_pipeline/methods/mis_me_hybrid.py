"""MIS-ME's hybrid loss (soil moisture, OSU): every modality predicts by itself too, and all predictions are
trained.

L = λ·MSE(multimodal) + δ·MSE(image) + γ·MSE(table); any modalities and both tasks here."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, field_validator
from torch import Tensor

from g2d_pipeline.methods._heads import UnimodalHeads
from g2d_pipeline.methods._named import check_modalities
from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, State
from g2d_pipeline.models import Output, Task

WHOLE = "multi"  # the multimodal prediction, as in the history


def hybrid_loss(
    task: Task, logits: dict[str, Tensor], target: Tensor, weights: dict[str, float]
) -> dict[str, Tensor]:
    """w_p · task loss of the logits `[B, C]` of each part p ("multi" and modalities) of positive weight."""
    return {part: weights[part] * task.loss(of, target) for part, of in logits.items() if weights[part] > 0}


class MisMeHybridParameters(MethodParameters):
    """`weights`: of the loss of each part, `multi` (> 0) and each modality (≥ 0); left out: 1 (published: all
    1)."""

    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)

    @field_validator("weights")
    @classmethod
    def _whole_is_trained(cls, value: dict[str, float]) -> dict[str, float]:
        if value.get(WHOLE, 1.0) == 0:
            raise ValueError(
                f"weights.{WHOLE} = 0: the multimodal prediction would never be trained. Allowed: above 0. For "
                "modalities on their own take method=unimodal"
            )
        return value


class MisMeHybrid(Method):
    """Task loss of the multimodal prediction and of a head a modality, weighted and added.

    A head is the fusion's own where it has one a modality (late, sum, weighted), else a linear one beside it
    that is left behind after training (the authors' image head has three layers). More than two modalities
    and classification: our definition."""

    Parameters: ClassVar[type[MethodParameters]] = MisMeHybridParameters
    equation: ClassVar[str] = "L = w_multi·L_S(l, y) + Σ_m w_m·L_S(u^m, y)"
    source: ClassVar[str] = "MIS-ME (soil moisture estimation), hybrid loss of its public code: λ, δ, γ = 1"
    parameters: MisMeHybridParameters

    def check(self, context: MethodContext) -> None:
        super().check(context)
        check_modalities("weights", self.parameters.weights, context, also=(WHOLE,))

    def on_fit_start(self, state: State) -> None:
        self.heads = UnimodalHeads(state.model, state.task.outputs)

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        parts = (WHOLE, *state.model.modalities)
        weights = {part: self.parameters.weights.get(part, 1.0) for part in parts}
        logits = {WHOLE: output.logits} | {
            m: self.heads.logits(state.model, output.features, m) for m in parts[1:] if weights[m] > 0
        }
        terms = hybrid_loss(state.task, logits, batch.target, weights)
        return {"task" if part == WHOLE else f"task_{part}": term for part, term in terms.items()}
