"""The published algorithm's way of working, in plain PyTorch: what ours is compared with. Nothing of ours is
used.

Every sample is decoded and transformed again in every epoch by the Dataset; every teacher runs on every
batch; every encoder is run backward, and the gradients of the suppressed ones are multiplied by zero
afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def train_reference(
    student: nn.Module,
    dataset: Dataset[tuple[dict[str, Tensor], Tensor]],
    teachers: Mapping[str, nn.Module],
    *,
    phases: Sequence[int],
    order: Callable[[int], Sequence[int]],
    alpha: float = 1.0,
    beta: float = 1.0,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    batch_size: int = 16,
    spread: float | None = None,
    workers: int = 0,
    device: str = "cpu",
) -> None:
    """Train `student` in place for `sum(phases)` epochs, on the `device` where it and the teachers are; lr is
    constant.

    `student(inputs)` and `teachers[m]({m: x})` return an object with `features` (modality → `[B, D_m]`) and
    `logits` `[B, C]`; `student.encoders[m]` is the encoder of modality m. `dataset[i]`: ({m: one sample},
    target), the target a class, or a number in [0, 1] with `spread`, its standard deviation on train
    (regression through a sigmoid). `phases`: epochs in which the least confident modality learns alone, then
    the next one, …, at last all of them. `order(epoch)`, from 1: the dataset's positions in the order in
    which the epoch visits them."""
    encoders: Any = student.encoders
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    student.train()
    for teacher in teachers.values():
        teacher.eval()
    phase_of_epoch = [phase for phase, length in enumerate(phases) for _ in range(length)]

    for epoch, phase in enumerate(phase_of_epoch, start=1):
        for inputs, target in DataLoader(dataset, batch_size, sampler=order(epoch), num_workers=workers):
            inputs, target = {m: x.to(device) for m, x in inputs.items()}, target.to(device)
            output = student(inputs)
            with torch.no_grad():
                answers = {m: teacher({m: inputs[m]}) for m, teacher in teachers.items()}

            loss = task_loss(output.logits, target, spread)
            for m, answer in answers.items():
                loss = loss + alpha * F.mse_loss(output.features[m], answer.features[m])
                loss = loss + beta * divergence(output.logits, answer.logits, spread)

            optimizer.zero_grad()
            loss.backward()
            if phase < len(phases) - 1:
                belief = {m: float(confidence(a.logits, target, spread).sum()) for m, a in answers.items()}
                learning = sorted(belief, key=lambda m: belief[m])[phase]  # the least confident first
                for m, encoder in encoders.items():
                    for parameter in encoder.parameters() if m != learning else ():
                        parameter.grad *= 0
            optimizer.step()


def task_loss(logits: Tensor, target: Tensor, spread: float | None) -> Tensor:
    """Cross-entropy, or the mean squared error of the sigmoid."""
    if spread is None:
        return F.cross_entropy(logits, target)
    return (torch.sigmoid(logits[:, 0]) - target).square().mean()


def divergence(student: Tensor, teacher: Tensor, spread: float | None) -> Tensor:
    """KL(teacher ‖ student), batch mean: of the softmax over the classes, or of Bernoulli(sigmoid)."""
    if spread is None:
        return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
    p = torch.sigmoid(teacher)
    return F.binary_cross_entropy_with_logits(student, p) - F.binary_cross_entropy_with_logits(teacher, p)


def confidence(logits: Tensor, target: Tensor, spread: float | None) -> Tensor:
    """Each sample's probability of its true class, or exp(−(p − y)² / (2 s²)): `[B]`."""
    if spread is None:
        return F.softmax(logits, 1)[torch.arange(len(target)), target]
    return torch.exp(-(torch.sigmoid(logits[:, 0]) - target).square() / (2 * spread**2))


class Rows(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Samples that need no decoding: `inputs` m → `[N, …]`, `target` `[N]`."""

    def __init__(self, inputs: Mapping[str, Any], target: Any) -> None:
        self.inputs = {m: torch.as_tensor(x) for m, x in inputs.items()}
        self.target = torch.as_tensor(target)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], Tensor]:
        return {m: x[position] for m, x in self.inputs.items()}, self.target[position]
