"""AGM: adaptive gradient modulation (Li et al., ICCV 2023)."""

from collections.abc import Mapping
from functools import reduce
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from g2d_pipeline.methods._scores import Window
from g2d_pipeline.methods._shapley import Coalition, shapley
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Encoder, Normaliser, Output, Task
from g2d_pipeline.models.multimodal import scale_gradient
from g2d_pipeline.models.sharding import clip_gradients

LEAST_CONFIDENCE = 1e-8  # a score is −ln of it at most
GREATEST_GAP = 7.0  # of the ratios, in the exponent of κ


def responses(
    fusion: nn.Module, whole: Tensor, present: Mapping[str, Tensor], absent: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """φ: m → `[B, C]`, Shapley values of the logits; Σ_m φ^m = `whole` `[B, C]`, the logits of all
    modalities. A subset's logits are the fusion of `present` features `[B, D_m]` of its modalities and
    `absent` ones of the others; those of no modality are left out, that is 0."""

    def logits(kept: Coalition) -> Tensor:
        if len(kept) == len(present):
            return whole
        if not kept:
            return torch.zeros_like(whole)
        return cast(Tensor, fusion({m: present[m] if m in kept else absent[m] for m in present}))

    return shapley(list(present), logits)


def batch_scores(task: Task, parts: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """S^m `[k]` = mean of −ln max(ρ(φ^m), 1e-8) of the parts `[B, C]`, the smaller the better; float64, CPU.
    Classification: cross-entropy. Regression (ours): half the squared error over the target's variance."""
    with torch.no_grad():
        rho = torch.stack([task.confidence(part.double(), target) for part in parts.values()])
        return -rho.clamp_min(LEAST_CONFIDENCE).log().mean(dim=1).cpu()


def ratios(scores: Tensor) -> Tensor:
    """r^m `[k]` = exp(k / (k − 1) · (mean_j S^j − S^m)): above 1 for those that do better than others."""
    k = len(scores)
    return (k / (k - 1) * (scores.mean() - scores)).exp()


def coefficients(now: Tensor, before: Tensor, alpha: float) -> Tensor:
    """κ^m `[k]` = exp(α·min(r̄^m − r^m, 7)) of the scores of this batch, and of their means so far."""
    return (alpha * (ratios(before) - ratios(now)).clamp_max(GREATEST_GAP)).exp()


def masked_input(encoder: nn.Module, x: Tensor) -> Tensor:
    """A sample `[1, …]` that the trunk sees as zeros: its normaliser's mean, or token 0 (padding)."""
    normaliser = getattr(encoder, "normaliser", None)
    if not isinstance(normaliser, Normaliser) or (isinstance(encoder, Encoder) and encoder.tokens):
        return torch.zeros_like(x[:1])
    mean = (normaliser.mean / normaliser.scale).view((1, -1) + (1,) * (x.dim() - 2))
    return mean.expand(1, *x.shape[1:])


class AGM(Method):
    """The logits are split into a part a modality, their Shapley values, and each part's gradient is scaled.

    r^m says how much better modality m does in this batch than the others, and r̄^m the same of its mean
    score over all batches so far: ahead of its history it is held back. The subsets' logits carry gradients
    with `where=response`, as in the authors' code: without them, every part's gradient would be 1/k of the
    whole's, and κ one number for all. BalanceBenchmark has the ratio upside down, and amplifies who is ahead;
    this follows the authors. Scores of a regression and more than three modalities: our definition."""

    class Parameters(Window):
        alpha: NonNegativeFloat = 1.0
        where: Literal["response", "encoder"] = "response"
        masked: Literal["inputs", "features"] = "inputs"
        clip: PositiveFloat | None = None

    parameters: Parameters
    min_modalities = 2
    equation = (
        "∇φ^m ← κ^m·∇φ^m, κ^m = exp(α·min(r̄^m − r^m, 7)), r^m = exp(k/(k−1)·(mean_j S^j − S^m)), "
        "S^m = L_S(φ^m, y), φ^m: Shapley value of the logits"
    )
    source = "Li et al., ICCV 2023, adaptive gradient modulation"
    distributed = "exact"

    def on_fit_start(self, state: State) -> None:
        self.mean_scores = torch.zeros(len(state.model.modalities), dtype=torch.float64)  # S̄
        self.batches = 0  # that they are means over

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if not self._acts(state):
            return super().loss(output, batch, state)
        whole = self.parameters.where == "response"
        with torch.set_grad_enabled(whole):
            parts = self._responses(output, batch, state)
        now = state.mean(batch_scores(state.task, parts, batch.target))
        values = coefficients(now, self.mean_scores, self.parameters.alpha).tolist()
        kappa: dict[str, float] = dict(zip(parts, values, strict=True))
        for m, factor in kappa.items():
            state.log(f"kappa/{m}", factor)
        self.batches += 1
        self.mean_scores = self.mean_scores + (now - self.mean_scores) / self.batches
        if whole:
            scaled = [scale_gradient(part, kappa[m]) for m, part in parts.items()]
            output = Output(output.features, reduce(Tensor.add, scaled))
        else:
            for m, feature in output.features.items():
                if feature.requires_grad:
                    feature.register_hook(lambda gradient, factor=kappa[m]: gradient * factor)
        return super().loss(output, batch, state)

    def after_backward(self, state: State) -> None:
        limit = self.parameters.clip
        if limit is None or not self._acts(state):
            return
        gradients = [p.grad for p in state.model.fusion.parameters() if p.grad is not None]
        if any(float(g.abs().max()) > limit for g in gradients):
            clip_gradients(state.model.parameters(), limit)

    def _acts(self, state: State) -> bool:
        return self.parameters.alpha > 0 and self.parameters.acts(state.epoch)

    def _responses(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        """φ, of subsets in evaluation mode."""
        state.model.eval()
        present = output.features
        absent = {m: torch.zeros_like(feature) for m, feature in present.items()}
        if self.parameters.masked == "inputs":
            inputs = dict(batch.inputs)
            if unread := [m for m in present if m not in inputs]:  # frozen encoders: any sample has the shape
                one = state.batch(batch.index[:1].cpu().numpy()).inputs
                inputs |= {m: one[m] for m in unread}
            nothing = {m: masked_input(state.model.encoders[m], inputs[m]) for m in present}
            size = len(batch.target)
            zeros = state.forward(Batch(batch.index[:1], nothing, batch.target[:1])).features
            present, absent = state.forward(batch).features, {m: f.expand(size, -1) for m, f in zeros.items()}
        parts = responses(state.model.fusion, output.logits, present, absent)
        state.model.train()
        return parts
