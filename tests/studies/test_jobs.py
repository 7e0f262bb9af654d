"""Trainings of a `kedro run` side by side: the same bits, failures alone, nothing left behind by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from kedro.io import DatasetError

from g2d_pipeline import jobs
from g2d_pipeline.artefacts import FailedRun, TrainedFolder
from g2d_pipeline.catalog.folder import open_dataset
from g2d_pipeline.errors import ConfigError, LockedError, mistake_under
from g2d_pipeline.files import locked
from g2d_pipeline.jobs import Jobs, automatic
from g2d_pipeline.studies.cells import DATASETS, Workspace
from g2d_pipeline.studies.runner import KILLED
from tests.e2e.project import foreground
from tests.studies.conftest import Project, new_project

pytestmark = pytest.mark.filterwarnings("ignore:.*register_new_resolver")


class Run:
    """A `kedro run` of the tiny project, without Kedro: `train(stage)` saves what its node would."""

    def __init__(self, project: Project, **params: Any) -> None:
        self.params = {"dataset": "tiny", "compare": [], "seeds": [0, 1], "compute": {"workers": 2}} | params
        self.workspace = Workspace(project.site, self.params)
        self.workspace.prepare()
        loader = project.site.loader(self.params)
        entries = loader["catalog"]
        self.datasets = {stage: open_dataset(name, entries[name]) for stage, name in DATASETS.items()}
        self.plan, self.jobs = loader.plan, Jobs(loader)

    def train(self, stage: str) -> dict[str, Any]:
        from g2d_pipeline.pipelines.distill import train_students
        from g2d_pipeline.pipelines.teachers import train_teachers

        dataset, features = self.datasets[stage], self.datasets["featurize"].load()
        dataset.side_by_side = self.jobs
        if stage == "teachers":
            made: Any = train_teachers(features, self.workspace.configuration.teachers())
        else:
            teachers = self.datasets["teachers"].load() if self.datasets["teachers"].is_made() else {}
            made = train_students(features, teachers, self.workspace.distill)
        try:
            dataset.save(made)
        finally:
            self.jobs.close()
        return dict(dataset.load())


def test_two_processes_make_the_same_as_one_and_a_rebuild_makes_all_anew(tmp_path, project, caplog):
    other = new_project(tmp_path / "serial")
    for one, workers in ((project, 2), (other, 1)):
        run = Run(one, compute={"workers": workers})
        threads = torch.get_num_threads()
        assert all(isinstance(made, TrainedFolder) for made in run.train("teachers").values())
        assert len(run.train("distill")) == 2
        assert torch.get_num_threads() == threads
    assert "teachers: 4 runs in 2 processes of 1 threads" in caplog.text
    assert len(project.trained()) == 4 + 2
    assert project.trained() == other.trained()
    files = list(project.path.glob("data/06_models/**/model.safetensors"))
    before = {f: f.stat().st_mtime_ns for f in files}
    Run(project).train("teachers")
    assert {f: f.stat().st_mtime_ns for f in files} == before
    Run(project, rebuild=True, compute={"workers": 1}).train("teachers")
    assert [f for f in files if f.stat().st_mtime_ns == before[f]] == [
        f for f in files if "students" in str(f)
    ]
    assert project.trained() == other.trained()


def test_a_failed_or_killed_training_is_noted_alone_and_tried_again(project, caplog):
    workers = {"workers": 2, "retries": 1}
    run = Run(project, method="joint", compare=["fails", "kills"], seeds=[0], compute=workers)
    made = run.train("distill")
    assert made["fails/seed0"] == FailedRun(0, "ValueError: no cluster is left")
    assert made["kills/seed0"] == FailedRun(0, KILLED)
    assert isinstance(made["joint/seed0"], TrainedFolder)
    assert "distill fails/seed0 failed: ValueError: no cluster is left (--params debug=true" in caplog.text
    assert set(run.plan.failures) == {("distill", "fails/seed0"), ("distill", "kills/seed0")}
    again = Run(project, method="joint", compare=["fails", "killsonce"], seeds=[0], compute=workers)
    again = again.train("distill")
    assert [isinstance(one, FailedRun) for one in again.values()] == [True, False, False]


def test_what_another_process_makes_ends_the_run_after_the_others(project):
    run = Run(project)
    with locked(run.plan.folder("teachers", "loud/seed0")), pytest.raises(DatasetError) as caught:
        run.train("teachers")
    assert isinstance(mistake_under(caught.value), LockedError)
    assert len(project.trained()) == 3
    assert run.plan.failures == {}


def test_auto_follows_from_settings_data_and_machine(project, monkeypatch):
    short, long = Run(project), Run(project, epochs=4000)
    assert automatic(short.plan, "teachers", 8) == 1  # all in less than it takes to start a process
    assert [automatic(long.plan, "teachers", cores) for cores in (1, 2, 8)] == [1, 2, 4]  # of 4 runs
    monkeypatch.setattr(jobs, "memory_size", lambda: 2.5e9)
    assert automatic(long.plan, "teachers", 8) == 3
    monkeypatch.setattr("g2d_pipeline.models.multimodal.pick_device", lambda name: torch.device("cuda"))
    assert automatic(long.plan, "teachers", 8) == 1


def test_more_processes_than_cores_are_a_mistake(project):
    with pytest.raises(ConfigError, match=r"--params: compute.workers = 1000 × .* say compute.workers="):
        Jobs(project.site.loader({"dataset": "tiny", "compute": {"workers": 1000}})).check()


EPOCHS = 300  # more than two processes need to start one after the other
STOPPABLE = f"""
import sys
from pathlib import Path
from tests.studies.test_jobs import DatasetError, Project, Run, mistake_under
try:
    Run(Project(Path(sys.argv[1])), epochs={EPOCHS}).train("teachers")
except DatasetError as error:  # Kedro's
    print(cause := mistake_under(error))
    sys.exit(cause.exit_status)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of the teachers whom no signal stops."""
    project = new_project(tmp_path_factory.mktemp("undisturbed"))
    Run(project, epochs=EPOCHS, compute={"workers": 1}).train("teachers")
    return project.trained()


@pytest.mark.skipif(joblib.cpu_count() < 2, reason="two processes need two cores")
def test_a_signal_saves_in_all_processes_and_the_same_command_goes_on(project, undisturbed):
    """Ctrl-C, the same command, and SIGTERM."""
    before = set()
    for number, name in ((signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")):
        command = [sys.executable, "-W", "ignore", "-c", STOPPABLE, str(project.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=foreground)
        while len({file.parent for file in _checkpoints(project) - before}) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 128 + number, output
        assert output.count(f": stopped by {name} at epoch ") == 2, output
        deadline = time.monotonic() + 10
        while _alive(children.stdout.split()):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.1)
        before = _checkpoints(project)
    assert project.trained() == {}
    Run(project, epochs=EPOCHS, compute={"workers": 1}).train("teachers")
    assert project.trained() == undisturbed


def _checkpoints(project: Project) -> set[Path]:
    return set(project.path.glob("data/06_models/**/checkpoints/*.safetensors"))


def _alive(processes: list[str]) -> list[str]:
    """Those that run, or could."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(processes)], capture_output=True, text=True)
    return [state for state in done.stdout.split() if not state.startswith("Z")]
