"""Killed in the middle of each stage, then the same command again: the same final bits, nothing half-written
read."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError

from tests.e2e.project import Project, Result, copy_project, finished_project

pytestmark = pytest.mark.e2e

# In the order in which a run passes them: what is there once a stage has begun to write.
BEGUN: dict[str, Callable[[Path], bool]] = {
    "featurize": lambda data: any(data.glob("04_feature/av_digits/*.partial/*.npy")),
    "inside a teacher": lambda data: any(
        data.glob("06_models/av_digits/teachers/*/*.partial/checkpoints/*.safetensors")
    ),
    "inside a student": lambda data: any(
        data.glob("06_models/av_digits/students/*/*.partial/checkpoints/*.safetensors")
    ),
}
# What each stage renames into place when it is whole, in the same order.
PUBLISHED = [
    "data/02_intermediate/av_digits/manifest-*",
    "data/04_feature/av_digits/features-*",
    "data/06_models/av_digits/teachers/*/*",
    "data/06_models/av_digits/students/*/*",
    "data/08_reporting/av_digits/*/metrics*",
]


class Killed(Exception):
    """The run ends here."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run nobody disturbed."""
    return finished_project(tmp_path_factory, tmp_path_factory.mktemp("whole"))


def finished(project: Project) -> dict[str, str]:
    """The artefacts that are whole."""
    return {file: content for file, content in project.artefacts().items() if ".partial" not in file}


def kill_when(project: Project, reached: Callable[[Path], bool], number: int = signal.SIGKILL) -> Result:
    """Start a run and signal it as soon as the stage has begun to write: how it ended."""
    assert not reached(project.path / "data"), "the stage had begun before"
    process = project.fork("run")
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if reached(project.path / "data"):
            os.kill(process.pid, number)
            return process.wait(120)
        time.sleep(0.001)
    raise AssertionError(f"the run ended before it could be killed: {process.wait().output}")


def test_killed_while_it_writes_and_started_again_a_run_ends_in_the_same_bits(
    tmp_path: Path, whole: Project
) -> None:
    """kill -9, and last Ctrl-C, which saves first and says how to go on."""
    project, undisturbed = copy_project(tmp_path), whole.artefacts()
    for stage, begun in BEGUN.items():
        kill_when(project, begun)
        assert finished(project).items() <= undisturbed.items(), f"killed in {stage}"
    shutil.rmtree(project.path / "data" / "06_models" / "av_digits" / "students")
    stopped = kill_when(project, BEGUN["inside a student"], signal.SIGINT)
    assert stopped.status == 130, stopped.output
    assert "stopped by Ctrl-C at epoch" in stopped.output
    assert "saved; the same command goes on from there" in stopped.output
    assert "Traceback" not in stopped.output
    again = project.run("run")
    assert again.status == 0, again.output
    assert "goes on from epoch" in again.output
    assert project.artefacts() == undisturbed
    assert not list(project.path.glob("data/**/*.partial"))


def test_killed_before_any_artefact_is_published_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, whole: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In process: the rename that would publish a stage's first artefact raises."""
    project, undisturbed = copy_project(tmp_path), whole.artefacts()
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    bootstrap_project(project.path)
    replace = Path.replace

    def run(killed_at: str | None) -> None:
        def publish(self: Path, target: Any) -> Path:
            if killed_at is not None and Path(target).absolute().match(killed_at):
                raise Killed(target)
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", publish)
        with KedroSession.create(project_path=project.path) as session:
            session.run(only_missing_outputs=True)

    for pattern in PUBLISHED:
        with pytest.raises((Killed, DatasetError)) as caught:
            run(pattern)
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, Killed):  # Kedro wraps what happens in a dataset
            error = error.__cause__
        assert isinstance(error, Killed), f"not killed at {pattern}"
        assert finished(project).items() <= undisturbed.items(), f"killed at {pattern}"
    run(None)
    assert project.artefacts() == undisturbed
    assert not list(project.path.glob("data/**/*.partial"))
