"""One training in one process and in two: seconds, their ratio, and what starting them costs.

`python benchmarks/scaling.py`. The same global batch in both, one thread a process: what two cores gain where
the networks are large, and what summing gradients costs where they are small."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from common import write_result

from g2d_pipeline.config import MLP, SGD, ResNet18, RunOptions, TrainingSettings
from g2d_pipeline.training import Data, train_student
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.launch import launch

GLOBAL, STEPS = 32, 12
NETWORKS: dict[str, tuple[tuple[int, ...], Any, int]] = {  # shape, encoder, epochs
    "two ResNet-18, 3 × 64 × 64": ((3, 64, 64), ResNet18(), 1),
    "two MLPs, 64 numbers": ((64,), MLP(widths=[64, 32], dropout=[]), 40),
}


def made_up(shape: tuple[int, ...]) -> Data:
    rng = np.random.default_rng(0)
    count = GLOBAL * STEPS
    split = ["train"] * count + ["val"] * 8 + ["test"] * 8
    inputs = {m: rng.normal(size=(len(split), *shape)).astype(np.float32) for m in ("a", "b")}
    return Data.from_arrays(inputs, rng.integers(0, 6, len(split)), split)


def seconds(options: RunOptions, name: str) -> dict[str, Any]:
    """Of a second training in this process: the first one warms up."""
    shape, encoder, epochs = NETWORKS[name]
    data, devices = made_up(shape), Group().world
    training = TrainingSettings(
        epochs=epochs, batch_size=GLOBAL // devices, optimizer=SGD(), selection="last"
    )
    taken = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        train_student(
            data, {"a": encoder, "b": encoder}, {}, method="joint", training=training, options=options
        )
        taken = time.perf_counter() - begin
    return {"seconds": taken}


def nothing(options: RunOptions) -> dict[str, Any]:
    return {"seconds": 0.0}


def main() -> None:
    torch.set_num_threads(1)
    one = RunOptions(device="cpu", progress=False)
    two = one.updated(compute={"devices": 2})
    begin = time.perf_counter()
    launch(nothing, options=two, description="start")
    start = round(time.perf_counter() - begin, 2)
    rows = []
    for name in NETWORKS:
        steps = STEPS * NETWORKS[name][2]
        alone = seconds(one, name)["seconds"]
        together = launch(seconds, name, options=two, description=name)["seconds"]
        rows.append(
            {
                "networks": name,
                "seconds, one process": round(alone, 3),
                "seconds, two processes": round(together, 3),
                "ratio": round(together / alone, 3),
                "milliseconds a step": [round(1e3 * t / steps, 1) for t in (alone, together)],
            }
        )
    for row in rows:
        print(row)
    write_result("scaling", rows, start_up_seconds=start)


if __name__ == "__main__":
    main()
