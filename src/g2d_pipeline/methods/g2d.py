"""G²D: distil every unimodal teacher into the multimodal student (Gradient-Guided Distillation, ICCV 2025, Eq. 1-4).

L = L_S + α Σ_m L_feat^m + β Σ_m L_logit^m. The schedule that prioritises modalities (SMP) is `training/smp.py`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State
from g2d_pipeline.models import Output, Task


def feature_distillation(student: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """‖f_s − f_t‖², batch mean, of features `[B, D]` (Eq. 2).

    `reduction="sum"`: the paper's norm, summed over D; `"mean"`: the authors' code, the element mean (1/D of it).
    No gradient reaches the teacher.
    """
    squared = (student - teacher.detach()).square()
    return squared.mean() if reduction == "mean" else squared.sum(dim=1).mean()


def logit_distillation(task: Task, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(σ(l_t/T) ‖ σ(l_s/T)) · T², batch mean, of logits `[B, C]`: teacher first (Eq. 3); regression: see the task."""
    return task.distill(student, teacher.detach(), temperature)


class G2DParameters(MethodParameters):
    """α, β ≥ 0 weigh feature and logit distillation (published: 1, 1); T > 0 softens the logits (published: 1)."""

    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    reduction: Literal["mean", "sum"] = "mean"


class G2D(Method):
    """Task loss + α·feature distillation + β·logit distillation; a term with weight 0 is not computed."""

    Parameters: ClassVar[type[MethodParameters]] = G2DParameters
    needs_teachers: ClassVar[bool] = True
    parameters: G2DParameters

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p = self.parameters
        terms = super().loss(output, batch, state)
        if p.alpha > 0:
            features = [
                feature_distillation(output.features[m], view.feature, p.reduction)
                for m, view in batch.teachers.items()
            ]
            terms["feature_distillation"] = p.alpha * sum(features[1:], features[0])
        if p.beta > 0:
            logits = [
                logit_distillation(state.task, output.logits, view.logits, p.temperature)
                for view in batch.teachers.values()
            ]
            terms["logit_distillation"] = p.beta * sum(logits[1:], logits[0])
        return terms
