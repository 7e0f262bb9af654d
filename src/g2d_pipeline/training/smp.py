"""Which encoders learn from a batch: all, or by Sequential Modality Prioritization (paper §3.3, Eq. 5-8).

The schedule stands beside the method, so that it composes with every method."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.config import SMPSettings
from g2d_pipeline.methods.base import Batch
from g2d_pipeline.models import MultimodalModel, depends_on_batch
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.data import Data, Rows, take
from g2d_pipeline.training.teachers import TeacherOutputs


def rank(confidence: Sequence[float] | Tensor) -> list[int]:
    """π: positions in ascending confidence ρ `[k]`, the least confident first; ties keep the given order."""
    values = [float(c) for c in confidence]
    return sorted(range(len(values)), key=values.__getitem__)


def phase_of(epoch: int, phases: Sequence[int]) -> int:
    """The phase (from 1 to k) that `epoch` (from 1) falls into: phase j takes `phases[j − 1]` epochs.

    Phases j < k prioritise π[j] alone; in phase k, the rest of the epochs, all modalities learn."""
    return 1 + int(np.searchsorted(np.cumsum(phases[:-1]), epoch))


def partial_kappa(confidence: Sequence[float] | Tensor) -> list[float]:
    """κ `[k]` of partial suppression (Table 6; g2d.md §5): 1 − tanh(r) where r > 1, else 1.

    r = ρ^m / mean of the others' ρ (k > 2: our definition)."""
    values = [float(c) for c in confidence]
    others = [(sum(values) - v) / (len(values) - 1) for v in values]
    return [1.0 - math.tanh(v / o) if v > o else 1.0 for v, o in zip(values, others, strict=True)]


class JointSchedule(Stateful):
    """No schedule: all encoders learn from every batch, in one phase. The base of those that choose.

    `needs_batch_confidence`: `activate` reads the teachers' confidences of the batch; `norm`: how
    suppressed encoders normalise (see `models.preserve_norm_stats`)."""

    needs_batch_confidence = False
    norm = "batch"
    phase = 1
    final_phase = 1  # the last one that has epochs
    in_last_phase = True
    rest_untrained: tuple[str, ...] = ()  # may be suppressed, by running statistics, before they learn

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self.kappa: dict[str, float] = {}  # of the last batch; left out: 1
        # Confidences `[k, n]` of a process's share of a batch → `[k, B]` of all of it.
        self.gather: Callable[[Tensor], Tensor] = lambda confidence: confidence

    def cacheable(self, model: MultimodalModel, data: Data) -> list[str]:
        """The modalities whose features can be looked up while they are suppressed."""
        return []

    def start_epoch(self, epoch: int) -> None:
        """Enter `epoch` (from 1)."""

    def frozen(self, batches: Sequence[Rows]) -> set[str]:
        """The modalities expected to learn from none of the `batches` (store rows) of this epoch."""
        return set()

    def activate(self, batch: Batch, model: MultimodalModel) -> tuple[str, ...]:
        """The modalities whose encoders learn from the batch; the model is made ready for it."""
        return self.modalities

    def suppressed(self, active: Sequence[str]) -> list[str]:
        """The modalities whose encoders run without gradient; methods may choose `active` themselves."""
        return [m for m in self.modalities if m not in active]

    def before_step(self, model: MultimodalModel) -> None:
        """Change gradients before the method and the optimizer see them."""

    def release(self, model: MultimodalModel) -> None:
        """Undo what `activate` did to the model: training has ended."""

    def describe(self) -> str:
        """The phase in words, for the progress bar."""
        return ""


def build_schedule(
    settings: SMPSettings | None, data: Data, teachers: Mapping[str, TeacherOutputs], epochs: int, known: bool
) -> JointSchedule:
    """SMP by the teachers' outputs, or no schedule. `known`: see `SMP`."""
    if settings is None:
        return JointSchedule(data.modalities)
    everything = np.arange(len(data.target))
    confidence = torch.stack([take(teachers[m].confidence, everything) for m in data.modalities])
    val = confidence[:, torch.from_numpy(data.rows["val"])].double().mean(dim=1).tolist()
    train = torch.from_numpy(data.rows["train"])
    return SMP(settings, data.modalities, epochs, confidence, val, train, known)


