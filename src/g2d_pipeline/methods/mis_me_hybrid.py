"""MIS-ME's hybrid loss (soil moisture, OSU): every modality predicts by itself too, and all learn."""

from pydantic import Field, NonNegativeFloat, field_validator
from torch import Tensor

from g2d_pipeline.methods._heads import MULTI, UnimodalHeads
from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State
from g2d_pipeline.models import Output


class MisMeHybrid(Method):
    """Task loss of the multimodal prediction and of a head a modality, weighted and added.

    A head is the fusion's own where it has one a modality (late, sum, weighted), else a linear one beside it
    that is left behind after training (the authors' image head has three layers). More than two modalities
    and classification: our definition."""

    class Parameters(MethodParameters):
        weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)

        @field_validator("weights")
        @classmethod
        def _whole_is_trained(cls, value: dict[str, float]) -> dict[str, float]:
            if value.get(MULTI, 1.0) == 0:
                raise ValueError(
                    f"weights.{MULTI} = 0: the multimodal prediction would never be trained. "
                    "Allowed: above 0. For modalities on their own take method=unimodal"
                )
            return value

    parameters: Parameters
    equation = "L = w_multi·L_S(l, y) + Σ_m w_m·L_S(u^m, y)"
    source = "MIS-ME (soil moisture estimation), hybrid loss of its public code: λ, δ, γ = 1"
    distributed = "exact"
    by_part = ("weights",)

    def on_fit_start(self, state: State) -> None:
        self.heads = UnimodalHeads(state.model, state.task.outputs)

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        chosen = self.parameters.weights
        weights = {part: chosen.get(part, 1.0) for part in (MULTI, *state.model.modalities)}
        return self.heads.losses(output, batch.target, weights, state)
