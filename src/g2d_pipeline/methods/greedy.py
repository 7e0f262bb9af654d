"""Greedy (Wu et al., ICML 2022): branches whose exchange (MMTM) learns too fast are held."""

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from g2d_pipeline.methods._heads import weighted_losses
from g2d_pipeline.methods.base import Batch, Method, MethodContext, MethodParameters, State
from g2d_pipeline.models import Output
from g2d_pipeline.models.encoders import load_encoder
from g2d_pipeline.models.exchange import Exchange, encoders_with_stages


def relative_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """μ = ‖g‖² / ‖θ‖² of some parameters, those without a gradient left out; 0 where none has one."""
    learning = [p for p in parameters if p.grad is not None]
    if not learning:
        return torch.zeros(())
    gradient = torch.stack(torch._foreach_norm([p.grad for p in learning if p.grad is not None]))
    weight = torch.stack(torch._foreach_norm([p.detach() for p in learning]))
    return gradient.square().sum() / weight.square().sum().clamp_min(torch.finfo(torch.float32).tiny)


def conditional_speed(bypass: float, main: float) -> float:
    """s^m = log₁₀(Σ_t μ(exchange of m) / Σ_t μ(encoder of m)), sums over steps; −∞ where neither moves."""
    return math.log10(bypass / main) if bypass > 0 and main > 0 else -math.inf


def leader(speeds: dict[str, float], alpha: float) -> str:
    """The modality of the greatest speed, if it is ahead of the slowest one by more than α; else "".

    Ties: the configuration's order. k = 2: the published rule; k > 2: our definition."""
    first = max(speeds, key=lambda m: speeds[m])
    return first if speeds[first] - min(speeds.values()) > alpha else ""


class Greedy(Method):
    """The branch whose exchange with others learns fastest is held: it gets their mean for a window of steps.

    Σ_t μ counts steps in which nobody is held. An encoder's own head is left out of its μ, because a fusion
    need not have one (our definition; the code counts it). Encoders need stages with maps: small_cnn and
    resnet18. The features of a modality contain what the others told it, and so do its unimodal logits."""

    class Parameters(MethodParameters):
        alpha: NonNegativeFloat = 0.001
        window: PositiveInt = 5
        start_epoch: PositiveInt = 2
        replaced: Literal["signal", "gate"] = "signal"
        losses: Literal["branches", "whole"] = "branches"

    parameters: Parameters
    equation = (
        "s^m = log₁₀ Σ_t μ(exchange^m) / Σ_t μ(θ^m), μ = ‖g‖²/‖θ‖²; held: argmax s, if max s − min s > α"
    )
    source = "Wu et al., ICML 2022, conditional learning speed and balanced multi-modal learning"
    distributed = "exact"
    no_sharding = "runs encoders stage by stage, beside one another"
    works_with_smp = False
    exchange = "mmtm"

    def check(self, context: MethodContext) -> None:
        super().check(context)
        for m, encoder in context.encoders.items():
            if not load_encoder(encoder).has_stages:
                raise ValueError(
                    f"greedy exchanges maps between the stages of encoders, and {encoder} ({m}) has none. "
                    f"It works with: {', '.join(encoders_with_stages())}"
                )
        if self.parameters.losses == "branches" and context.fusion not in ("late", "sum", "weighted"):
            raise ValueError(
                f"greedy with losses = branches needs a head a modality, which fusion {context.fusion} has "
                "not. It works with: late, sum, weighted; or say losses=whole"
            )

    def on_fit_start(self, state: State) -> None:
        if state.model.exchange is None:
            raise ValueError("greedy needs a model with an exchange: say exchange: mmtm in its architecture")
        self.bypass = dict.fromkeys(state.model.modalities, 0.0)
        self.main = dict.fromkeys(state.model.modalities, 0.0)
        self.held, self.left = "", 0

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        exchange = cast(Exchange, state.model.exchange)
        exchange.held, exchange.replaced = self.held, self.parameters.replaced
        exchange.average_by(state.mean)
        try:
            return super().train_batch(batch, state)
        finally:
            exchange.held = ""
            exchange.average_by()

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if self.parameters.losses == "whole":
            return super().loss(output, batch, state)
        return weighted_losses(state.task, state.unimodal_logits(output), batch.target)

    def after_backward(self, state: State) -> None:
        if self.left > 0:
            self.left -= 1
            self.held = self.held if self.left > 0 else ""
            return
        gates = bypasses(cast(Exchange, state.model.exchange))
        pairs = [(own, state.model.encoders[m].parameters()) for m, own in gates.items()]
        steps = [[float(relative_gradient(x)) for x in pair] for pair in pairs]
        if not all(math.isfinite(x) for pair in steps for x in pair):
            return  # fp16's scaler will skip this step
        for m, (bypass, main) in zip(state.model.modalities, steps, strict=True):
            self.bypass[m] += bypass
            self.main[m] += main
        if state.epoch >= self.parameters.start_epoch:
            speeds = {m: conditional_speed(self.bypass[m], self.main[m]) for m in self.bypass}
            self.held = leader(speeds, self.parameters.alpha)
            self.left = self.parameters.window if self.held else 0


def bypasses(exchange: Exchange) -> dict[str, list[nn.Parameter]]:
    """m → the parameters that turn all signals into the gate of m, in all stages."""
    parameters: dict[str, list[nn.Parameter]] = {}
    for stage in exchange.stages:
        for m, excite in stage.excite.items():  # type: ignore[operator, union-attr]
            shared = [*stage.squeeze.parameters(), stage.bias]  # type: ignore[union-attr]
            parameters.setdefault(m, []).extend([*shared, *excite.parameters()])
    return parameters
