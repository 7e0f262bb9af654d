"""OPM: on-the-fly prediction modulation (Wei et al., TPAMI 2024), OGM's counterpart in the forward pass."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from g2d_pipeline.config import Fraction
from g2d_pipeline.methods._scores import Window, by_lead, ratios, summed_scores
from g2d_pipeline.methods.base import Batch, Method, State
from g2d_pipeline.models import Output


def drop_probabilities(
    scores: Tensor, base: float, alpha: float, others: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """q^m `[k]` of scores s `[k]`: clip(base·(1 + α tanh(r^m − 1)), 0, 1) where r^m > 1, else 0."""
    r = ratios(scores, others)
    q = base * (1 + alpha * torch.tanh((r - 1).clamp_min(0)))
    return torch.where(r > 1, q.clamp(0, 1), 0.0)


def drop_features(features: dict[str, Tensor], kept: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Zeros where `kept` `[B, k]` is false, of the samples `[B]` with a modality left: they alone remain."""
    remaining = kept.any(dim=1)
    dropped = {m: (f * kept[:, i, None])[remaining] for i, (m, f) in enumerate(features.items())}
    return dropped, remaining


def dropped_share(probabilities: Tensor, widths: Tensor) -> float:
    """θ = Σ_m D_m q^m / Σ_m D_m: the share of all feature dimensions that is dropped on average."""
    return float((probabilities * widths).sum() / widths.sum())


class OPM(Method):
    """The features of a modality that scores more than the others are dropped at random, sample by sample.

    s^m is the mean confidence in the target of what modality m says alone of the batch, before anything is
    dropped. A sample with no modality left leaves the batch. k > 2: against the mean of the others;
    regression: the confidence of a Gaussian error (both: our definition). Predictions use all features."""

    class Parameters(Window):
        q_base: Fraction = 0.4
        alpha: NonNegativeFloat = 0.5
        p_exe: Fraction = 0.7
        others: Literal["mean", "sum"] = "mean"
        rescale: bool = False

    parameters: Parameters
    min_modalities = 2
    equation = (
        "f^m ← 0 with probability q^m = clip(q_base·(1 + α·tanh(r^m − 1)), 0, 1) if r^m > 1 else 0, "
        "r^m = s^m / s^other"
    )
    source = "Wei et al., TPAMI 2024, on-the-fly prediction modulation"
    distributed = "exact"

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        p = self.parameters
        if not p.acts(state.epoch) or p.q_base == 0 or p.p_exe == 0 or float(torch.rand(())) >= p.p_exe:
            return super().loss(output, batch, state)
        scores = summed_scores(state, output, batch.target)
        q = drop_probabilities(scores, p.q_base, p.alpha, p.others)
        draws = torch.empty(len(state.whole(batch)), len(q))
        draws[:, by_lead(scores)] = torch.rand(draws.shape)
        kept = draws.to(q) >= q
        if bool(kept.all()) or not bool(kept.any()):
            return super().loss(output, batch, state)
        features, remaining = drop_features(output.features, kept[state.place].to(batch.target.device))
        if not bool(remaining.any()):  # here; others of the batch are on other devices
            return {"task": 0.0 * output.logits.sum()}
        share = float(remaining.sum()) / float(kept.any(dim=1).sum())
        if p.rescale:
            widths = torch.tensor([f.shape[1] for f in features.values()], dtype=q.dtype)
            features = {m: f / (1 - dropped_share(q, widths)) for m, f in features.items()}
        loss = state.task.loss(state.model.fusion(features), batch.target[remaining])
        return {"task": loss if state.devices == 1 else loss * (share / state.share)}
