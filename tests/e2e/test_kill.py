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
    "inside a teacher": lambda data: any(
        data.glob("06_models/av_digits/teachers/*/*.partial/checkpoints/*.safetensors")
    ),
    "inside a student": lambda data: any(
        data.glob("06_models/av_digits/students/*/*.partial/checkpoints/*.safetensors")
    ),
    "evaluate": lambda data: any(data.glob("08_reporting/av_digits/*/metrics*")),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    project = copy_project(tmp_path_factory.mktemp("undisturbed"))
    done = project.run("run")
    assert done.status == 0, done.output
    return project.artefacts()


def kill_when(
    project: Project, reached: Callable[[Path], bool], number: int = signal.SIGKILL
) -> tuple[int, str] | None:
    """Start a run and signal it as soon as the stage has begun to write: (exit status, output).

    None where the run was faster.
    """
    process = project.start("run")
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if reached(project.path / "data"):
            os.kill(process.pid, number)
            output, _ = process.communicate(timeout=120)
            return process.returncode, output
        time.sleep(0.001)
    return None


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


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_stopped_training_saves_says_how_to_go_on_and_does(
    tmp_path: Path, undisturbed: dict[str, str], number: int, status: int, name: str
) -> None:
    project = copy_project(tmp_path)
    stopped = kill_when(project, STAGES["inside a student"], number)
    assert stopped is not None, "the run ended before it could be stopped"
    assert stopped[0] == status, stopped[1]
    assert f"stopped by {name} at epoch" in stopped[1]
    assert "saved; the same command goes on from there" in stopped[1]
    assert "Traceback" not in stopped[1]
    again = project.run("run")
    assert again.status == 0, again.output
    assert "goes on from epoch" in again.output
    assert project.artefacts() == undisturbed
