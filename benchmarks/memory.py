"""Peak resident memory of training from a memory-mapped store of 1 k and of 100 k samples, each in its own
process.

Two modalities (an image of 32×32 bytes in three channels, a table of 64 numbers), teachers' outputs
memory-mapped, SMP with remembered features. The store is written by a third process. Bar: equal within 10 %.
Peak: the kernel's VmHWM (file pages that are mapped count). Also the same without letting go of mapped pages,
to see what that does.

A teacher: ResNet-18 at 224 px, batches of 16, 32 train and 128 val samples of bytes in memory, two epochs,
the best weights kept; by `train_teacher` (its outputs on all samples included) and by a bare loop over
tensors that imports torch and torchvision alone. Bar: 1.05."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = (1_000, 100_000)
IMAGE, TABLE, WIDTH = (3, 32, 32), (64,), 256


def write(folder: Path, n: int) -> None:
    """Arrays of noise, block by block; and what two teachers might have said."""
    import numpy as np

    rng = np.random.default_rng(0)
    wanted = {
        "image": (IMAGE, np.uint8), "table": (TABLE, np.float32),
        "feature": ((WIDTH,), np.float32), "logits": ((10,), np.float32), "confidence": ((), np.float32),
    }  # fmt: skip
    for name, (shape, dtype) in wanted.items():
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (n, *shape))
        for start in range(0, n, 10_000):
            block = array[start : start + 10_000]
            block[...] = rng.integers(0, 256, block.shape) if dtype == np.uint8 else rng.random(block.shape)


def train(folder: Path, keep_mapped: bool) -> dict[str, Any]:
    """One phase epoch with remembered features and a joint one, over 8 000 steps' worth of rows at most."""
    import numpy as np
    import torch

    from g2d_pipeline.config import MLP, SmallCNN, TrainingSettings
    from g2d_pipeline.training import Data, TeacherOutputs, train_student
    from g2d_pipeline.training import data as data_module

    torch.set_num_threads(1)
    if keep_mapped:
        data_module.KEPT_MAPPED = 2**62
    arrays = {f.stem: np.load(f, mmap_mode="r") for f in folder.glob("*.npy")}
    n = len(arrays["table"])
    data = Data.from_arrays(
        {m: arrays[m] for m in ("image", "table")},
        np.arange(n) % 10,
        ["val"] * 100 + ["test"] * 100 + ["train"] * (n - 200),
    )
    encoders = {"image": SmallCNN(widths=[8, 16], stride=2, grid=4), "table": MLP(widths=[WIDTH], dropout=[])}
    outputs = TeacherOutputs(arrays["feature"], arrays["logits"], arrays["confidence"])
    train_student(
        data,
        encoders,
        {"image": outputs, "table": outputs},
        smp={"tau": [1], "suppressed_norm": "frozen", "ranking": "dataset"},
        training=TrainingSettings(epochs=2, batch_size=256),
        folder=folder / ("kept" if keep_mapped else "let go"),
        progress=False,
    )
    return {"samples": n, "peak_mib": peak_mib()}


def images() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (176, 3, 224, 224), np.uint8), rng.integers(0, 6, 176)


def teacher() -> None:
    import torch

    from g2d_pipeline.config import ResNet18, TrainingSettings
    from g2d_pipeline.training import Data, train_teacher

    torch.set_num_threads(1)
    x, y = images()
    names = [str(c) for c in range(6)]
    split = ["train"] * 32 + ["val"] * 128 + ["test"] * 16
    data = Data.from_arrays({"image": x}, y, split, class_names=names)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(epochs=2, batch_size=16)
        train_teacher(data, "image", ResNet18(), training=settings, folder=Path(folder), progress=False)


def bare_teacher() -> None:
    import copy

    import torch
    from torch import nn
    from torchvision.models import resnet18

    torch.set_num_threads(1)
    x, y = map(torch.from_numpy, images())
    model = resnet18(num_classes=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    best, weights = -1.0, {}
    for _ in range(2):
        model.train()
        for rows in torch.randperm(32).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows].float()), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = [
                float((model(x[i : i + 16].float()).argmax(1) == y[i : i + 16]).sum())
                for i in range(32, 160, 16)
            ]
        if sum(right) > best:
            best, weights = sum(right), copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)


def peak_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) / 1024, 1)


TEACHERS = {"teacher": teacher, "bare-teacher": bare_teacher}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", choices=["write", "train", "train-keep", *TEACHERS])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--samples", type=int, default=0)
    given = parser.parse_args()
    if given.child == "write":
        return write(given.folder, given.samples)
    if given.child in TEACHERS:
        TEACHERS[given.child]()
        print(json.dumps({"what": given.child, "peak_mib": peak_mib()}))
        return None
    if given.child:
        print(json.dumps(train(given.folder, given.child == "train-keep")))
        return None

    from common import write_result

    if not Path("/proc/self/status").exists():
        sys.exit("peak memory is read from /proc, which this system does not have")
    rows = []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as name:
            child = [sys.executable, __file__, "--folder", name, "--samples", str(n), "--child"]
            subprocess.run([*child, "write"], check=True)
            stored = sum(f.stat().st_size for f in Path(name).glob("*.npy")) / 2**20
            for kind in ("train", "train-keep"):
                done = subprocess.run([*child, kind], check=True, stdout=subprocess.PIPE, text=True)
                row = json.loads(done.stdout.splitlines()[-1]) | {
                    "stored_mib": round(stored),
                    "pages": "let go",
                }
                rows.append(row | ({"pages": "kept"} if kind == "train-keep" else {}))
                print(
                    "{samples:7} samples, {stored_mib} MiB stored, pages {pages}: peak {peak_mib} MiB".format(
                        **rows[-1]
                    )
                )
    ratio = rows[2]["peak_mib"] / rows[0]["peak_mib"]
    print(f"peak at 100 k / at 1 k = {ratio:.3f} (bar 1.10); with mapped pages kept: "
          f"{rows[3]['peak_mib'] / rows[1]['peak_mib']:.3f}")  # fmt: skip
    for what in TEACHERS:
        child = [sys.executable, __file__, "--child", what]
        done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    own, bare = (row["peak_mib"] for row in rows[-2:])
    print(f"a teacher: peak {own} MiB ÷ bare {bare} = {own / bare:.3f} (bar 1.05)")
    bars = {"bar": 1.10, "ratio_teacher": round(own / bare, 3), "bar_teacher": 1.05}
    write_result("memory", rows, ratio=round(ratio, 3), **bars)
    return None


if __name__ == "__main__":
    main()
