"""MMPareto (Wei & Hu, ICML 2024): encoders take steps that hurt neither multimodal nor unimodal loss."""

from functools import reduce
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from g2d_pipeline.methods._heads import UnimodalHeads
from g2d_pipeline.methods.base import Batch, Method, MethodParameters, State

Gradients = dict[str, list[Tensor | None]]  # modality → of each parameter of its encoder


def pareto_weights(whole: Tensor, own: Tensor) -> Tensor:
    """(w_0, w_u) `[2]` of an encoder's gradients `[P]` of the multimodal (`whole`) and of its unimodal
    (`own`) loss. Where they agree, g_0·g_u > 0: (½, ½). Else the shortest point of the segment between them:
    w_0 = clip((g_u − g_0)·g_u / ‖g_0 − g_u‖², 0, 1) and w_u = 1 − w_0."""
    dot, own_square = whole @ own, own @ own
    apart = (whole @ whole + own_square - 2 * dot).clamp_min(torch.finfo(whole.dtype).tiny)
    shortest = ((own_square - dot) / apart).clamp(0, 1)
    weight = torch.where(dot > 0, torch.full_like(shortest, 0.5), shortest)
    return torch.stack([weight, 1 - weight])


def pareto_direction(whole: Tensor, own: Tensor) -> Tensor:
    """h = 2 (w_0 g_0 + w_u g_u) `[P]`; h·g_0 ≥ 0 and h·g_u ≥ 0: a step along −h makes neither loss worse."""
    weight = pareto_weights(whole, own)
    return 2 * (weight[0] * whole + weight[1] * own)


def keep_magnitude(direction: Tensor, total: Tensor) -> Tensor:
    """h · max(1, ‖g_0 + g_u‖ / ‖h‖): never shorter than the plain sum of the gradients; h = 0 stays."""
    length, least = torch.linalg.vector_norm(direction), torch.linalg.vector_norm(total)
    factor = (least / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_min(1)
    return direction * torch.where(length > 0, factor, torch.ones_like(factor))


class MMPareto(Method):
    """Each encoder moves by a mixture of its gradients of the multimodal and unimodal loss that helps both.

    Where they agree it is their sum, where they conflict twice their min-norm point; it is brought to the
    length of the sum and multiplied by γ. Heads and fusion follow the plain sum of the losses. A unimodal
    head is the fusion's own where it has one a modality (late, sum), else a linear one beside it that is left
    behind after training. A unimodal loss reaches no encoder but its own, so two backward passes do for any
    k (the code: 2 + k). With `unimodal_weight=0` and `scale=1` it is joint training. Regression: ours."""

    class Parameters(MethodParameters):
        scale: PositiveFloat = 1.5
        unimodal_weight: NonNegativeFloat = 1.0
        rescale: Literal["tensor", "encoder", "none"] = "tensor"

    parameters: Parameters
    equation = "∇θ^m ← γ·2(w_0 g_0^m + w_u g_u^m)·max(1, ‖g_0 + g_u‖/‖·‖), w = (½, ½) or the min-norm point"
    source = "Wei & Hu, ICML 2024, MMPareto: Pareto direction and magnitude"
    distributed = "exact"
    no_sharding = "weighs whole gradients of two losses against each other"

    def on_fit_start(self, state: State) -> None:
        self.heads = UnimodalHeads(state.model, state.task.outputs)
        self.whole: Gradients = {}  # of the batches since the last step; empty between steps
        self.own: Gradients = {}

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        p, model = self.parameters, state.model
        if p.unimodal_weight == 0:
            return super().train_batch(batch, state)
        output = state.forward(batch)
        terms = self.loss(output, batch, state)
        whole = terms["task"]
        weights = dict.fromkeys(model.modalities, p.unimodal_weight)
        own = self.heads.losses(output, batch.target, weights, state)
        _set_gradients(state, self.own)
        state.backward(reduce(Tensor.add, own.values()), retain_graph=True)
        self.own = _get_gradients(state)
        _set_gradients(state, self.whole)
        state.backward(whole)
        self.whole = _get_gradients(state)
        for m, encoder in model.encoders.items():
            self._combine(m, encoder, state)
        return terms | own

    def _combine(self, modality: str, encoder: nn.Module, state: State) -> None:
        """Give the encoder its new gradient, before the factor γ; of several devices, each an equal part."""
        gradients = zip(encoder.parameters(), self.whole[modality], self.own[modality], strict=True)
        learning = [
            (p, torch.zeros_like(p) if g_0 is None else g_0, torch.zeros_like(p) if g_u is None else g_u)
            for p, g_0, g_u in gradients
            if g_0 is not None or g_u is not None
        ]
        if not learning:  # suppressed
            return
        g_0 = torch.cat([g.flatten() for _, g, _ in learning])
        g_u = torch.cat([g.flatten() for _, _, g in learning])
        sizes = [p.numel() for p, _, _ in learning]
        if state.devices > 1:
            g_0, g_u = state.sum(torch.stack([g_0, g_u])).unbind()
            parts = zip(learning, g_0.split(sizes), g_u.split(sizes), strict=True)
            learning = [(p, whole.view_as(p), own.view_as(p)) for (p, _, _), whole, own in parts]
        h, rescale = pareto_direction(g_0, g_u) / state.devices, self.parameters.rescale
        if rescale == "encoder":
            h = keep_magnitude(h, (g_0 + g_u) / state.devices)
        for (p, of_whole, of_own), part in zip(learning, h.split(sizes), strict=True):
            new = part.view_as(p)
            p.grad = keep_magnitude(new, (of_whole + of_own) / state.devices) if rescale == "tensor" else new

    def after_backward(self, state: State) -> None:
        self.whole, self.own = {}, {}
        gradients = [p.grad for p in state.model.encoders.parameters() if p.grad is not None]
        if self.parameters.scale != 1 and gradients:
            torch._foreach_mul_(gradients, self.parameters.scale)


def _set_gradients(state: State, gradients: Gradients) -> None:
    """Set the gradients that the encoders accumulate into; None where a modality has none."""
    for m, encoder in state.model.encoders.items():
        parameters = list(encoder.parameters())
        for p, gradient in zip(parameters, gradients.get(m, [None] * len(parameters)), strict=True):
            p.grad = gradient


def _get_gradients(state: State) -> Gradients:
    """The encoders' gradients."""
    return {m: [p.grad for p in encoder.parameters()] for m, encoder in state.model.encoders.items()}
