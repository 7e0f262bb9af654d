"""What each option of a training costs or saves on this CPU: seconds of an epoch ÷ the default's, in one run.

Options are those of `training:` (precision, channels_last, compile, checkpoint_activations, workers) and the
three implementations of torch's SGD. One thread; the first epoch warms up (and compiles, for the smallest
model only: others take minutes) and is not counted; the rounds go round all options, so that a slow minute of
the machine falls on each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import spread_of, write_result
from loop_overhead import made_up, model_of
from torch import optim

from g2d_pipeline.config import SGD, MobileNetV2, ResNet18, SmallCNN, Strict, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.training import Data, fit, optimisation

ROUNDS, BATCH = 3, 16
CASES: dict[str, tuple[dict[str, tuple[tuple[int, ...], Strict]], int]] = {
    "small_cnn (1×129×63, 1×28×28)": (
        {"audio": ((1, 129, 63), SmallCNN(stride=2)), "image": ((1, 28, 28), SmallCNN())},
        96,
    ),
    "resnet18 (1×64×64, 3×64×64)": (
        {"audio": ((1, 64, 64), ResNet18()), "image": ((3, 64, 64), ResNet18())},
        32,
    ),
    "mobilenet_v2 (3×64×64)": ({"image": ((3, 64, 64), MobileNetV2())}, 32),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "channels_last: false": {"channels_last": False},
    "precision: bf16": {"precision": "bf16"},
    "compile: true": {"compile": True},
    "checkpoint_activations: true": {"checkpoint_activations": True},
    "workers: 0 → 2": {"workers": 2},
    "SGD for-loop": {"implementation": {"foreach": False, "fused": False}},
    "SGD foreach": {"implementation": {"foreach": True, "fused": False}},
}


def epoch_seconds(data: Data, encoders: dict[str, Strict], option: dict[str, Any]) -> float:
    """Wall seconds of the second epoch, without validation."""
    option = dict(option)
    workers, implementation = option.pop("workers", 0), option.pop("implementation", None)
    method = build_method("joint")
    marks: list[float] = []
    method.on_epoch_start = lambda state: marks.append(time.monotonic())  # type: ignore[method-assign]
    method.on_epoch_end = lambda state: marks.append(time.monotonic())  # type: ignore[method-assign]
    ours = optimisation.build_optimizer
    if implementation is not None:
        optimisation.build_optimizer = lambda settings, groups, device: optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            **implementation,
        )
    try:
        fit(
            model_of(data, encoders),
            data,
            method,
            training=TrainingSettings(
                epochs=2, batch_size=BATCH, optimizer=SGD(), selection="last", **option
            ),
            workers=workers,
            device="cpu",
            progress=False,
        )
    finally:
        optimisation.build_optimizer = ours
    return marks[3] - marks[2]


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case, (modalities, n) in CASES.items():
        made = made_up({m: shape for m, (shape, _) in modalities.items()}, n)
        encoders = {m: encoder for m, (_, encoder) in modalities.items()}
        with tempfile.TemporaryDirectory() as folder:
            arrays = {}
            for m, array in made.arrays.items():  # memory-mapped, as a feature store is
                np.save(Path(folder) / f"{m}.npy", array)
                arrays[m] = np.load(Path(folder) / f"{m}.npy", mmap_mode="r")
            data = Data(**{**vars(made), "arrays": arrays})
            seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
            chosen = {
                n: o for n, o in OPTIONS.items() if "compile" not in o or case.startswith("small_cnn")
            }  # minutes
            for _ in range(ROUNDS):
                for name, option in chosen.items():
                    seconds[name].append(epoch_seconds(data, encoders, option))
        for name in chosen:
            ratio = spread_of([a / b for a, b in zip(seconds[name], seconds["default"], strict=True)])
            rows.append({"case": case, "option": name, **ratio})
            if name == "default":
                print(f"{case}: an epoch of {n} samples takes {min(seconds[name]):.2f} s")
            else:
                print(f"    {name:30} {ratio['median']:.2f} ({ratio['lowest']:.2f}–{ratio['highest']:.2f})")
    write_result("options", rows, rounds=ROUNDS, batch_size=BATCH)


if __name__ == "__main__":
    main()
