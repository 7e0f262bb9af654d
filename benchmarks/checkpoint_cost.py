"""What checkpoints cost: seconds of one save, and their share of training time at the default interval.

Three models, from a 100 kB CNN to two ResNet-18 (CREMA-D's student): the seconds of a save measured on this
disk, and the share of the time of the same training with checkpoints (default settings) and without, paired.
Bar: ≤ 2 %."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from common import spread_of, write_result
from loop_overhead import made_up, model_of

from g2d_pipeline.config import SGD, ResNet18, SmallCNN, Strict, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.training import fit, resume
from g2d_pipeline.training.checkpoint import Checkpoints

ROUNDS = 3
# name → (modality → (shape, encoder), train samples, epochs)
CASES: dict[str, tuple[dict[str, tuple[tuple[int, ...], Strict]], int, int]] = {
    "av_digits, small_cnn": ({"audio": ((1, 32, 32), SmallCNN()), "image": ((1, 8, 8), SmallCNN())}, 512, 20),
    "spoken_mnist, small_cnn": (
        {"audio": ((1, 129, 63), SmallCNN(stride=2)), "image": ((1, 28, 28), SmallCNN())},
        512,
        5,
    ),
    "two resnet18 at 64 px": (
        {"audio": ((1, 64, 64), ResNet18()), "image": ((3, 64, 64), ResNet18())},
        64,
        3,
    ),
}


class Timed(Checkpoints):
    """Notes what each save takes and weighs."""

    saves: ClassVar[list[tuple[float, int]]] = []  # (seconds, bytes)

    def save(self, state: dict[str, Any], epoch: int, batch: int) -> Path | None:
        start = time.monotonic()
        path = super().save(state, epoch, batch)
        assert path is not None
        self.saves.append((time.monotonic() - start, path.stat().st_size))
        return path


def main() -> None:
    torch.set_num_threads(1)
    resume.Checkpoints = Timed  # type: ignore[attr-defined, misc]
    rows: list[dict[str, Any]] = []
    for name, (modalities, n, epochs) in CASES.items():
        data = made_up({m: shape for m, (shape, _) in modalities.items()}, n)
        encoders = {m: encoder for m, (_, encoder) in modalities.items()}
        training = TrainingSettings(epochs=epochs, batch_size=32, optimizer=SGD())
        Timed.saves.clear()
        shares = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                before, start = len(Timed.saves), time.monotonic()
                fit(
                    model_of(data, encoders),
                    data,
                    build_method("joint"),
                    training=training,
                    folder=Path(folder),
                    progress=False,
                )
                shares.append(
                    sum(seconds for seconds, _ in Timed.saves[before:]) / (time.monotonic() - start)
                )
        seconds, size = (statistics.median(values) for values in zip(*Timed.saves, strict=True))
        row = {
            "case": name,
            "save_ms": round(seconds * 1e3, 1),
            "megabytes": round(size / 1e6, 2),
            "saves_per_run": len(Timed.saves) / ROUNDS,
            "share_of_this_short_run": spread_of(shares),
            "share_every_10_minutes": round(seconds / 600, 5),
        }
        rows.append(row)
        print(
            f"{name:26} a save of {row['megabytes']} MB takes {row['save_ms']} ms; "
            f"{row['saves_per_run']:.1f} saves a "
            f"run of {epochs} epochs: {100 * statistics.median(shares):.2f} % of its time; "
            f"once in 10 minutes: {100 * seconds / 600:.3f} %"
        )
    write_result("checkpoint_cost", rows, rounds=ROUNDS, bar=0.02)


if __name__ == "__main__":
    main()
