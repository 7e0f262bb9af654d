"""The training history, one row per epoch, and the detection of divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from g2d_pipeline.errors import TrainingError
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.sharding import norms
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.scoring import Scores

CHECK_EVERY = 50  # batches between two checks of an accelerator's losses, which have to wait for it

SHORT = 2**13  # numbers in a batch below which a step is short: norms are taken of every `SAMPLED`th one
SAMPLED = 4


class DivergenceError(TrainingError):
    """A loss became NaN or infinite."""


class History(Stateful):
    """A row per epoch: means over its batches. `numbers`: elements in a batch's inputs.

    Gradient norms are means over the epoch's steps, where steps are short over every fourth one (column
    `grad_norm_every`). The values of a batch are one vector on the device, read at once on the CPU and every
    `CHECK_EVERY` batches on an accelerator, so that training does not synchronise."""

    state_names: ClassVar = ("epochs", "epoch", "totals", "logged", "count", "steps", "normed", "learning")

    def __init__(self, model: MultimodalModel, description: str, numbers: int = SHORT) -> None:
        self.every = SAMPLED if numbers < SHORT else 1
        self.modalities = model.modalities
        self.description = description
        self.parameters = {m: list(model.encoders[m].parameters()) for m in model.modalities}
        self.gradients: dict[str, Sequence[Tensor]] = {}  # norms by tensor, of the steps since the last batch
        self.epochs: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        self.epoch = 0
        self.totals: dict[str, float] = {}  # name → sum over batches
        self.logged: dict[str, list[Any]] = {}  # what methods log: sum, number of batches
        self.count, self.steps, self.normed = 0, 0, 0  # batches, steps, steps whose norms are in `totals`
        self.learning: set[str] = set()
        # Batches that are not in `totals` yet: names of their terms, modality → tensors with a norm, vector.
        self.pending: list[tuple[tuple[str, ...], dict[str, int], Tensor]] = []

    def record_gradients(self) -> list[str]:
        """Store the gradient norms of each encoder before a step; returns the modalities with a gradient."""
        gradients = {
            m: [g for p in weights if (g := p.grad) is not None] for m, weights in self.parameters.items()
        }
        gradients = {m: grads for m, grads in gradients.items() if grads}
        if gradients and self.steps % self.every == 0:
            # The norms of all tensors by one call, as torch's own gradient clipping does.
            each = iter(norms([g for grads in gradients.values() for g in grads]))
            self.gradients |= {m: list(islice(each, len(grads))) for m, grads in gradients.items()}
        return list(gradients)

    def add(self, batch: Batch, terms: dict[str, Tensor], state: State, stepped: bool) -> None:
        """Add one batch; `stepped`: it ended with a step of the optimizer.

        Raises DivergenceError: on an accelerator up to `CHECK_EVERY` batches late, but of the right batch."""
        values = {f"loss/{name}": term.detach() for name, term in terms.items()}
        values |= {f"confidence/{m}": view.confidence.mean() for m, view in batch.teachers.items()}
        numbers = [*values.values(), *chain.from_iterable(self.gradients.values())]
        vector = state.mean(torch.stack(numbers))
        counts = {m: len(tensors) for m, tensors in self.gradients.items()}
        self.pending.append((tuple(values), counts, vector))
        self.gradients = {}
        self.epoch = state.epoch
        self.count += 1
        self.normed += stepped and self.steps % self.every == 0
        self.steps += stepped
        for m in state.active:
            kappa = state.kappa.get(m, 1.0) * float(state.logged.get(f"kappa/{m}", 1.0))
            self.totals[f"kappa/{m}"] = self.totals.get(f"kappa/{m}", 0.0) + kappa
        for name, value in state.logged.items():
            if not name.startswith("kappa/"):
                total, count = self.logged.get(name, (0.0, 0))
                self.logged[name] = [
                    total + (value.detach() if isinstance(value, Tensor) else value),
                    count + 1,
                ]
        state.logged.clear()
        self.learning.update(state.active)
        if vector.device.type == "cpu" or len(self.pending) == CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Add pending batches to the totals. Raises DivergenceError where one had a loss that is not finite
        (gradients may overflow: fp16's scaler skips that step)."""
        pending, self.pending = self.pending, []
        for number, (names, tensors, vector) in enumerate(pending, self.count - len(pending) + 1):
            values = vector.tolist()
            named = dict(zip(names, values, strict=False))
            bad = [n for n, value in named.items() if n.startswith("loss/") and not math.isfinite(value)]
            if bad:
                bad_terms, place = ", ".join(bad), f"epoch {self.epoch}, batch {number}"
                raise DivergenceError(f"{self.description}: {bad_terms} became NaN or infinite in {place}.")
            norms_left = iter(values[len(names) :])
            named |= {f"grad_norm/{m}": math.hypot(*islice(norms_left, n)) for m, n in tensors.items()}
            for name, value in named.items():
                self.totals[name] = self.totals.get(name, 0.0) + value

    def state_dict(self) -> dict[str, Any]:
        """Raises DivergenceError as `check` does: a diverged run is not checkpointed."""
        self.check()
        return super().state_dict()

    def means(self) -> dict[str, float]:
        """Name → mean over this epoch's batches (gradients: steps); a value that one lacks counts as 0."""
        self.check()
        totals = dict(self.totals)
        for m in self.modalities:
            totals.setdefault(f"grad_norm/{m}", 0.0)
            totals.setdefault(f"kappa/{m}", 0.0)
        counts = {name: self.normed if name.startswith("grad_norm/") else self.count for name in totals}
        return {name: value / max(counts[name], 1) for name, value in totals.items()}

    def loss_terms(self) -> dict[str, float]:
        """The terms of the loss, for the progress bar."""
        return {n.removeprefix("loss/"): value for n, value in self.means().items() if n.startswith("loss/")}

    def end_epoch(self, epoch: int, phase: int, lr: float, scores: Scores) -> None:
        """Close the row of an epoch."""
        learning, means = "+".join(m for m in self.modalities if m in self.learning), self.means()
        row: dict[str, Any] = {"epoch": epoch, "phase": phase, "learning": learning, "lr": lr}
        terms = {name: value for name, value in means.items() if name.startswith("loss/")}
        row |= terms | {"loss/total": sum(terms.values())}
        for kind in ("grad_norm", "kappa", "confidence"):
            row |= {name: means[name] for m in self.modalities if (name := f"{kind}/{m}") in means}
        row |= {"grad_norm_every": self.every} if self.every > 1 else {}
        row |= {name: float(total) / count for name, (total, count) in self.logged.items()}
        row |= {f"{split}/{part}": v for split, parts in scores.items() for part, v in parts.items()}
        self.epochs.append(row)
        self._start()
