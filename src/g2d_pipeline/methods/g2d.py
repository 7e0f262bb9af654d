"""G²D (ICCV 2025, Eq. 1-4): distil every unimodal teacher into the student; SMP is in training/smp.py."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State
from g2d_pipeline.models import Output, Task
from g2d_pipeline.models.encoders import initialise

FeatureLoss = Literal["mse", "l1", "cosine"]


def feature_distillation(
    student: Tensor, teacher: Tensor, reduction: str = "mean", distance: FeatureLoss = "mse"
) -> Tensor:
    """The distance of features `[B, D]` from the teacher's, batch mean: ‖f_s − f_t‖² for `"mse"` (Eq. 2).

    `reduction="sum"`: the paper's norm, summed over D; `"mean"`: the authors' code, the element mean (1/D of
    it). `distance="l1"`: |f_s − f_t| in place of the square, reduced alike; `"cosine"`: 1 − cos(f_s, f_t),
    which has no D to reduce over (both: our definition). No gradient reaches the teacher."""
    if distance == "cosine":
        return (1 - F.cosine_similarity(student, teacher.detach(), dim=1)).mean()
    difference = student - teacher.detach()
    each = difference.square() if distance == "mse" else difference.abs()
    return each.mean() if reduction == "mean" else each.sum(dim=1).mean()


def logit_distillation(task: Task, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(σ(l_t/T) ‖ σ(l_s/T)) · T², batch mean, of logits `[B, C]`: teacher first (Eq. 3)."""
    return task.distill(student, teacher.detach(), temperature)


class G2DParameters(MethodParameters):
    """Explained one by one in conf/base/methods/g2d.yml."""

    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    feature_loss: FeatureLoss = "mse"
    reduction: Literal["mean", "sum"] = "mean"
    modality_weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    projection: bool = False

    def weight(self, modality: str) -> float:
        """w_m."""
        return self.modality_weights.get(modality, 1.0)


class G2D(Method):
    """Task loss + α·feature distillation + β·logit distillation; a term with weight 0 is not computed."""

    Parameters = G2DParameters
    needs_teachers = True
    equation = "L = L_S + α Σ_m w_m ‖f_s^m − f_t^m‖² + β Σ_m w_m KL(σ(l_t^m/T) ‖ σ(l_s/T)) T²"
    source = "G²D, ICCV 2025, Eq. 1-4"
    parameters: G2DParameters

    by_modality = ("modality_weights",)

    def on_fit_start(self, state: State) -> None:
        p, layers = self.parameters, {}
        for m in state.model.modalities if p.projection and p.alpha > 0 else ():
            ours, theirs = state.model.fusion.widths[m], int(state.teachers[m].feature.shape[1])
            if ours != theirs and p.weight(m) > 0:
                layers[m] = nn.Linear(ours, theirs)
        self.projections = initialise(nn.ModuleDict(layers))

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p = self.parameters
        terms = super().loss(output, batch, state)
        views = {m: view for m, view in batch.teachers.items() if p.weight(m) > 0}
        if p.alpha > 0 and views:
            features = []
            for m, v in views.items():
                f = output.features[m]
                f = self.projections[m](f) if m in self.projections else f  # as wide as the teacher's
                features.append(p.weight(m) * feature_distillation(f, v.feature, p.reduction, p.feature_loss))
            terms["feature_distillation"] = p.alpha * reduce(add, features)
        if p.beta > 0 and views:
            logits = [
                p.weight(m) * logit_distillation(state.task, output.logits, v.logits, p.temperature)
                for m, v in views.items()
            ]
            terms["logit_distillation"] = p.beta * reduce(add, logits)
        return terms
