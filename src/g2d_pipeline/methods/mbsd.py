"""MBSD, bi-directional self-distillation (after BalanceBenchmark's code): weak modalities follow strong."""

from itertools import combinations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from g2d_pipeline.methods._heads import weighted_losses
from g2d_pipeline.methods._scores import Window
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output, Task


def disagreement(task: Task, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
    """w `[B]` = |ρ^a − ρ^b| of logits `[B, C]` where one of them is right, else 0; no gradient.

    Regression (our definition): everywhere, ρ being the confidence of a Gaussian error."""
    with torch.no_grad():
        w = (task.confidence(a, target) - task.confidence(b, target)).abs()
        if task.outputs == 1:
            return w
        return w * ((a.argmax(dim=1) == target) | (b.argmax(dim=1) == target))


def kl_to_stronger(task: Task, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
    """KL(strong ‖ weak) `[B]` of logits `[B, C]`; strong: whose ρ is greater; no gradient reaches it."""
    with torch.no_grad():
        first = (task.confidence(a, target) >= task.confidence(b, target))[:, None]
    return task.divergence(torch.where(first, a, b).detach(), torch.where(first, b, a))


def distance(task: Task, a: Tensor, b: Tensor) -> Tensor:
    """‖u^a − u^b‖² / C `[B]` of logits `[B, C]`; regression (ours): of predictions, in s²."""
    return 2 * task.divergence(a, b) if task.outputs == 1 else (a - b).square().mean(dim=1)


class MBSD(Method):
    """Every modality has its own task loss, and is drawn to the others where they disagree in the true class.

    Each pair adds the squared distance of its logits, which moves both, and the divergence of the weak from
    the strong, sample by sample; more than two modalities: the mean over pairs. Weights and the strong side
    carry no gradient (our reading). The published code takes the divergence of two numbers, the probabilities
    of the true class, and a logarithm of the wrong one; this is that of the distributions. With three
    modalities it takes distances of probabilities; here of logits, for a regression (ours) of predictions."""

    class Parameters(Window):
        unimodal_weight: NonNegativeFloat = 1.0
        distill_weight: NonNegativeFloat = 1.0

    parameters: Parameters
    min_modalities = 2
    equation = (
        "L = L_S(l, y) + Σ_m L_S(u^m, y) + mean_{pairs, b} w·(‖u^a − u^v‖²/C + KL(strong ‖ weak)), "
        "w = |ρ^a − ρ^v| where one of them is right, else 0"
    )
    source = "bi-directional self-distillation, as BalanceBenchmark has it"
    distributed = "exact"

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p, task, target = self.parameters, state.task, batch.target
        terms = super().loss(output, batch, state)
        if not p.acts(state.epoch) or (p.unimodal_weight == 0 and p.distill_weight == 0):
            return terms
        u = state.unimodal_logits(output)
        terms |= weighted_losses(task, u, target, p.unimodal_weight)
        if p.distill_weight > 0:
            pairs = [(a, b, disagreement(task, a, b, target)) for a, b in combinations(u.values(), 2)]
            apart = torch.stack([w * distance(task, a, b) for a, b, w in pairs])
            behind = torch.stack([w * kl_to_stronger(task, a, b, target) for a, b, w in pairs])
            terms["distance"] = p.distill_weight * apart.mean()
            terms["kl_to_stronger"] = p.distill_weight * behind.mean()
        return terms
