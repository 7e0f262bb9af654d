"""Where the time of one epoch of the default run goes (torch profiler): G²D on av_digits' shapes, each of its
phases.

Made-up numbers in the shapes of the bundled sample, its encoders, recipe and number of training samples. One
thread. Prints, for an epoch in which the image learns alone and for a joint one, the share of each kind of
operation."""

from __future__ import annotations

import time
from typing import Any

import torch
from common import write_result
from loop_overhead import made_up, model_of
from torch.profiler import ProfilerActivity, profile

from g2d_pipeline.config import SGD, SmallCNN, SMPSettings, TrainingSettings
from g2d_pipeline.methods import build as build_method
from g2d_pipeline.training import TeacherOutputs, fit

SAMPLES, BATCH, SHOWN = 1216, 32, 12
PHASES = {1: "warm-up", 2: "image alone (audio rests)", 3: "all"}


def main() -> None:
    torch.set_num_threads(1)
    data = made_up({"audio": (1, 32, 32), "image": (1, 8, 8)}, SAMPLES)
    encoders = {"audio": SmallCNN(), "image": SmallCNN()}
    model = model_of(data, encoders)  # type: ignore[arg-type]
    n = len(data.target)
    teachers = {
        m: TeacherOutputs(
            torch.zeros(n, int(model.encoders[m].width)), torch.zeros(n, 10), torch.full((n,), sure)
        )  # type: ignore[arg-type]
        for m, sure in (("audio", 0.9), ("image", 0.1))
    }
    rows: list[dict[str, Any]] = []
    method = build_method("g2d")
    running: dict[str, Any] = {}

    def start(state: Any) -> None:
        running["profile"] = profile(activities=[ProfilerActivity.CPU])
        running["profile"].__enter__()
        running["start"] = time.process_time()

    def end(state: Any) -> None:
        seconds = time.process_time() - running["start"]
        running["profile"].__exit__(None, None, None)
        events = running["profile"].key_averages()
        of_torch = sum(e.self_cpu_time_total for e in events)
        shares = sorted(((e.self_cpu_time_total, e.key, e.count) for e in events), reverse=True)
        name = PHASES[state.epoch]
        if state.epoch == 1:
            return
        print(f"{name}: {1e3 * seconds:.0f} ms under the profiler, {SAMPLES // BATCH} batches")
        for spent, key, count in shares[:SHOWN]:
            print(f"    {100 * spent / of_torch:5.1f} %  {key} (×{count})")
            share = round(spent / of_torch, 4)
            rows.append({"epoch": name, "operation": key, "share_of_torch_time": share, "calls": count})

    method.on_epoch_start = start  # type: ignore[method-assign]
    method.on_epoch_end = end  # type: ignore[method-assign]
    fit(
        model,
        data,
        method,
        training=TrainingSettings(epochs=3, batch_size=BATCH, optimizer=SGD(lr=0.01), selection="last"),
        smp=SMPSettings(tau=[2], suppressed_norm="frozen"),
        teachers=teachers,
        device="cpu",
        progress=False,
    )
    write_result("profile_epoch", rows, samples=SAMPLES, batch_size=BATCH)


if __name__ == "__main__":
    main()
