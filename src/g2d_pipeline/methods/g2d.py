"""G²D (ICCV 2025, Eq. 1-4): distil every unimodal teacher into the student; SMP is in training/smp.py."""

from collections.abc import Iterator
from functools import reduce
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from g2d_pipeline.methods._heads import UnimodalHeads
from g2d_pipeline.methods._weights import start_as_teachers
from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State, TeacherView
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


class G2D(Method):
    """Task loss + α·feature distillation + β·logit distillation; a term with weight 0 is not computed.

    `logits`, which of the student's are drawn to a teacher's (ours but for the first):

    - `multimodal`: the fused logits l_s to each teacher (Eq. 3).
    - `modality`: u_s^m, what the student says from modality m alone, to teacher m. u_s^m comes from the
      fusion's own head of m in a classification, where a head that is right by itself makes their mean right;
      else (a regression, whose mean of a good and a poor prediction is a mediocre one; a fusion without heads
      of its own) from an auxiliary linear head on f_s^m, trained beside the fusion and left behind.
    - `ensemble`: l_s to the w-weighted mean of the teachers' logits: one term, Σ_m w_m is divided out.

    With one modality of a classification and late fusion the three are one.

    `start`: `scratch` (the paper); `teachers` (ours): every encoder starts as its teacher's, and so does a
    head of the modality's own."""

    class Parameters(MethodParameters):
        alpha: NonNegativeFloat = 1.0
        beta: NonNegativeFloat = 1.0
        temperature: PositiveFloat = 1.0
        feature_loss: FeatureLoss = "mse"
        reduction: Literal["mean", "sum"] = "mean"
        logits: Literal["multimodal", "modality", "ensemble"] = "multimodal"
        start: Literal["scratch", "teachers"] = "scratch"
        modality_weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
        projection: bool = False

        def weight(self, modality: str) -> float:
            """w_m."""
            return self.modality_weights.get(modality, 1.0)

    parameters: Parameters
    needs_teachers = True
    equation = "L = L_S + α Σ_m w_m ‖f_s^m − f_t^m‖² + β Σ_m w_m KL(σ(l_t^m/T) ‖ σ(l_s/T)) T²"
    source = "G²D, ICCV 2025, Eq. 1-4"
    distributed = "exact"
    by_modality = ("modality_weights",)

    def on_fit_start(self, state: State) -> None:
        p, layers, model = self.parameters, {}, state.model
        for m in model.modalities if p.projection and p.alpha > 0 else ():
            width, teacher_width = model.fusion.widths[m], int(state.teachers[m].feature.shape[1])
            if width != teacher_width and p.weight(m) > 0:
                layers[m] = nn.Linear(width, teacher_width)
        self.projections = initialise(nn.ModuleDict(layers))
        self.heads: UnimodalHeads | None = None
        if p.logits == "modality" and p.beta > 0:
            has_own_heads = state.task.heads_average and model.fusion.heads_of_its_own
            needed = [m for m in model.modalities if p.weight(m) > 0 and not has_own_heads]
            self.heads = UnimodalHeads(model, state.task.outputs, needed)
        if p.start != "scratch":
            self._start_as_teachers(state)

    def _start_as_teachers(self, state: State) -> None:
        start_as_teachers(state, "start = teachers")
        for m, head in self.heads.heads.items() if self.heads is not None else ():
            head.load_state_dict(state.teachers[m].model.fusion.heads[m].state_dict())

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
            terms["feature_distillation"] = p.alpha * reduce(Tensor.add, features)
        if p.beta > 0 and views:
            logits = [
                weight * logit_distillation(state.task, student, teacher, p.temperature)
                for weight, student, teacher in self._logits(output, views, state)
            ]
            terms["logit_distillation"] = p.beta * reduce(Tensor.add, logits)
        return terms

    def _logits(
        self, output: Output, views: dict[str, TeacherView], state: State
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Weight, student's and teacher's logits `[B, C]` of each term of the logit distillation."""
        p = self.parameters
        if p.logits == "ensemble":
            total = sum(p.weight(m) for m in views)
            parts = (p.weight(m) / total * v.logits for m, v in views.items())
            yield 1.0, output.logits, reduce(Tensor.add, parts)
            return
        for m, v in views.items():
            heads = self.heads
            student = heads.logits(state.model, output.features, m) if heads is not None else output.logits
            yield p.weight(m), student, v.logits
