"""What is recorded of a training run: a row an epoch, and where it went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from g2d_pipeline.errors import TrainingError
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd

CHECK_EVERY = 50  # batches between two checks of an accelerator's losses, which have to wait for it


class DivergenceError(TrainingError):
    """A loss became NaN or infinite."""


class History(Stateful):
    """The table; means over an epoch's batches, summed as one vector on the device: nothing waits for it."""

    state_names: ClassVar = ("epochs", "epoch", "names", "sums", "first_bad", "totals", "logged", "count",
                          "steps", "learning")  # fmt: skip

    def __init__(self, model: MultimodalModel, description: str) -> None:
        self.modalities = model.modalities
        self.description = description
        self.parameters = {m: list(model.encoders[m].parameters()) for m in model.modalities}
        self.gradients: dict[str, Tensor] = {}  # norms of the steps since the last batch
        self.epochs: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        self.epoch = 0
        self.names: tuple[str, ...] = ()
        self.sums = torch.zeros(0)
        self.first_bad = torch.zeros(0)
        self.totals: dict[str, float] = {}  # sums on the CPU: κ, and of names that no later batch has
        self.logged: dict[str, list[Any]] = {}  # what methods log: sum, number of batches
        self.count, self.steps = 0, 0
        self.learning: set[str] = set()

    def record_gradients(self) -> list[str]:
        """Store the norm of each encoder's gradient, before the step; the modalities that have one."""
        with_none = {m: [p.grad for p in of if p.grad is not None] for m, of in self.parameters.items()}
        gradients = {m: of for m, of in with_none.items() if of}
        if gradients:
            # The norms of all tensors by one call, as torch's own gradient clipping does.
            norms = torch.stack(torch._foreach_norm([g for of in gradients.values() for g in of]))
            parts = norms.split([len(of) for of in gradients.values()])
            for m, part in zip(gradients, parts, strict=True):
                self.gradients[f"grad_norm/{m}"] = torch.linalg.vector_norm(part)
        return list(gradients)

    def add(self, batch: Batch, terms: dict[str, Tensor], state: State, stepped: bool) -> None:
        """Add one batch; `stepped`: it ended with a step of the optimizer.

        Raises DivergenceError: on an accelerator up to `CHECK_EVERY` batches late, but of the right batch."""
        values = {f"loss/{name}": term.detach() for name, term in terms.items()}
        values |= self.gradients
        values |= {f"confidence/{m}": view.confidence.mean() for m, view in batch.teachers.items()}
        vector = state.mean(torch.stack([v.float() for v in values.values()]))
        self.epoch = state.epoch
        self.count += 1
        self.steps += stepped
        if tuple(values) != self.names:
            self._rename(tuple(values), vector, len(terms))
        self.sums = self.sums.to(vector.device) + vector
        self.gradients = {}
        self._add_logged(state)
        self.learning.update(state.active)
        losses = vector[: len(terms)]  # a gradient may overflow: fp16's scaler skips that step
        if vector.device.type == "cpu":
            if not bool(losses.isfinite().all()):
                self._diverged(losses, self.count)
            return
        bad = self.first_bad.to(vector.device)
        self.first_bad = torch.where(~losses.isfinite() & (bad == 0), float(self.count), bad)
        if self.count % CHECK_EVERY == 0:
            self.check()

    def _add_logged(self, state: State) -> None:
        for m in state.active:
            kappa = state.kappa.get(m, 1.0) * float(state.logged.get(f"kappa/{m}", 1.0))
            self.totals[f"kappa/{m}"] = self.totals.get(f"kappa/{m}", 0.0) + kappa
        for name, value in state.logged.items():
            if not name.startswith("kappa/"):
                total, count = self.logged.get(name, (0.0, 0))
                plain = value.detach() if isinstance(value, Tensor) else value
                self.logged[name] = [total + plain, count + 1]
        state.logged.clear()

    def _rename(self, names: tuple[str, ...], like: Tensor, losses: int) -> None:
        """Another set of terms from this batch on: close the vector and begin another one."""
        self.totals = self._summed()
        self.names, self.sums, self.first_bad = names, torch.zeros_like(like), torch.zeros_like(like[:losses])

    def _summed(self) -> dict[str, float]:
        """Name → sum over the batches of this epoch so far."""
        totals = dict(self.totals)
        for name, value in zip(self.names, self.sums.tolist(), strict=True):
            totals[name] = totals.get(name, 0.0) + value
        return totals

    def check(self) -> None:
        """Raise DivergenceError where a loss of an earlier batch of this epoch was not finite."""
        bad = self.first_bad
        if bool((bad > 0).any()):
            first = int(bad[bad > 0].min())
            self._diverged(torch.where(bad == first, math.nan, 0.0), first)

    def _diverged(self, losses: Tensor, batch: int) -> None:
        bad = [name for name, ok in zip(self.names, losses.isfinite().tolist(), strict=False) if not ok]
        where = f"epoch {self.epoch}, batch {batch}"
        raise DivergenceError(f"{self.description}: {', '.join(bad)} became NaN or infinite in {where}.")

    def means(self) -> dict[str, float]:
        """Name → mean over this epoch's batches (gradients: steps); a value that one lacks counts as 0."""
        totals = self._summed()
        for m in self.modalities:
            totals.setdefault(f"grad_norm/{m}", 0.0)
            totals.setdefault(f"kappa/{m}", 0.0)
        counts = {name: self.steps if name.startswith("grad_norm/") else self.count for name in totals}
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
        row |= {name: float(total) / count for name, (total, count) in self.logged.items()}
        row |= {f"{split}/{part}": v for split, parts in scores.items() for part, v in parts.items()}
        self.epochs.append(row)
        self._start()

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.epochs)


@contextmanager
def explain_divergence(
    last_checkpoint: Callable[[], Path | None], rests_on_statistics: Callable[[], bool]
) -> Iterator[None]:
    """Add to a DivergenceError inside what can be done about it, the likeliest remedy first.

    `last_checkpoint()`: its path or None; `rests_on_statistics()`: whether an encoder was suppressed whose
    batch norm goes by running statistics."""
    try:
        yield
    except DivergenceError as error:
        by_batch = "suppressed_norm=batch (a suppressed encoder goes by statistics that it has outgrown), "
        raise DivergenceError(
            f"{error}\nThe last good checkpoint: {last_checkpoint() or 'none was kept'}.\n"
            f"Remedies, the likeliest first: {by_batch if rests_on_statistics() else ''}a smaller learning "
            "rate (--params lr=…), a warm-up (lr_schedule.warmup=5), clip_norm=1, smaller alpha and beta, or "
            "a look at the features for extreme values."
        ) from None
