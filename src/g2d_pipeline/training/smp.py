"""Sequential Modality Prioritization (paper §3.3, Eq. 5-8): which encoders learn from a batch.

The schedule stands beside the method, so that it composes with every method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from g2d_pipeline.config import SMPSettings


def rank(confidence: Sequence[float] | Tensor) -> list[int]:
    """π: positions in ascending confidence ρ `[k]`, the least confident first; ties keep the given order."""
    values = [float(c) for c in confidence]
    return sorted(range(len(values)), key=values.__getitem__)


def phase_of(epoch: int, phases: Sequence[int]) -> int:
    """The phase (from 1 to k) that `epoch` (from 1) falls into: phase j takes `phases[j − 1]` epochs, phase k
    the rest.

    Phases j < k prioritise π[j] alone; in phase k all modalities learn.
    """
    end = 0
    for phase, length in enumerate(phases[:-1], start=1):
        end += length
        if epoch <= end:
            return phase
    return len(phases)


def partial_kappa(confidence: Sequence[float] | Tensor) -> list[float]:
    """κ `[k]` of partial suppression (Table 6; g2d.md §5): 1 − tanh(r) where r > 1, else 1.

    r = ρ^m / mean of the others' ρ (k > 2: our definition).
    """
    values = [float(c) for c in confidence]
    others = [(sum(values) - v) / (len(values) - 1) for v in values]
    return [1.0 - math.tanh(v / o) if v > o else 1.0 for v, o in zip(values, others, strict=True)]


class SMP:
    """The schedule of one training run.

    `train_confidence` `[k, N]`: remembered ρ of each teacher on every row of the store (only train rows are
    read); `val_confidence` `[k]`: each teacher's mean on the validation split; `train_rows` `[n]`. `known`:
    whether the confidences of a batch are those remembered ones (no teacher sees an augmented batch)."""

    def __init__(
        self,
        settings: SMPSettings,
        modalities: Sequence[str],
        epochs: int,
        train_confidence: Tensor,
        val_confidence: Sequence[float],
        train_rows: Tensor,
        known: bool = True,
    ) -> None:
        self.settings = settings
        self.modalities = tuple(modalities)
        self.phases = settings.phases(len(self.modalities), epochs)
        self.confidence = train_confidence
        self.known = known
        self.phase = 1
        on_train = train_confidence[:, train_rows].double().mean(dim=1)
        evidence = on_train if settings.confidence_on == "train" else val_confidence
        self.ranking = rank(evidence)
        self.evidence: list[float] = [float(c) for c in evidence]
        self.kappa = dict.fromkeys(self.modalities, 1.0)  # of the batch that `active` was asked about last
        self.val_confidence = [float(c) for c in val_confidence]
        self.watch = {
            "start": math.nan,
            "best": -math.inf,
            "stale": 0.0,
            "epochs": 0.0,
            "done": 0.0,
        }  # of tau: auto
        self.learnt: set[str] = set(self.modalities)  # the encoders that have learnt in this epoch
        self._before: set[str] = set(self.modalities)  # … in the epoch before
        self._sum = torch.zeros(len(self.modalities), dtype=torch.float64)

    @property
    def partial(self) -> bool:
        return self.settings.suppression == "partial"

    @property
    def needs_batch_confidence(self) -> bool:
        """Whether `active` looks at the confidences of the batch in this phase."""
        asked = self.settings.confidence_on == "train" and self.settings.ranking != "dataset"
        return asked and self.phase < len(self.phases)

    def start_epoch(self, epoch: int) -> None:
        """Enter `epoch` (from 1). `ranking: epoch` re-ranks by the confidences met in the epoch before."""
        if (
            self.settings.confidence_on == "train"
            and self.settings.ranking == "epoch"
            and bool(self._sum.any())
        ):
            self.ranking = rank(self._sum)
            self.evidence = [float(c) for c in self._sum]
        self._sum.zero_()
        self._before, self.learnt = self.learnt, set()
        if self.settings.tau != "auto":
            self.phase = phase_of(epoch, self.phases)
        elif self.watch["done"]:
            self.phase += 1
            while (
                self.phase < len(self.phases) and not self.phases[self.phase - 1]
            ):  # too few epochs for this one
                self.phase += 1
            self.watch |= {
                "start": self.watch["next"],
                "best": -math.inf,
                "stale": 0.0,
                "epochs": 0.0,
                "done": 0.0,
            }

    def active(self, confidence: Tensor | None = None) -> tuple[str, ...]:
        """The modalities whose encoders learn from a batch, κ > 0; `kappa` is theirs, the others' κ is 0.

        `confidence` `[k, B]`: ρ of each teacher on the batch; asked for where `looks`.
        """
        found, kappa = self.modalities, [1.0] * len(self.modalities)
        if self.phase < len(self.phases):
            if self.partial:
                kappa = partial_kappa(self._evidence(confidence))
            else:
                found = (self.modalities[self._ranked(confidence)[self.phase - 1]],)
            if confidence is not None and self.needs_batch_confidence and self.settings.ranking == "epoch":
                self._sum += confidence.double().sum(dim=1).cpu()
        self.kappa = {m: c if m in found else 0.0 for m, c in zip(self.modalities, kappa, strict=True)}
        self.learnt.update(found)
        return found

    def _ranked(self, confidence: Tensor | None) -> list[int]:
        return rank(self._evidence(confidence)) if self._by_batch else self.ranking

    @property
    def _by_batch(self) -> bool:
        return self.needs_batch_confidence and self.settings.ranking == "batch"

    def _evidence(self, confidence: Tensor | None) -> Sequence[float] | Tensor:
        """The confidences `[k]` that decide about a batch."""
        if not self._by_batch:
            return self.evidence
        if confidence is None:
            raise ValueError("ranking: batch needs the teachers' confidences on the batch")
        return confidence.double().mean(dim=1)

    @property
    def wants_start(self) -> bool:
        """Whether `end_epoch` must be told the confidences before the first epoch (`tau: auto`)."""
        return self.settings.tau == "auto" and math.isnan(self.watch["start"])

    def end_epoch(self, confidence: Sequence[float]) -> None:
        """`tau: auto`: decide whether this was the last epoch of the phase.

        `confidence` `[k]`: the mean, on val, of the student's confidence from each modality alone. The first
        call, before epoch 1, notes where the gap begins. Watched is the modality that the whole train split
        ranks here."""
        if self.settings.tau != "auto" or self.phase == len(self.phases):
            return
        position = self.ranking[self.phase - 1]
        now, watch = float(confidence[position]), self.watch
        if math.isnan(watch["start"]):
            watch["start"] = now
            return
        gap = self.val_confidence[position] - watch["start"]
        watch["epochs"] += 1
        watch["stale"] = 0.0 if now > watch["best"] else watch["stale"] + 1
        watch["best"] = max(watch["best"], now)
        closed = now - watch["start"] >= self.settings.auto_gap * gap
        out = watch["stale"] >= self.settings.auto_patience or watch["epochs"] >= self.phases[self.phase - 1]
        watch["done"] = float(closed or out)
        watch["next"] = float(confidence[self.ranking[self.phase]])  # where the next phase's gap begins

    def resting(self, batches: Sequence[npt.NDArray[np.int64]]) -> set[str]:
        """The modalities that will learn from none of the `batches` (store rows) of this epoch, as far as one
        can tell.

        Where the ranking depends on augmented batches: those that did not learn in the epoch before.
        """
        others = set(self.modalities)
        if self.phase == len(self.phases) or self.partial:
            return set()
        if not (self.needs_batch_confidence and self.settings.ranking == "batch"):
            return others - {self.modalities[self.ranking[self.phase - 1]]}
        if not self.known:
            return others - self._before
        ranked = (self._ranked(self.confidence[:, torch.from_numpy(rows)]) for rows in batches)
        return others - {self.modalities[r[self.phase - 1]] for r in ranked}

    def state_dict(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "ranking": list(self.ranking),
            "learnt": sorted(self.learnt),
            "before": sorted(self._before),
            "sum": self._sum.clone(),
            "evidence": list(self.evidence),
            "watch": {name: value if math.isfinite(value) else None for name, value in self.watch.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.phase = int(state["phase"])
        self.ranking = [int(p) for p in state["ranking"]]
        self.learnt, self._before = set(state["learnt"]), set(state["before"])
        self._sum = torch.as_tensor(state["sum"]).clone()
        self.evidence = [float(c) for c in state["evidence"]]
        unknown = {"start": math.nan, "best": -math.inf}  # JSON has neither
        self.watch = {
            name: unknown[name] if value is None else value for name, value in state["watch"].items()
        }
