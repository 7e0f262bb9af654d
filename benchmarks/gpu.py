"""Images a second and utilisation on CUDA: ours in a grid of precision, compile, channels_last; and the
reference.

An epoch in which the less confident modality learns and a joint one of the CREMA-D recipe (two ResNet-18,
made-up data), the second of two measured; the reference in float32 with PyTorch's defaults, two DataLoader
workers. Without CUDA it says so and ends."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import RECIPES, made_up, model_of, teacher_of, write_result
from reference import Rows, train_reference

from g2d_pipeline.config import SGD, SMPSettings, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.training import Data, TeacherOutputs, fit
from g2d_pipeline.training.data import epoch_rows

RECIPE, SAMPLES, BATCH = RECIPES[0], 1024, 64
GRID = list(itertools.product(("fp32", "tf32", "bf16", "fp16"), (False, True), (False, True)))


def now() -> float:
    torch.cuda.synchronize()
    return time.monotonic()


def utilisation() -> float | None:
    """Percent of the last moments in which the device computed; None where the driver does not tell."""
    try:
        return float(torch.cuda.utilization())
    except (ModuleNotFoundError, RuntimeError):
        return None


def ours(data: Data, precision: str, compiled: bool, channels_last: bool) -> dict[str, Any]:
    teachers = {}
    for m in RECIPE.modalities:
        teacher = teacher_of(RECIPE, data, m, sure=m != RECIPE.prioritised)
        n, width = len(data.target), int(teacher.encoders[m].width)  # type: ignore[arg-type]
        sure = torch.full((n,), 0.9 if m != RECIPE.prioritised else 0.1)
        teachers[m] = TeacherOutputs(torch.zeros(n, width), torch.zeros(n, RECIPE.classes), sure, teacher)
    marks: list[float] = []
    used: list[float | None] = []
    method = build_method("g2d")
    method.on_epoch_start = lambda state: marks.append(now())  # type: ignore[method-assign]

    def end(state: Any) -> None:
        used.append(utilisation())
        marks.append(now())

    method.on_epoch_end = end  # type: ignore[method-assign]
    training = TrainingSettings(
        epochs=5, batch_size=BATCH, optimizer=SGD(), selection="last",
        precision=precision, compile=compiled, channels_last=channels_last,
    )  # fmt: skip
    fit(
        model_of(RECIPE, data), data, method, training=training, smp=SMPSettings(tau=[3]), teachers=teachers,
        device="cuda", workers=2, progress=False,
    )  # fmt: skip
    phase, joint = marks[5] - marks[4], marks[9] - marks[8]
    return {
        "phase_images_per_s": round(SAMPLES / phase), "joint_images_per_s": round(SAMPLES / joint),
        "phase_utilisation": used[2], "joint_utilisation": used[4],
    }  # fmt: skip


def reference(data: Data) -> dict[str, Any]:
    model = model_of(RECIPE, data).cuda()
    teachers = {
        m: teacher_of(RECIPE, data, m, sure=m != RECIPE.prioritised).cuda() for m in RECIPE.modalities
    }
    marks: list[float] = []

    def order(epoch: int) -> Sequence[int]:
        marks.append(now())
        rows: list[int] = epoch_rows(data.rows["train"], 0, epoch).tolist()
        return rows

    dataset = Rows(data.arrays, data.task.encode(torch.as_tensor(data.target)))
    train_reference(
        model, dataset, teachers, phases=[2, 1], order=order, batch_size=BATCH, workers=2, device="cuda"
    )
    used = utilisation()
    marks.append(now())
    return {
        "phase_images_per_s": round(SAMPLES / (marks[2] - marks[1])),
        "joint_images_per_s": round(SAMPLES / (marks[3] - marks[2])),
        "joint_utilisation": used,
    }


def main() -> None:
    if not torch.cuda.is_available():
        print("skipped: there is no CUDA device here")
        sys.exit(0)
    data = made_up(RECIPE, SAMPLES)
    rows = [{"who": "reference", **reference(data)}]
    print(rows[0])
    for precision, compiled, channels_last in GRID:
        setting = {"precision": precision, "compile": compiled, "channels_last": channels_last}
        found = ours(data, precision, compiled, channels_last)
        ratios = {
            f"{phase}_speed_up": round(found[f"{phase}_images_per_s"] / rows[0][f"{phase}_images_per_s"], 2)
            for phase in ("phase", "joint")
        }
        rows.append({"who": "ours", **setting, **found, **ratios})
        print(rows[-1])
    write_result("gpu", rows, samples=SAMPLES, batch_size=BATCH)


if __name__ == "__main__":
    main()
