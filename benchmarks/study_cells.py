"""A study of twelve cells on two processes against one: wall time, CPU seconds, the same table.

Four methods × three seeds on the bundled digits, one thread a process; each study is a command of its own in
a copy of the project, so that the start of Python and of the processes counts. Features are made before. The
ratio means something on two quiet cores only: the load when it was measured stands beside it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result

REPOSITORY = Path(__file__).resolve().parents[1]
STUDY = """
studies:
  cells:
    datasets: [av_digits]
    methods: [joint, mses, mmpareto, ogm_ge]
    seeds: [0, 1, 2]
    options: {epochs: 20}
"""


def project(folder: Path) -> Path:
    """A copy of the project."""
    shutil.copytree(REPOSITORY / "conf" / "base", folder / "conf" / "base")
    shutil.copytree(REPOSITORY / "data" / "01_raw" / "av_digits", folder / "data" / "01_raw" / "av_digits")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conf" / "base" / "studies" / "cells.yml").write_text(STUDY)
    return folder


def kedro(folder: Path, *words: str) -> dict[str, float]:
    """Wall and CPU seconds of a command. Raises CalledProcessError where it fails."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "kedro", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu, 1)}


def measure(processes: int) -> tuple[dict[str, Any], str]:
    """What the study costs with so many processes, and its table."""
    with tempfile.TemporaryDirectory() as name:
        folder = project(Path(name))
        kedro(folder, "run", "--pipeline", "featurize", "--params", "dataset=av_digits")
        load = os.getloadavg()[0]
        costs = kedro(folder, "run", "--params", f"study=cells,compute.workers={processes}")
        (table,) = folder.glob("data/08_reporting/studies/cells-*/table.csv")
        return {"processes": processes, "load_before": round(load, 2), **costs}, table.read_text()


def main() -> None:
    (serial, one), (parallel, two) = measure(1), measure(2)
    assert one == two, "the tables differ"
    ratio = round(parallel["wall_seconds"] / serial["wall_seconds"], 2)
    for row in (serial, parallel):
        print(row)
    print(f"two processes ÷ one, wall: {ratio}")
    write_result("study_cells", [serial, parallel], cells=12, wall_ratio=ratio)


if __name__ == "__main__":
    main()
