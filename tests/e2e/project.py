"""A copy of the project in a folder of its own, and its commands as a user types them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def foreground() -> None:
    """Heed Ctrl-C, which a process in the background of a shell ignores, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Result:
    status: int
    output: str

    @property
    def nodes(self) -> list[str]:
        """The nodes that ran."""
        return re.findall(r"Running node: (\w+):", self.output)


@dataclass(frozen=True)
class Project:
    """`run("run", "--params", …)` is `kedro run --params …` in `path`."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        shared = Path(os.environ.get("G2D_SHARED_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
        return os.environ | {
            "PYTHONPATH": str(self.path / "src"),
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "G2D_SHARED_DATA": str(shared),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kedro", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            preexec_fn=foreground,
        )

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=600,
        )
        return Result(done.returncode, done.stdout)

    def artefacts(self) -> dict[str, str]:
        """Every file that stages made, by content; stage cards aside, which tell the time, and what is
        known of this machine's files."""
        return {
            str(f.relative_to(self.path)): hashlib.sha256(f.read_bytes()).hexdigest()
            for layer in ("02_intermediate", "04_feature", "06_models", "08_reporting")
            for f in sorted((self.path / "data" / layer).rglob("*"))
            if f.is_file()
            and f.name not in ("stage.json", "raw_hashes.json", "code_graph.json", ".gitkeep")
            and not f.name.endswith((".verified.json", ".lock"))
        }


def copy_project(folder: Path, epochs: int = 2, seeds: str = "0") -> Project:
    """A copy with its own source, shrunk by `conf/local`: the same code, fewer epochs and one seed."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("conf", "src"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copytree(REPOSITORY / "data" / "01_raw" / "av_digits", folder / "data" / "01_raw" / "av_digits")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    training = {"training": {"epochs": epochs}, "smp": {"tau": [1]}}
    local = {
        "seeds": seeds,
        "datasets": {
            "av_digits": training,
            "spoken_mnist": training | {"raw": {"pairs": {"train": 60, "val": 30, "test": 30}}},
            "mis_me": {"sample": training},
        },
    }
    (folder / "conf" / "local").mkdir(exist_ok=True)
    (folder / "conf" / "local" / "parameters.yml").write_text(yaml.safe_dump(local))
    return Project(folder)
