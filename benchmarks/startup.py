"""CPU seconds of a start: `import g2d_pipeline.training` ÷ `import torch`, paired (bar 1.1), and of a
`kedro run` where nothing is to be done (bar 1.5 s)."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import spread_of, write_result
from study_cells import project

ROUNDS = 9


def cpu(command: list[str], folder: Path | None = None) -> float:
    """CPU seconds of a command. Raises CalledProcessError where it fails."""
    source = (folder or Path(__file__).resolve().parents[1]) / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    pairs = []
    for _ in range(ROUNDS):
        torch, ours = (cpu([sys.executable, "-c", f"import {m}"]) for m in ("torch", "g2d_pipeline.training"))
        pairs.append((torch, ours))
    ratio = spread_of([ours / torch for torch, ours in pairs])
    print(f"import g2d_pipeline.training ÷ import torch: {ratio}")
    with tempfile.TemporaryDirectory() as name:
        folder = project(Path(name))
        run = [sys.executable, "-m", "kedro", "run", "--params", "epochs=1,seed=0,tau=0"]
        cpu(run, folder)
        idle = spread_of([cpu(run, folder) for _ in range(ROUNDS)])
    print(f"kedro run with nothing to do, CPU seconds: {idle}")
    seconds = round(statistics.median(torch for torch, _ in pairs), 3)
    rows = [
        {"what": "import", **ratio, "torch_cpu_seconds": seconds},
        {"what": "kedro run, nothing to do", **idle},
    ]
    write_result("startup", rows, rounds=ROUNDS)


if __name__ == "__main__":
    main()
