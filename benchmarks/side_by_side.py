"""The trainings of a run in as many processes as cores against one after the other: wall time, CPU seconds,
the same weights.

Three runs: the default one, and a few epochs of spoken_mnist and of crema_d on its simulated sample;
teachers and students, the features made before. One after the other twice: with torch's threads, as many
as cores, and with one thread, which is faster where other work holds the cores. Every run is a command of
its own, so that the start of Python and of the processes counts. The ratio means something on quiet cores
only: the load before each stands beside it. `python benchmarks/side_by_side.py default` measures one of
them."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import joblib
from common import write_result
from study_cells import project

RUNS = {
    "default": "dataset=av_digits",
    "spoken_mnist": "dataset=spoken_mnist,epochs=4,tau=half,seeds=0/1",
    "crema_d": "dataset=crema_d,source=sample,epochs=24,tau=half",
}
# name → parameters, threads of torch
WAYS = {
    "one thread": ("compute.workers=1", "1"),
    "all threads": ("compute.workers=1", ""),
    "side by side": ("compute.workers=auto", ""),
}


def kedro(folder: Path, pipeline: str, params: str, threads: str) -> dict[str, float]:
    """Wall and CPU seconds of a run, and the largest of its processes. Raises CalledProcessError."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    environment |= {"OMP_NUM_THREADS": threads} if threads else {}
    if not threads:
        environment.pop("OMP_NUM_THREADS", None)
    before, load, start = resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg()[0], time.monotonic()
    command = [sys.executable, "-m", "kedro", "run", "--pipeline", pipeline, "--params", params]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = {"wall_seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu, 1)}
    return {"load_before": round(load, 2), **seconds}


def weights(folder: Path) -> str:
    """A hash of all trained weights."""
    files = sorted((folder / "data" / "06_models").rglob("model.safetensors"))
    return hashlib.blake2b(b"".join(f.read_bytes() for f in files)).hexdigest()


def measure(name: str) -> list[dict[str, Any]]:
    """A row for each way."""
    rows, made = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = project(Path(temporary))
        kedro(folder, "featurize", RUNS[name], "1")
        for way, (params, threads) in WAYS.items():
            costs = kedro(folder, "distill", f"{RUNS[name]},{params}", threads)
            made[way] = weights(folder)
            shutil.rmtree(folder / "data" / "06_models")
            rows.append({"run": name, "way": way, **costs})
            print(rows[-1], flush=True)
    assert made["one thread"] == made["side by side"] or joblib.cpu_count() > 2, "the weights differ"
    best = min(row["wall_seconds"] for row in rows[:2])
    rows[-1]["wall_ratio"] = round(rows[-1]["wall_seconds"] / best, 2)
    print(f"{name}: side by side ÷ the better of one after the other, wall: {rows[-1]['wall_ratio']}")
    return rows


def main() -> None:
    names = sys.argv[1:] or list(RUNS)
    write_result("side_by_side", [row for name in names for row in measure(name)], bar=0.6)


if __name__ == "__main__":
    main()
