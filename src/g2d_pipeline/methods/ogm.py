"""OGM and OGM-GE: on-the-fly gradient modulation (Peng et al., CVPR 2022)."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.methods._scores import Window, by_lead, ratios, summed_scores
from g2d_pipeline.methods.base import Batch, Method, MethodContext, State
from g2d_pipeline.models import Output
from g2d_pipeline.models.encoders import load_encoder
from g2d_pipeline.models.sharding import shard_like, whole


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """κ^m `[k]` of scores s `[k]` (Eq. 10): 1 − tanh(α r^m) where r^m > 1, else 1."""
    r = ratios(scores)
    return torch.where(r > 1, 1 - torch.tanh(alpha * r), 1.0)


def gradient_noise(gradient: Tensor) -> Tensor:
    """A draw of N(0, σ²) in the gradient's shape; σ: its standard deviation (one number: 0)."""
    if gradient.numel() < 2:
        return torch.zeros_like(gradient)
    full = whole(gradient)  # of a shard its part of the whole tensor's draw
    return shard_like(torch.randn_like(full) * full.std(), gradient)


class OGM(Method):
    """The gradient of an encoder whose modality scores more than the others is scaled down, step by step.

    s^m is the mean confidence in the target of what modality m says alone. k > 2: r^m compares it with the
    mean of the others'; regression: the confidence of a Gaussian error (both: our definition). What a
    modality says alone is the fusion's unimodal logits for all fusions; the authors' code takes the
    multimodal ones for film and gated: it modulates nothing there. Accumulation: scores of a whole step."""

    class Parameters(Window):
        alpha: NonNegativeFloat = 0.1
        ge: bool = False
        noise: Literal["modulated", "always"] = "modulated"
        scope: Literal["encoder", "conv_only"] = "encoder"

    parameters: Parameters
    min_modalities = 2
    equation = (
        "∇θ^m ← κ^m·∇θ^m (+ h, h ~ N(0, std(∇θ^m)²)), κ^m = 1 − tanh(α·r^m) if r^m > 1 else 1, "
        "r^m = s^m / s^other"
    )
    source = "Peng et al., CVPR 2022, Eq. 10, and its generalization enhancement"
    distributed = "exact"

    def check(self, context: MethodContext) -> None:
        super().check(context)
        for m, encoder in context.encoders.items():
            if self.parameters.scope == "conv_only" and not load_encoder(encoder).convolutional:
                raise ValueError(_nothing_to_scale(m, encoder))

    def on_fit_start(self, state: State) -> None:
        for m, encoder in state.model.encoders.items():
            if self.parameters.scope == "conv_only" and not any(p.dim() == 4 for p in encoder.parameters()):
                raise ConfigError(_nothing_to_scale(m, type(encoder).__name__))
        self.scores = torch.zeros(len(state.model.modalities), dtype=torch.float64)  # sums over a step

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        terms = super().train_batch(batch, state)
        if self._acts(state):
            for m, kappa in zip(state.model.modalities, self._coefficients(), strict=True):
                state.log(f"kappa/{m}", kappa)
        return terms

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        if self._acts(state):
            self.scores = self.scores + summed_scores(state, output, batch.target)
        return super().loss(output, batch, state)

    def after_backward(self, state: State) -> None:
        if not self._acts(state):
            return
        p, kappa, encoders = self.parameters, self._coefficients(), list(state.model.encoders.values())
        for position in by_lead(self.scores):
            noisy = p.ge and (p.noise == "always" or kappa[position] < 1)
            self._modulate(encoders[position], kappa[position], noisy)
        self.scores = torch.zeros_like(self.scores)

    def _acts(self, state: State) -> bool:
        p = self.parameters
        return p.acts(state.epoch) and (p.alpha > 0 or (p.ge and p.noise == "always"))

    def _coefficients(self) -> list[float]:
        return coefficients(self.scores, self.parameters.alpha).tolist()

    def _modulate(self, encoder: nn.Module, kappa: float, noisy: bool) -> None:
        """κ·g, plus noise by g; suppressed encoders have no gradient."""
        for parameter in encoder.parameters():
            gradient = parameter.grad
            if gradient is None or (self.parameters.scope == "conv_only" and parameter.dim() != 4):
                continue
            noise = gradient_noise(gradient) if noisy else None
            if kappa < 1:
                gradient.mul_(kappa)
            if noise is not None:
                gradient.add_(noise)


def _nothing_to_scale(modality: str, encoder: str) -> str:
    return (
        f"ogm with scope = conv_only modulates convolution weights, and the encoder of {modality} "
        f"({encoder}) has none: say scope=encoder"
    )
