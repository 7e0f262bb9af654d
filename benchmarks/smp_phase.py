"""What an SMP phase costs: CPU seconds of an epoch with `update: skip` ÷ with a full backward, paired in one run.

Made-up tensors in the shapes of three recipes, their real encoders. The full backward is `update: zero_grad`: every
encoder runs forward and backward, then the gradients of the suppressed one are set to zero (the published code's way).
Prints ratios and writes benchmarks/results/smp_phase.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2d_pipeline.config import MLP, SGD, MobileNetV2, SmallCNN, SMPSettings, Strict, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, TeacherOutputs, fit

ROUNDS = 5
Recipe = tuple[dict[str, tuple[tuple[int, ...], Strict]], int]
RECIPES: dict[str, Recipe] = {
    "spoken_mnist": ({"audio": ((1, 129, 63), SmallCNN(stride=2)), "image": ((1, 28, 28), SmallCNN())}, 256),
    "av_digits": ({"audio": ((1, 32, 32), SmallCNN()), "image": ((1, 8, 8), SmallCNN())}, 512),
    "mis_me (64 px)": ({"image": ((3, 64, 64), MobileNetV2()), "tabular": ((8,), MLP())}, 96),
}


def made_up(shapes: dict[str, tuple[int, ...]], n: int) -> Data:
    """`n` training samples of noise, and as few others as possible, so that validation costs next to nothing."""
    rng = np.random.default_rng(0)
    inputs = {m: rng.normal(size=(n + 4, *shape)).astype(np.float32) for m, shape in shapes.items()}
    split = ["train"] * n + ["val"] * 2 + ["test"] * 2
    return Data.from_arrays(inputs, np.arange(n + 4) % 10, split, class_names=[*"0123456789"])


def epoch_seconds(data: Data, encoders: dict[str, Strict], alone: str, update: str) -> float:
    """CPU seconds of one epoch, on one thread, in which `alone` is prioritised."""
    modalities = {
        m: {"encoder": e.model_dump(), "shape": list(data.shape(m)), "normaliser": None} for m, e in encoders.items()
    }
    model = build_model({"modalities": modalities, "fusion": "late", "task": data.task.to_json()})
    n = len(data.target)
    teachers = {
        m: TeacherOutputs(
            feature=torch.zeros(n, int(model.encoders[m].width)),  # type: ignore[arg-type]
            logits=torch.zeros(n, data.task.outputs),
            confidence=torch.full((n,), 0.2 if m == alone else 0.8),
        )
        for m in encoders
    }
    training = TrainingSettings(epochs=1, batch_size=32, optimizer=SGD(), selection="last")
    smp = SMPSettings(tau=[1], update=update)  # type: ignore[arg-type]
    start = time.process_time()
    fit(model, data, build_method("g2d"), training=training, smp=smp, teachers=teachers, progress=False)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)  # CPU seconds of one thread: steady where the machine is shared
    rows: list[dict[str, Any]] = []
    for recipe, (modalities, n) in RECIPES.items():
        data = made_up({m: shape for m, (shape, _) in modalities.items()}, n)
        encoders = {m: encoder for m, (_, encoder) in modalities.items()}
        for alone in modalities:
            epoch_seconds(data, encoders, alone, "skip")  # warm up
            pairs = [
                (epoch_seconds(data, encoders, alone, "skip"), epoch_seconds(data, encoders, alone, "zero_grad"))
                for _ in range(ROUNDS)
            ]
            ratios = [a / b for a, b in pairs]
            row = {
                "recipe": recipe,
                "prioritised": alone,
                "skip_over_full": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
            }
            rows.append(row)
            spread = "{skip_over_full} ({lowest}–{highest})".format(**row)
            print(f"{recipe:16} {alone:8} alone: skip / full backward = {spread}")
    result = {
        "command": "python benchmarks/smp_phase.py",
        "machine": {
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "rounds": ROUNDS,
        "rows": rows,
    }
    target = Path(__file__).parent / "results" / "smp_phase.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"Written: {target.relative_to(Path(__file__).parents[1])}")


if __name__ == "__main__":
    main()
