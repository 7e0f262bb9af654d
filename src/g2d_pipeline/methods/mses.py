"""MSES (Fujimori et al., 2019): each modality stops early, when it begins to overfit."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from g2d_pipeline.methods._heads import weighted_losses
from g2d_pipeline.methods.base import Batch, Method, MethodParameters, Rows, State, Validation
from g2d_pipeline.models import MultimodalModel, Output


def patience_step(loss: float, best: float, waited: int) -> tuple[float, int]:
    """(best, epochs since it) after an epoch with this validation loss; a tie or a NaN is no improvement."""
    return (loss, 0) if loss < best else (best, waited + 1)


def belongs(name: str, modality: str) -> bool:
    """Whether a tensor of the model, by its name, belongs to the modality's encoder or head."""
    own = (f"encoders.{modality}.", f"fusion.heads.{modality}.")
    return name.startswith(own) or name == f"fusion.weights.{modality}"


def own_tensors(model: MultimodalModel, modality: str) -> dict[str, Tensor]:
    """Name → parameter or buffer of the modality's encoder and head; not copies."""
    return {name: tensor for name, tensor in model.state_dict().items() if belongs(name, modality)}


@contextmanager
def without_gradient(model: MultimodalModel, modalities: Iterable[str]) -> Iterator[None]:
    """Inside, parameters of the modalities' encoders and heads do not require gradients."""
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    parameters = [p for m in modalities for n, p in learning if belongs(n, m)]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class MSES(Method):
    """Each modality's head is a task of its own, and each modality stops early by its own validation loss.

    Its encoder and head are then frozen, to the bit, while the others go on; training ends when all have
    stopped. Where the best epochs are restored, one more epoch without batches (loss 0 in the history) scores
    the whole that they make up, if an epoch is left. With `ema` the losses are those of the averaged weights.
    Any k and both tasks; with all weights 0 it is joint training until the first one stops."""

    class Parameters(MethodParameters):
        patience: PositiveInt = 5
        restore_best: bool = True
        weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)

    parameters: Parameters
    equation = (
        "L = L_S(l, y) + Σ_m w_m·L_S(u^m, y); θ^m is frozen after P epochs without a new minimum of "
        "L_S(u^m, y) on val"
    )
    source = "Fujimori et al., 2019, modality-specific early stopping"
    distributed = "exact"
    no_sharding = "keeps and writes back whole weights of encoders"
    fusions = ("late", "sum", "weighted", "cosine")
    works_with_smp = False
    undefined = ". A modality is frozen together with its head, one of its own: say fusion=late"
    by_modality = ("weights",)

    def on_fit_start(self, state: State) -> None:
        self.lowest = dict.fromkeys(state.model.modalities, math.inf)  # validation losses
        self.waited = dict.fromkeys(state.model.modalities, 0)  # epochs since
        self.stopped: dict[str, int] = {}  # m → the epoch after which it was frozen
        self.kept: dict[str, dict[str, Tensor]] = {}  # m → its tensors in its best epoch, until it stops

    def _all_stopped(self) -> bool:
        return len(self.stopped) == len(self.lowest)

    def rows(self, rows: Rows, state: State) -> Rows:
        return rows[:0] if self._all_stopped() else rows

    def train_batch(self, batch: Batch, state: State) -> dict[str, Tensor]:
        state.active = tuple(m for m in state.active if m not in self.stopped)
        with without_gradient(state.model, self.stopped):
            return super().train_batch(batch, state)

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        terms = super().loss(output, batch, state)
        chosen = self.parameters.weights
        weights = {m: chosen.get(m, 1.0) for m in state.model.modalities if m not in self.stopped}
        logits = {m: state.model.unimodal_logits(output.features, m) for m in weights}
        return terms | weighted_losses(state.task, logits, batch.target, weights)

    def on_validation(self, validation: Validation, state: State) -> None:
        if self._all_stopped():  # what was restored has been scored
            state.stop = True
            return
        for m in [m for m in state.model.modalities if m not in self.stopped]:
            loss = float(state.task.loss(validation.logits[m], validation.target))
            self.lowest[m], self.waited[m] = patience_step(loss, self.lowest[m], self.waited[m])
            if self.waited[m] == 0 and self.parameters.restore_best:
                self.kept[m] = {name: tensor.clone() for name, tensor in own_tensors(state.model, m).items()}
            if self.waited[m] >= self.parameters.patience:
                self._freeze(m, state)
        state.stop = self._all_stopped() and not self.parameters.restore_best

    @torch.no_grad()
    def _freeze(self, modality: str, state: State) -> None:
        self.stopped[modality] = state.epoch
        if best := self.kept.pop(modality, None):
            for name, tensor in own_tensors(state.model, modality).items():
                tensor.copy_(best[name])
            state.mark_updated([modality])
