"""CML (Ma et al., ICML 2023): confidence must not rise when a modality is removed."""

from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from g2d_pipeline.methods._scores import Window, by_lead
from g2d_pipeline.methods._shapley import Coalition, mask_others
from g2d_pipeline.methods.base import Batch, Method, State, identity
from g2d_pipeline.models import Output, Task


def nested(modalities: list[str]) -> list[Coalition]:
    """The k nested subsets: all of them, then without the last one, … to the first one alone."""
    return [frozenset(modalities[:size]) for size in range(len(modalities), 0, -1)]


def confidence_and_right(task: Task, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The confidence `[B]` of a prediction, and whether it is right `[B]` (bool).

    Classification: the greatest probability, whatever the target is. Regression (our definition): that of a
    Gaussian error, and all predictions are right."""
    if task.outputs == 1:
        rho = task.confidence(logits, target)
        return rho, torch.ones_like(rho, dtype=torch.bool)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return confidence, predicted == target


def rise(
    task: Task, superset: Tensor, subset: Tensor, target: Tensor, total: Callable[[Tensor], Tensor] = identity
) -> Tensor:
    """Mean of max(conf(subset) − conf(superset), 0) over the samples that the superset's logits `[B, C]` are
    right on. 0 where there are none. `total`: all-reduce (sum) over devices."""
    more, right = confidence_and_right(task, superset, target)
    less, _ = confidence_and_right(task, subset, target)
    return ((less - more).clamp_min(0) * right).sum() / total(right.sum()).clamp_min(1)


class CML(Method):
    """Modalities are removed one by one in random order, and confidence that rises by it is punished.

    The order is drawn for every batch. Removed is who has zeros in place of its feature. A pair of neighbours
    S ⊃ T counts in the samples that S is right on, and the pairs' means are summed (published code: one sum
    over samples and pairs, cut at 0 as a whole). Regression: confidence of a Gaussian error, in all samples
    (our definition)."""

    class Parameters(Window):
        weight: NonNegativeFloat = 0.1
        losses: Literal["nested", "whole"] = "nested"

    parameters: Parameters
    min_modalities = 2
    equation = "L = mean_S L_S(l_S, y) + λ Σ_{S ⊃ T} mean_b max(conf(l_T) − conf(l_S), 0), S, T nested"
    source = "Ma et al., ICML 2023, calibrating multimodal learning"
    distributed = "exact"

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p, task, target = self.parameters, state.task, batch.target
        terms = super().loss(output, batch, state)
        if not p.acts(state.epoch) or (p.weight == 0 and p.losses == "whole"):
            return terms
        _, *subsets = nested(self._order(output, state.sum))
        smaller = [state.model.fusion(mask_others(output.features, some)) for some in subsets]
        logits = [output.logits, *smaller]
        if p.losses == "nested":
            losses = reduce(Tensor.add, (task.loss(of_subset, target) for of_subset in smaller))
            terms["task"] = (terms["task"] + losses) / len(logits)
        if p.weight > 0:
            rises = [rise(task, more, less, target, state.sum) for more, less in pairwise(logits)]
            terms["rise"] = p.weight * reduce(Tensor.add, rises) / state.share
        return terms

    def _order(self, output: Output, total: Callable[[Tensor], Tensor] = identity) -> list[str]:
        """A random order, drawn by the features' sizes: neither place nor name of a modality matters."""
        names = list(output.features)
        sizes = torch.stack([f.detach().double().square().sum() for f in output.features.values()]).cpu()
        ranks = by_lead(total(sizes))
        return [names[ranks[i]] for i in torch.randperm(len(names)).tolist()]
