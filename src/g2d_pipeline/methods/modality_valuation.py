"""Modality valuation (Wei et al., CVPR 2024): modalities that contribute little are trained more often."""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from g2d_pipeline.methods._scores import Window
from g2d_pipeline.methods._shapley import Coalition, coalitions, mask_others, shapley
from g2d_pipeline.methods.base import Batch, Method, Rows, State
from g2d_pipeline.models import Output, Task

FEWER = (1 - 1e-6, 0.4, -0.1)  # a contribution below each of them is one copy more
ALL = -1  # no modality is masked


def worth(task: Task, logits: Tensor, target: Tensor, size: int) -> Tensor:
    """v `[B]` of what `size` modalities predict: their number where they are right, else 0; float64.

    Regression (our definition): their number times the confidence of a Gaussian error."""
    if task.outputs == 1:
        return size * task.confidence(logits, target).double()
    return size * (logits.argmax(dim=1) == target).double()


def contributions(task: Task, fusion: nn.Module, output: Output, target: Tensor) -> tuple[Tensor, Tensor]:
    """φ `[k, B]` of each modality to each sample, and its confidence alone `[k, B]`; Σ_m φ^m = v(all)."""
    names = list(output.features)
    logits = {kept: fusion(mask_others(output.features, kept)) for kept in coalitions(names)[1:-1]}
    logits[frozenset(names)] = output.logits

    def value(kept: Coalition) -> Tensor:
        if not kept:
            return torch.zeros_like(target, dtype=torch.float64)
        return worth(task, logits[kept], target, len(kept))

    alone = [task.confidence(logits[frozenset([m])], target) for m in names]
    return torch.stack(list(shapley(names, value).values())), torch.stack(alone)


def copies(contribution: Tensor) -> Tensor:
    """How often a sample is added: 0 from a contribution of 1 on, 1 below it, 2 below 0.4, 3 below −0.1."""
    return torch.stack([contribution < least for least in FEWER]).sum(dim=0)


def shares(contribution: Tensor, alpha: float) -> Tensor:
    """How many copies a modality is given `[k]`, as a share of all samples: α·⅔·(mean of the others' φ −
    φ^m), ≥ 0. k = 2: α·⅔·|φ^a − φ^v| for the one that contributes less. k > 2: our definition.
    `contribution`: means `[k]`."""
    k = len(contribution)
    others = (contribution.sum() - contribution) / (k - 1)
    return (alpha * 2 / 3 * (others - contribution)).clamp_min(0)


class ModalityValuation(Method):
    """Every epoch begins with valuing each modality's contribution to train samples; low ones are re-sampled.

    The value of a subset of modalities is their number where it predicts rightly, with zeros in place of the
    others' features. A copy of a sample has the features of all modalities masked but the one that it is
    copied for. An epoch is as much longer as there are copies. More than two modalities: the weight of a
    modality compares it with the mean of the others; regression: by the confidence of a Gaussian error (both:
    our definition)."""

    class Parameters(Window):
        level: Literal["sample", "modality"] = "sample"
        alpha: NonNegativeFloat = 0.5
        part_ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
        start_epoch: PositiveInt = 6

    parameters: Parameters
    min_modalities = 2
    equation = "φ^m = Shapley value of v(S) = |S|·[S predicts y]; f(1 − φ^m) copies with m alone, L = L_S"
    source = "Wei et al., CVPR 2024, sample-level and modality-level re-sampling"
    distributed = "exact"

    def on_fit_start(self, state: State) -> None:
        self.alone = torch.zeros(0, dtype=torch.long)  # of this epoch's samples by row: the modality, or ALL
        self.following = torch.zeros(0, dtype=torch.long)  # store row → which of them is its next one

    def rows(self, rows: Rows, state: State) -> Rows:
        p, k = self.parameters, len(state.model.modalities)
        self.alone = self.alone[:0]
        if not p.acts(state.epoch) or (p.level == "modality" and p.alpha == 0):
            return rows
        sampled = rows
        if p.level == "modality":
            sampled = rows[torch.randperm(len(rows)).numpy()[: max(1, int(p.part_ratio * len(rows)))]]
        contribution, confidence = state.agree(self._value(sampled, state))
        if p.level == "sample":
            # Within a sample from the least contribution up, so that draws depend on neither place nor name.
            order = _rising(contribution, confidence)
            times = copies(contribution).gather(0, order).T.reshape(-1)
            extra = torch.from_numpy(rows)[:, None].expand(-1, k).reshape(-1).repeat_interleave(times)
            for_whom = order.T.reshape(-1).repeat_interleave(times)
        else:
            mean = contribution.mean(dim=1, keepdim=True)
            order = _rising(mean, confidence.mean(dim=1, keepdim=True))[:, 0]
            times = (shares(mean[:, 0], p.alpha)[order] * len(rows)).long()
            for_whom = order.repeat_interleave(times)
            extra = torch.from_numpy(rows)[torch.randint(len(rows), (len(for_whom),))]
        if len(extra) == 0:
            return rows
        all_rows = torch.cat([torch.from_numpy(rows), extra])
        self._plan(all_rows, torch.cat([torch.full((len(rows),), ALL), for_whom]))
        return all_rows.numpy()

    def loss(self, output: Output, batch: Batch, state: State) -> dict[str, Tensor]:
        alone = None
        if len(self.alone):
            alone = self._take(state.whole(batch).cpu())[state.place].to(batch.target.device)
        if alone is None or bool((alone == ALL).all()):
            return super().loss(output, batch, state)
        features = enumerate(output.features.items())
        kept = {m: f * ((alone == ALL) | (alone == position))[:, None] for position, (m, f) in features}
        return super().loss(Output(kept, state.model.fusion(kept)), batch, state)

    def _value(self, rows: Rows, state: State) -> tuple[Tensor, Tensor]:
        """Contributions `[k, N]` and confidences of each modality alone `[k, N]` of these samples."""
        values = []
        for batch, output in state.evaluate(rows):
            fusion, was_training = state.model.fusion, state.model.fusion.training
            with torch.no_grad():
                values.append(contributions(state.task, fusion.eval(), output, batch.target))
            fusion.train(was_training)
        phi, rho = zip(*values, strict=True)
        return torch.cat([x.cpu() for x in phi], dim=1), torch.cat([x.cpu() for x in rho], dim=1)

    def _plan(self, rows: Tensor, alone: Tensor) -> None:
        """Plan, in random order, with whom alone each row `[T]` is used the first, second, … time."""
        shuffled = torch.randperm(len(rows))
        rows, alone = rows[shuffled], alone[shuffled]
        self.alone = alone[rows.argsort(stable=True)]
        count = rows.bincount()
        self.following = count.cumsum(0) - count

    def _take(self, index: Tensor) -> Tensor:
        """With whom alone the rows `[B]` of this batch are met; each is met once more thereby."""
        earlier = (index[:, None] == index).tril(-1).sum(dim=1)  # in this batch
        alone = self.alone[self.following[index] + earlier]
        self.following = self.following + index.bincount(minlength=len(self.following))
        return alone


def _rising(contribution: Tensor, confidence: Tensor) -> Tensor:
    """Positions `[k, N]` of the modalities, the least contribution first; ties: the least confidence."""
    by_confidence = confidence.argsort(dim=0, stable=True)
    return by_confidence.gather(0, contribution.gather(0, by_confidence).argsort(dim=0, stable=True))
