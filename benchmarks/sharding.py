"""Encoders in shards: what a process holds, and seconds of an epoch, with `ddp` and with `fsdp`.

`python benchmarks/sharding.py`: two ResNet-18 on two processes of one thread each, over gloo."""

from __future__ import annotations

import resource
import time
from itertools import chain
from typing import Any

import torch
from common import write_result
from scaling import GLOBAL, STEPS, made_up
from torch import Tensor

from g2d_pipeline.config import SGD, ResNet18, RunOptions, TrainingSettings
from g2d_pipeline.methods.base import Method, State
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.sharding import local
from g2d_pipeline.training import fit
from g2d_pipeline.training.launch import launch
from g2d_pipeline.training.recipes import describe_architecture


class Counting(Method):
    """Joint training; of its last epoch the seconds, and the megabytes of weights, gradients and momenta."""

    distributed = "exact"

    def on_epoch_start(self, state: State) -> None:
        self.begin = time.perf_counter()

    def after_backward(self, state: State) -> None:
        self.gradients = _megabytes([p.grad for p in state.model.parameters() if p.grad is not None])

    def on_epoch_end(self, state: State) -> None:
        momenta = chain.from_iterable(of.values() for of in state.optimizer.state.values())
        self.counted = {
            "seconds an epoch": round(time.perf_counter() - self.begin, 2),
            "weights, MB": _megabytes(state.model.parameters()),
            "gradients, MB": self.gradients,
            "optimizer, MB": _megabytes(x for x in momenta if isinstance(x, Tensor)),
            "peak of resident memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        }


def _megabytes(tensors: Any) -> float:
    return round(sum(local(x).nbytes for x in tensors) / 1e6, 1)


def count(options: RunOptions, channels_last: bool) -> dict[str, Any]:
    data, method = made_up((3, 64, 64)), Counting()
    architecture = describe_architecture(data, dict.fromkeys("ab", ResNet18()), "late", None)
    how: dict[str, Any] = {"optimizer": SGD(), "selection": "last", "channels_last": channels_last}
    training = TrainingSettings(epochs=2, batch_size=GLOBAL // 2, **how)
    fit(build_model(architecture), data, method, training=training, options=options)
    return method.counted


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for strategy, channels_last in (("ddp", True), ("ddp", False), ("fsdp", False)):
        compute = {"devices": 2, "strategy": strategy}
        two = RunOptions(device="cpu", progress=False, compute=compute)
        about = {"strategy": strategy, "channels_last": channels_last}
        rows.append(about | launch(count, channels_last, options=two, description=strategy))
        print(rows[-1])
    write_result("sharding", rows, steps=STEPS)


if __name__ == "__main__":
    main()
