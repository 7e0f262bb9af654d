"""kill -9 in the middle of each stage, then the same command again: the same final bits, nothing half-written read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.project import Project, copy_project

STAGES: dict[str, Callable[[Path], bool]] = {
    "ingest": lambda data: any(data.glob("02_intermediate/av_digits/*")),
    "featurize": lambda data: any(data.glob("04_feature/av_digits/*.partial/*.npy")),
    "teachers": lambda data: any(data.glob("06_models/av_digits/teachers/*/*/stage.json")),
    "distill": lambda data: any(data.glob("06_models/av_digits/students/*/*/stage.json")),
    "evaluate": lambda data: any(data.glob("08_reporting/av_digits/*/*")),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    project = copy_project(tmp_path_factory.mktemp("undisturbed"))
    done = project.run("run")
    assert done.status == 0, done.output
    return project.artefacts()


def kill_when(project: Project, reached: Callable[[Path], bool]) -> bool:
    """Start a run and kill it as soon as the stage has begun to write; False where the run was faster."""
    process = project.start("run")
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if reached(project.path / "data"):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_started_again_ends_in_the_same_bits(
    tmp_path: Path, undisturbed: dict[str, str], stage: str
) -> None:
    project = copy_project(tmp_path)
    assert kill_when(project, STAGES[stage]), "the run ended before it could be killed"
    again = project.run("run")
    assert again.status == 0, again.output
    assert project.artefacts() == undisturbed
    assert not list(project.path.glob("data/**/*.partial"))
