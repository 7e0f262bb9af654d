"""DLMG / LFM (NeurIPS 2024), learning the modality gap: modalities are matched, then labels count."""

from collections.abc import Callable
from itertools import combinations
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, State
from g2d_pipeline.models import Output, Task
from g2d_pipeline.models.encoders import initialise

Moves = dict[nn.Parameter, tuple[Tensor, Tensor]]  # a parameter's gradients of the task loss and of the match


def pair_divergence(task: Task, a: Tensor, b: Tensor) -> Tensor:
    """½ KL(σ(a) ‖ M) + ½ KL(σ(b) ‖ M), M = (σ(a) + σ(b)) / 2, batch mean (Jensen-Shannon)."""
    log_p = torch.stack([a.log_softmax(dim=1), b.log_softmax(dim=1)])
    middle = log_p.logsumexp(dim=0)  # log M up to a constant
    return ((task.divergence(a, middle) + task.divergence(b, middle)) / 2).mean()


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Mean of CE(S_i·, i) and CE(S_·i, i), S_ij = cos(a_i, b_j) / τ, of features `[B, D]`."""
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    same = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


def over_pairs(values: dict[str, Tensor], match: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean of `match(x^m, x^n)` over the pairs of modalities (k = 2: the one; k > 2: our definition)."""
    return torch.stack([match(a, b) for a, b in combinations(values.values(), 2)]).mean()


def heuristic_share(start: float, epoch: int, epochs: int) -> float:
    """a_2 = start·(1 − e/E) with e epochs done before `epoch` (from 1) of E."""
    return start * (1 - (epoch - 1) / epochs)


def look_ahead_slope(val: list[Tensor], task: list[Tensor], matching: list[Tensor], lr: float) -> Tensor:
    """dL_val(θ′)/da_2 = −2η ⟨∇L_val(θ′), ∇A − ∇L_S⟩, of gradients by parameter.

    θ′ = θ − η·∇L is one plain step; L = 2((1 − a_2) L_S + a_2 A) is linear in a_2: no second derivative."""
    dots = [(v * (a - t)).sum() for v, t, a in zip(val, task, matching, strict=True)]
    return -2 * lr * torch.stack(dots).sum()


class DLMG(Method):
    """The task loss and the modalities' match are mixed, and the mixture moves from matching to the task.

    `learned`: a_2 follows the slope of the task loss on a batch of the validation split after one plain step;
    so that split is used for more than selection. (The public code's learnable run takes a curve fitted
    beforehand on one data set: we have none of that.) Features of different widths are projected to the
    narrowest by linear layers, drawn in the configuration's order and left behind after training (our
    definition). More than two modalities: the mean over pairs; regression: InfoNCE alone (both our
    definition). With a_2 = 0 it is joint training with twice the loss."""

    class Parameters(MethodParameters):
        matching: Literal["infonce", "js"] = "infonce"
        temperature: PositiveFloat = 0.1
        schedule: Literal["heuristic", "learned"] = "heuristic"
        start: Annotated[float, Field(ge=0, le=1)] = 0.8
        weight_lr: PositiveFloat = 1e-4
        every: PositiveInt = 1

    parameters: Parameters
    equation = "L = 2·((1 − a_2)·L_S + a_2·A), A = InfoNCE(f^m, f^n) or JS(σ(u^m), σ(u^n)) over pairs"
    source = "NeurIPS 2024, facilitating multimodal classification via dynamically learning the modality gap"
    distributed = "per device"
    not_exact = "InfoNCE contrasts the samples that one device has (matching = js is exact)"
    no_sharding = "takes gradients of two losses by itself, and steps by them"
    fusions = ("late",)

    def check(self, context: MethodContext) -> None:
        super().check(context)
        p = self.parameters
        if context.fusion_settings.get("average", "logits") != "logits":
            raise ValueError(
                "dlmg is defined for the mean of logits, not for fusion.average = probabilities: say "
                "fusion.average=logits"
            )
        if p.matching == "js" and context.task == "regression":
            raise ValueError(
                "dlmg with matching = js compares predicted distributions over classes, and a regression "
                "predicts a number. Say matching=infonce"
            )
        if p.schedule == "learned" and context.accumulation > 1:
            raise ValueError(
                "dlmg with schedule = learned tries a step in each batch, so none can be accumulated: say "
                "accumulation=1, or schedule=heuristic"
            )

    def on_fit_start(self, state: State) -> None:
        widths, p = state.model.fusion.widths, self.parameters
        common = min(widths.values())
        projected = [m for m, width in widths.items() if width != common and p.matching == "infonce"]
        self.projections = initialise(nn.ModuleDict({m: nn.Linear(widths[m], common) for m in projected}))
        self.share = p.start  # a_2
        self.batches = 0

    def on_epoch_start(self, state: State) -> None:
        if self.parameters.schedule == "heuristic":
            self.share = heuristic_share(self.parameters.start, state.epoch, state.epochs)

    def match(self, output: Output, state: State) -> Tensor:
        """A."""
        p = self.parameters
        if p.matching == "js":
            return over_pairs(state.unimodal_logits(output), lambda a, b: pair_divergence(state.task, a, b))
        projected = {m: layer(output.features[m]) for m, layer in self.projections.items()}
        features = output.features | projected
        return over_pairs(features, lambda a, b: info_nce(a, b, p.temperature))

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        output = state.forward(batch)
        task = state.task.loss(output.logits, batch.target)
        learns = self.parameters.schedule == "learned" and self.batches % self.parameters.every == 0
        self.batches += 1
        terms = {"task": 2 * (1 - self.share) * task}
        total = terms["task"]
        if self.share > 0 or learns:
            matching = self.match(output, state)
            moves = _gradients(state.model, task, matching) if learns else {}
            if self.share > 0:
                terms["matching"] = 2 * self.share * matching
                total = total + terms["matching"]
        state.backward(total)
        if learns:
            slope = float(state.mean(torch.tensor(self._look_ahead(moves, len(batch.index), state))))
            self.share = min(max(self.share - self.parameters.weight_lr * slope, 0.0), 1.0)
        return terms

    def _look_ahead(self, moves: Moves, size: int, state: State) -> float:
        """The slope of the task loss on a random validation batch after one plain step, then undone."""
        lr, model = float(state.optimizer.param_groups[0]["lr"]), state.model
        rows = state.rows("val")
        rows = rows[torch.randperm(len(rows))[:size].sort().values.numpy()]
        before = [p.detach().clone() for p in moves]
        model.eval()
        try:
            with torch.no_grad():
                for p, (t, a) in moves.items():
                    p.sub_(2 * lr * ((1 - self.share) * t + self.share * a))
            batch = state.batch(rows)
            loss = state.task.loss(model(batch.inputs).logits, batch.target)
            val = torch.autograd.grad(loss, list(moves), materialize_grads=True)
        finally:
            with torch.no_grad():
                for p, value in zip(moves, before, strict=True):
                    p.copy_(value)
            model.train()
        task, matching = map(list, zip(*moves.values(), strict=True))
        return float(look_ahead_slope(list(val), task, matching, lr))


def _gradients(model: nn.Module, task: Tensor, matching: Tensor) -> Moves:
    """∇L_S and ∇A of the parameters that one of them reaches; the graph stays."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses, zero = (task, matching), torch.zeros_like
    t_s, a_s = (torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in losses)
    gradients: Any = zip(parameters, t_s, a_s, strict=True)  # None where a loss does not reach the parameter
    return {
        p: (zero(p) if t is None else t, zero(p) if a is None else a)
        for p, t, a in gradients
        if t is not None or a is not None
    }
