"""kill -9 in the middle of each stage, then the same command again: the same final bits, nothing half-written
read."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.project import Project, copy_project

pytestmark = pytest.mark.e2e

# In the order in which a run passes them: what is there once a stage has begun to write, or has written.
STAGES: dict[str, Callable[[Path], bool]] = {
    "ingest": lambda data: any(data.glob("02_intermediate/av_digits/*")),
    "featurize": lambda data: any(data.glob("04_feature/av_digits/*.partial/*.npy")),
    "inside a teacher": lambda data: any(
        data.glob("06_models/av_digits/teachers/*/*.partial/checkpoints/*.safetensors")
    ),
    "teachers": lambda data: any(data.glob("06_models/av_digits/teachers/*/*/stage.json")),
    "inside a student": lambda data: any(
        data.glob("06_models/av_digits/students/*/*.partial/checkpoints/*.safetensors")
    ),
    "distill": lambda data: any(data.glob("06_models/av_digits/students/*/*/stage.json")),
    "evaluate": lambda data: any(data.glob("08_reporting/av_digits/*/metrics*")),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run nobody disturbed."""
    project = copy_project(tmp_path_factory.mktemp("whole"))
    done = project.run("run")
    assert done.status == 0, done.output
    return project


def finished(project: Project) -> dict[str, str]:
    """The artefacts that are whole."""
    return {file: content for file, content in project.artefacts().items() if ".partial" not in file}


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


def test_killed_in_every_stage_and_started_again_a_run_ends_in_the_same_bits(
    tmp_path: Path, whole: Project
) -> None:
    project, undisturbed = copy_project(tmp_path), whole.artefacts()
    for stage, reached in STAGES.items():
        assert not reached(project.path / "data"), f"{stage} had begun before"
        assert kill_when(project, reached), f"{stage}: the run ended before it could be killed"
        assert finished(project).items() <= undisturbed.items(), f"killed in {stage}"
    again = project.run("run")
    assert again.status == 0, again.output
    assert project.artefacts() == undisturbed
    assert not list(project.path.glob("data/**/*.partial"))


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_stopped_training_saves_says_how_to_go_on_and_does(
    tmp_path: Path, whole: Project, number: int, status: int, name: str
) -> None:
    project = copy_project(tmp_path)
    shutil.copytree(whole.path / "data", project.path / "data", dirs_exist_ok=True)
    for folder in ("06_models/av_digits/students", "08_reporting/av_digits"):
        shutil.rmtree(project.path / "data" / folder)
    stopped = kill_when(project, STAGES["inside a student"], number)
    assert stopped is not None, "the run ended before it could be stopped"
    assert stopped[0] == status, stopped[1]
    assert f"stopped by {name} at epoch" in stopped[1]
    assert "saved; the same command goes on from there" in stopped[1]
    assert "Traceback" not in stopped[1]
    again = project.run("run")
    assert again.status == 0, again.output
    assert "goes on from epoch" in again.output
    assert project.artefacts() == whole.artefacts()
