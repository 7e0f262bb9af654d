"""Independent work on one and two workers of each engine, and simulated to 64: chunks, cells.

Chunks: recordings of one second decoded and transformed to spectrograms, as `featurize` does it. Cells: the
trainings of a study of eight students on the bundled digits, one thread each. Both go through `Pool`; the
workers are started and warm before, so that the curve is the engine's, and their start stands beside it.
The simulation gives the measured tasks, repeated to 1,024, to the first free of n workers (list scheduling),
each with the engine's measured overhead, and counts the start once. It assumes that disks and memory keep up,
that there are as many cores as workers, and that handing out is not the bottleneck: `hands_out` is how many
empty tasks a second it hands out.

`python benchmarks/engines.py loky dask ray`"""

from __future__ import annotations

import heapq
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import write_result
from study_cells import project

from g2d_pipeline.compute import Pool
from g2d_pipeline.config import AudioFeatures, ComputeSettings
from g2d_pipeline.features.chunks import decode_cells
from g2d_pipeline.features.kinds import kind_of
from g2d_pipeline.studies.cells import Site, Task, make, open_workspace, warm_up

WORKERS = (1, 2, 4, 8, 16, 32, 64)
CHUNKS, CLIPS, RATE = 16, 128, 16_000
SIMULATED = 1024


def timed(function: Callable[[Any], Any], task: Any) -> tuple[float, float]:
    """(wall, CPU) seconds of a task, in its worker."""
    start, cpu = time.perf_counter(), time.process_time()
    function(task)
    return time.perf_counter() - start, time.process_time() - cpu


def decode(root: str, first: int) -> None:
    """A chunk: `CLIPS` recordings to spectrograms."""
    kind = kind_of(AudioFeatures(sample_rate=RATE, seconds=1.0))
    decode_cells(kind, [f"{(first + i) % 64}.wav" for i in range(CLIPS)], Path(root))


def train(site: Site, task: Task) -> None:
    """A training; its model is written anew."""
    if (outcome := make(site, None, task)).status != "made":
        raise RuntimeError(outcome.message)


def nothing(task: int) -> None:
    """What handing out a task takes by itself."""


def chunks(folder: Path) -> tuple[Callable[[int], Any], list[Any]]:
    """The work of featurize, and its tasks."""
    rng = np.random.default_rng(0)
    for i in range(64):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(RATE), RATE, subtype="PCM_16")
    return partial(decode, str(folder)), [CLIPS * k for k in range(CHUNKS)]


def cells(folder: Path) -> tuple[Callable[[Any], Any], list[Any]]:
    """The trainings of a study, of which the features are made, and its tasks."""
    site = Site(str(project(folder)), str(folder / "conf"))
    params = {"dataset": "av_digits", "method": "mses", "compare": ["joint"], "seeds": [0, 1, 2, 3]}
    workspace = open_workspace(site, params | {"epochs": 6, "rebuild": True, "progress": False, "workers": 1})
    workspace.prepare()
    runs = workspace.students(["joint", "mses"])
    return partial(train, site), [Task(workspace.params, "distill", run) for run in runs]


def measure(
    backend: str, workers: int, function: Callable[[Any], Any], tasks: Sequence[Any]
) -> dict[str, Any]:
    """Wall seconds of all tasks, and of each in its worker."""
    start = time.perf_counter()
    with Pool(ComputeSettings(backend=backend), workers, set_up=warm_up) as pool:
        list(pool.run(nothing, range(4 * workers)))
        ready, empty = time.perf_counter(), 200
        list(pool.run(nothing, range(empty)))
        handed, load = time.perf_counter(), os.getloadavg()[0]
        seconds = [result for _, result in pool.run(partial(timed, function), tasks) if result is not None]
        wall = time.perf_counter() - handed
    return {
        "backend": backend,
        "workers": workers,
        "start_seconds": round(ready - start, 1),
        "hands_out": round(empty / (handed - ready)),
        "load_before": round(load, 2),
        "wall_seconds": round(wall, 2),
        "task_seconds": [round(one, 3) for one, _ in seconds],
        "task_cpu_seconds": round(sum(cpu for _, cpu in seconds), 2),
    }


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last task ends, each given to the first free of `workers`."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def simulate(row: dict[str, Any]) -> dict[int, float]:
    """Speed-up of `SIMULATED` tasks on n workers over one, from the measurement with one."""
    tasks = list(itertools.islice(itertools.cycle(row["task_seconds"]), SIMULATED))
    overhead = max(row["wall_seconds"] / len(row["task_seconds"]) - sum(tasks) / len(tasks), 0.0)
    each = [one + overhead for one in tasks]
    return {
        n: round(sum(each) / (makespan(each, n) + (row["start_seconds"] if n > 1 else 0)), 1) for n in WORKERS
    }


def main() -> None:
    for backend in sys.argv[1:] or ["loky", "dask", "ray"]:
        rows = []
        for work in (chunks, cells):
            with tempfile.TemporaryDirectory() as folder:
                function, tasks = work(Path(folder))
                one, two = (measure(backend, workers, function, tasks) for workers in (1, 2))
            two["wall_ratio"] = round(two["wall_seconds"] / one["wall_seconds"], 2)
            one["simulated_speed_up"] = simulate(one)
            rows += [{"work": work.__name__, **row} for row in (one, two)]
            print(work.__name__, backend, "2 ÷ 1:", two["wall_ratio"], one["simulated_speed_up"], flush=True)
        write_result(f"engines_{backend}", rows, simulated=SIMULATED)


if __name__ == "__main__":
    main()
