"""A copy of the project in a folder of its own, and its commands as a user types them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock

if TYPE_CHECKING:  # what a process of the server need not import
    import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# What takes a command seconds to import. Nothing of Kedro's framework or of ours: a project has its own.
PRELOADED = [
    *("kedro.io", "kedro.config", "kedro.pipeline", "kedro_datasets.json", "pandas", "pyarrow.parquet"),
    *("torch", "torch._dynamo", "torch.distributed", "torchvision", "torchaudio", "safetensors.torch"),
    *("scipy.stats", "scipy.signal", "sklearn.neighbors", "sklearn.pipeline", "joblib", "filelock"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_svg", "PIL.Image", "av", "soundfile", "jinja2"),
    *(
        "dynaconf",
        "pydantic",
        "rich.progress",
        "torchvision.transforms.v2",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
    ),
    "tests.e2e.frozen",  # the last one
]


def context() -> ForkServerContext:
    """A server process that has imported what commands need, and forks one process for each of them."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(PRELOADED)
    return forking


def run_kedro(
    path: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    output: Path,
    prepare: Callable[[], None] | None = None,
) -> None:
    """In a process of the server: `prepare()`, then `python -m kedro …` in `path`; its output goes to a
    file."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(path)
    with Path(os.devnull).open() as nothing, output.open("w") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:0] = [str(path), str(path / "src")]
    sys.dont_write_bytecode = False
    sys.argv = ["kedro", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if prepare is not None:
        prepare()
    runpy.run_module("kedro", run_name="__main__", alter_sys=True)


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
class Running:
    """A command that was started, and the file that its output goes to."""

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_for(self, pattern: str, timeout: float = 300) -> None:
        """Until its output has a match of `pattern`."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.output.read_text()):
            assert self.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.02)

    def poll(self) -> int | None:
        """The exit status; minus the number of the signal that ended it; None as long as it runs."""
        return self.process.exitcode

    def wait(self, timeout: float = 600) -> Result:
        """Its end, which is to come within `timeout` seconds."""
        self.process.join(timeout)
        if (status := self.poll()) is None:
            self.process.kill()
            raise TimeoutError(f"the command did not end: {self.output.read_text()}")
        text = self.output.read_text()
        self.output.unlink()
        return Result(status, text)


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

    def fork(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Running:
        """The command in a process of its own, forked from one that has imported the libraries; `prepare`, a
        function of a module, is called in it before."""
        with tempfile.NamedTemporaryFile(suffix=".log", delete=False) as file:
            output = Path(file.name)
        task = (self.path, list(arguments), self.environment | (environment or {}), output, prepare)
        process = context().Process(target=run_kedro, args=task)
        process.start()
        return Running(process, output)

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Result:
        return self.fork(*arguments, environment=environment).wait()

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
    ignored = shutil.ignore_patterns("*.egg-info")
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


def finished_project(factory: pytest.TempPathFactory, folder: Path) -> Project:
    """A copy of a project in which the default pipeline has run once, what it said in `first.log`: made by
    the first who asks, of all workers."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "finished.lock"):
        if not (shared / "finished").exists():
            project = copy_project(shared / "unfinished")
            done = project.run("run")
            assert done.status == 0, done.output
            (project.path / "first.log").write_text(done.output)
            project.path.rename(shared / "finished")
    shutil.copytree(shared / "finished", folder, dirs_exist_ok=True)
    return Project(folder)
