"""Sequential Modality Prioritization (paper §3.3, Eq. 5-8): which encoders learn from a batch.

The schedule stands beside the method, so that it composes with every method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g2d_pipeline.config import SMPSettings


def rank(confidence: Sequence[float] | Tensor) -> list[int]:
    """π: positions in ascending confidence ρ `[k]`, the least confident first; ties keep the given order."""
    values = [float(c) for c in confidence]
    return sorted(range(len(values)), key=values.__getitem__)


def phase_of(epoch: int, phases: Sequence[int]) -> int:
    """The phase (from 1 to k) that `epoch` (from 1) falls into: phase j takes `phases[j − 1]` epochs, phase k the rest.

    Phases j < k prioritise π[j] alone; in phase k all modalities learn.
    """
    end = 0
    for phase, length in enumerate(phases[:-1], start=1):
        end += length
        if epoch <= end:
            return phase
    return len(phases)


class SMP:
    """The schedule of one training run.

    `train_confidence` `[k, N]`: ρ of each teacher on every row of the store (only train rows are read);
    `val_confidence` `[k]`: each teacher's mean on the validation split; `train_rows` `[n]`.
    """

    def __init__(
        self,
        settings: SMPSettings,
        modalities: Sequence[str],
        epochs: int,
        train_confidence: Tensor,
        val_confidence: Sequence[float],
        train_rows: Tensor,
    ) -> None:
        self.settings = settings
        self.modalities = tuple(modalities)
        self.phases = settings.phases(len(self.modalities), epochs)
        self.confidence = train_confidence
        self.phase = 1
        on_train = train_confidence[:, train_rows].double().mean(dim=1)
        evidence = on_train if settings.confidence_on == "train" else val_confidence
        self.ranking = rank(evidence)
        self._sum = torch.zeros(len(self.modalities), dtype=torch.float64)

    def start_epoch(self, epoch: int) -> None:
        """Enter `epoch` (from 1). `ranking: epoch` re-ranks by the confidences met in the epoch before."""
        if self.settings.confidence_on == "train" and self.settings.ranking == "epoch" and bool(self._sum.any()):
            self.ranking = rank(self._sum)
        self._sum.zero_()
        self.phase = phase_of(epoch, self.phases)

    def active(self, index: Tensor) -> tuple[str, ...]:
        """The modalities whose encoders learn from the batch of store rows `index` `[B]` (κ = 1; the others κ = 0)."""
        if self.phase == len(self.phases):
            return self.modalities
        ranking = self.ranking
        if self.settings.confidence_on == "train" and self.settings.ranking != "dataset":
            here = self.confidence[:, index].double()
            if self.settings.ranking == "batch":
                ranking = rank(here.mean(dim=1))
            else:
                self._sum += here.sum(dim=1)
        return (self.modalities[ranking[self.phase - 1]],)

    def state_dict(self) -> dict[str, Tensor | list[int]]:
        return {"ranking": list(self.ranking), "sum": self._sum.clone()}

    def load_state_dict(self, state: dict[str, Tensor | list[int]]) -> None:
        self.ranking = [int(p) for p in state["ranking"]]
        self._sum = torch.as_tensor(state["sum"]).clone()