class SMP(JointSchedule):
    """The schedule of one training run.

    `train_confidence` `[k, N]`: ρ of each teacher on every row of the store (only train rows are read);
    `val_confidence` `[k]`: each teacher's mean on the validation split; `train_rows` `[n]`. `known`: whether
    the confidences of a batch are those stored ones (no teacher sees an augmented batch)."""

    state_names: ClassVar = ("phase", "ranking", "evidence", "sum", "learnt", "before")

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
        super().__init__(modalities)
        self.settings, self.confidence, self.known = settings, train_confidence, known
        self.phases = settings.phases(len(self.modalities), epochs)
        self.final_phase = max(j for j, count in enumerate(self.phases, 1) if count)
        self.partial = settings.suppression == "partial"
        self.conv_only = settings.scope == "conv_only"
        self.norm = "moving" if settings.update == "zero_grad" else settings.suppressed_norm
        on_train = train_confidence[:, train_rows].double().mean(dim=1)
        evidence = on_train if settings.confidence_on == "train" else val_confidence
        self.ranking = rank(evidence)
        self.evidence = [float(c) for c in evidence]
        self.kappa = dict.fromkeys(self.modalities, 1.0)
        self.learnt: set[str] = set(self.modalities)  # the encoders that have learnt in this epoch
        self.before: set[str] = set(self.modalities)  # … in the epoch before
        self.sum = torch.zeros(len(self.modalities), dtype=torch.float64)

    @property
    def in_last_phase(self) -> bool:  # type: ignore[override]
        return self.phase == len(self.phases)

    @property
    def rest_untrained(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.norm != "frozen" or self.partial or self.conv_only or not any(self.phases[:-1]):
            return ()
        first = self.modalities[self.ranking[phase_of(1, self.phases) - 1]]
        return tuple(m for m in self.modalities if self._by_batch or m != first)

    @property
    def needs_batch_confidence(self) -> bool:  # type: ignore[override]
        by_train = self.settings.confidence_on == "train" and self.settings.ranking != "dataset"
        return by_train and not self.in_last_phase

    def cacheable(self, model: MultimodalModel, data: Data) -> list[str]:
        s = self.settings
        if s.update != "skip" or self.conv_only or self.partial:
            return []
        fixed = [m for m in data.modalities if not data.augmented(m)]
        return [m for m in fixed if self.norm == "frozen" or not depends_on_batch(model.encoders[m])]

    def start_epoch(self, epoch: int) -> None:
        """Enter `epoch` (from 1). `ranking: epoch` re-ranks by the confidences met in the epoch before."""
        by_epoch = self.settings.confidence_on == "train" and self.settings.ranking == "epoch"
        if by_epoch and bool(self.sum.any()):
            self.ranking = rank(self.sum)
            self.evidence = [float(c) for c in self.sum]
        self.sum.zero_()
        self.before, self.learnt = self.learnt, set()
        self.phase = phase_of(epoch, self.phases)

    def activate(self, batch: Batch, model: MultimodalModel) -> tuple[str, ...]:
        views = batch.teachers.values() if self.needs_batch_confidence else ()
        active = self.active(self.gather(torch.stack([v.confidence for v in views])) if views else None)
        if self.conv_only:
            set_conv_gradients(model, active)
        return active

    def active(self, confidence: Tensor | None = None) -> tuple[str, ...]:
        """The modalities whose encoders learn from a batch, κ > 0; `kappa` is theirs, the others' κ is 0.

        `confidence` `[k, B]`: ρ of each teacher on the batch, where `needs_batch_confidence`."""
        active, kappa = self.modalities, [1.0] * len(self.modalities)
        if not self.in_last_phase:
            evidence: Sequence[float] | Tensor = self.evidence
            if self._by_batch:
                if confidence is None:
                    raise ValueError("ranking: batch needs the teachers' confidences on the batch")
                evidence = confidence.double().mean(dim=1)
            if self.partial:
                kappa = partial_kappa(evidence)
            else:
                active = (self._prioritised(evidence),)
            if confidence is not None and self.needs_batch_confidence and self.settings.ranking == "epoch":
                self.sum += confidence.double().sum(dim=1).cpu()
        self.kappa = {m: c if m in active else 0.0 for m, c in zip(self.modalities, kappa, strict=True)}
        self.learnt.update(active)
        return active

    @property
    def _by_batch(self) -> bool:
        return self.needs_batch_confidence and self.settings.ranking == "batch"

    def _prioritised(self, evidence: Sequence[float] | Tensor) -> str:
        """The modality that this phase prioritises, by the confidences `[k]`."""
        return self.modalities[rank(evidence)[self.phase - 1]]

    def suppressed(self, active: Sequence[str]) -> list[str]:
        return [] if self.conv_only else super().suppressed(active)

    def before_step(self, model: MultimodalModel) -> None:
        """`update: zero_grad`: a suppressed encoder's gradient is zero; momentum and decay still move it."""
        if self.settings.update == "zero_grad":
            for parameter in model.encoders.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def frozen(self, batches: Sequence[Rows]) -> set[str]:
        """Where the ranking depends on augmented batches: those that did not learn in the epoch before."""
        if self.in_last_phase or self.partial:
            return set()
        others = set(self.modalities)
        if not self._by_batch:
            return others - {self._prioritised(self.evidence)}
        if not self.known:
            return others - self.before
        of_batches = (self.confidence[:, torch.from_numpy(rows)].double().mean(dim=1) for rows in batches)
        return others - {self._prioritised(evidence) for evidence in of_batches}

    def release(self, model: MultimodalModel) -> None:
        if self.conv_only:
            set_conv_gradients(model, self.modalities)

    def describe(self) -> str:
        if self.partial:
            return ""
        who = "all learn" if self.in_last_phase else f"{self._prioritised(self.evidence)} learns"
        return f"phase {self.phase}/{len(self.phases)} ({who})"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(copy.deepcopy(state))


def set_conv_gradients(model: MultimodalModel, active: Sequence[str]) -> None:
    """`scope: conv_only`: convolution weights of suppressed encoders get no gradient; all else learns."""
    for m, encoder in model.encoders.items():
        for weight in encoder.parameters():
            if weight.dim() == 4:
                weight.requires_grad_(m in active)
