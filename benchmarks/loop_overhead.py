"""What the trainer adds to a bare PyTorch loop on the same model and tensors: CPU seconds of an epoch,
paired.

The bare loop, generous: index the tensors, forward, cross-entropy, backward, step of the same (fused)
optimizer, channels innermost; nothing is written down. The loop as it is usually written: a DataLoader that
collates samples, torch's default optimizer and memory format. Ours: `training.fit` with the method `joint`:
gather from arrays, history with gradient norms, divergence check, progress (plain), checkpoints at their
defaults. Validation is not counted on any side. Bar: ≤ 5 % over the generous one."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import spread_of, write_result
from reference import Rows
from torch.utils.data import DataLoader, Subset

from g2d_pipeline.config import MLP, SGD, ResNet18, SmallCNN, Strict, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, fit
from g2d_pipeline.training.data import batches_of, epoch_rows

ROUNDS, EPOCHS, BATCH = 7, 2, 32
# name → (modality → (shape of a sample, encoder), train samples)
CASES: dict[str, tuple[dict[str, tuple[tuple[int, ...], Strict]], int]] = {
    "spoken_mnist, small_cnn": (
        {"audio": ((1, 129, 63), SmallCNN(stride=2)), "image": ((1, 28, 28), SmallCNN())},
        512,
    ),
    "av_digits, small_cnn": ({"audio": ((1, 32, 32), SmallCNN()), "image": ((1, 8, 8), SmallCNN())}, 1024),
    "resnet18 at 64 px": ({"audio": ((1, 64, 64), ResNet18()), "image": ((3, 64, 64), ResNet18())}, 32),
    "two tables, mlp (a step of 2 ms)": ({"one": ((8,), MLP()), "two": ((20,), MLP())}, 4096),
}


def made_up(shapes: dict[str, tuple[int, ...]], n: int) -> Data:
    rng = np.random.default_rng(0)
    inputs = {m: rng.normal(size=(n + 4, *shape)).astype(np.float32) for m, shape in shapes.items()}
    split = ["train"] * n + ["val"] * 2 + ["test"] * 2
    return Data.from_arrays(inputs, np.arange(n + 4) % 10, split)


def model_of(data: Data, encoders: dict[str, Strict]) -> MultimodalModel:
    modalities = {
        m: {"encoder": e.model_dump(), "shape": list(data.shape(m)), "normaliser": None}
        for m, e in encoders.items()
    }
    torch.manual_seed(0)
    return build_model({"modalities": modalities, "fusion": "late", "task": data.task.to_json()})


def bare(data: Data, model: MultimodalModel) -> float:
    """CPU seconds an epoch of a loop over tensors in memory."""
    tensors = {m: torch.from_numpy(a) for m, a in data.arrays.items()}
    target = torch.from_numpy(np.asarray(data.target))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    model.train()
    start = time.process_time()
    for epoch in range(1, EPOCHS + 1):
        for rows in batches_of(epoch_rows(data.rows["train"], 0, epoch), BATCH):
            index = torch.from_numpy(rows)
            output = model({m: x[index] for m, x in tensors.items()})
            loss = F.cross_entropy(output.logits, target[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (time.process_time() - start) / EPOCHS


def written(data: Data, model: MultimodalModel) -> float:
    """CPU seconds an epoch of the loop that everybody writes first."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    dataset = Subset(Rows(data.arrays, data.target), data.rows["train"].tolist())
    loader = DataLoader(dataset, BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    model.train()
    start = time.process_time()
    for _ in range(EPOCHS):
        for inputs, target in loader:
            loss = F.cross_entropy(model(inputs).logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (time.process_time() - start) / EPOCHS


def ours(data: Data, model: MultimodalModel) -> float:
    """CPU seconds an epoch of `fit`, between the start and the end of each epoch."""
    method = build_method("joint")
    seconds: list[float] = []
    method.on_epoch_start = lambda state: seconds.append(-time.process_time())  # type: ignore[method-assign]
    method.on_epoch_end = lambda state: seconds.append(time.process_time())  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            data,
            method,
            training=TrainingSettings(epochs=EPOCHS, batch_size=BATCH, optimizer=SGD(), selection="last"),
            folder=Path(folder),
            device="cpu",
        )
    return sum(seconds) / EPOCHS


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("g2d_pipeline").setLevel(logging.WARNING)
    rows: list[dict[str, Any]] = []
    for name, (modalities, n) in CASES.items():
        data = made_up({m: shape for m, (shape, _) in modalities.items()}, n)
        encoders = {m: encoder for m, (_, encoder) in modalities.items()}
        bare(data, model_of(data, encoders))  # warm up
        pairs: list[tuple[float, float]] = []
        as_written: list[float] = []
        for number in range(ROUNDS):
            turns = [bare, written, ours] if number % 2 else [ours, written, bare]
            found = {run.__name__: run(data, model_of(data, encoders)) for run in turns}
            pairs.append((found["ours"], found["bare"]))
            as_written.append(found["ours"] / found["written"])
        ratio = spread_of([a / b for a, b in pairs])
        steps = n / BATCH
        per_step = sorted(b / steps * 1e3 for _, b in pairs)[len(pairs) // 2]
        extra = sorted((a - b) / steps * 1e3 for a, b in pairs)[len(pairs) // 2]
        rows.append(
            {
                "case": name,
                **ratio,
                "as_written": spread_of(as_written),
                "bare_ms_per_step": round(per_step, 2),
                "extra_ms_per_step": round(extra, 3),
            }
        )
        print(
            f"{name:34} ours / bare = {ratio['median']:.3f} ({ratio['lowest']:.3f}–{ratio['highest']:.3f}); "
            f"/ as written = {statistics.median(as_written):.3f}; "
            f"a bare step {per_step:.1f} ms, ours {extra:+.2f} ms"
        )
    write_result("loop_overhead", rows, rounds=ROUNDS, bar=1.05)


if __name__ == "__main__":
    main()
