"""One artefact of a study's cell, made by the catalog's own datasets in whatever process it is asked for."""

import copy
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from kedro.framework.project import settings as kedro_settings
from kedro.utils import find_kedro_project

from g2d_pipeline.artefacts import FailedRun, Models, TrainedFolder
from g2d_pipeline.cards import read_card
from g2d_pipeline.catalog.folder import open_dataset, without_wrapping
from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.code import CodeGraph
from g2d_pipeline.errors import InterruptedRun, is_failed_training
from g2d_pipeline.overrides import Tree
from g2d_pipeline.pipelines.distill import train_students
from g2d_pipeline.pipelines.featurize import featurize_modalities
from g2d_pipeline.pipelines.ingest import ingest_raw
from g2d_pipeline.pipelines.teachers import train_teachers
from g2d_pipeline.settings import CONFIG_LOADER_ARGS
from g2d_pipeline.signals import ask_to_stop, asked_to_stop
from g2d_pipeline.sources import ensure_sample
from g2d_pipeline.stages import PACKAGE

DATASETS = {"ingest": "manifest", "featurize": "features", "teachers": "teachers", "distill": "students"}
"""Stage → the catalog's dataset of its artefacts."""
RunName = tuple[str, str]
"""Stage (`teachers` or `distill`) and name of a run."""


@dataclass(frozen=True)
class Site:
    """Where a project and its settings are, for any process; `threads` of torch in each."""

    project: str
    conf_source: str
    env: str | None = None
    threads: int = 1

    @classmethod
    def here(cls, env: str | None = None, conf_source: str | None = None) -> Self:
        """The project that the working directory is in."""
        project = Path(find_kedro_project(Path.cwd()) or Path.cwd()).resolve()
        source = conf_source or str(project / kedro_settings.CONF_SOURCE)
        return cls(str(project), source, env or os.getenv("KEDRO_ENV"))

    def loader(self, params: Tree) -> ProjectConfigLoader:
        """The configuration loader of a run with these parameters."""
        arguments: dict[str, Any] = CONFIG_LOADER_ARGS | {"runtime_params": copy.deepcopy(params)}
        loader = ProjectConfigLoader(self.conf_source, self.env, **arguments)
        loader.project = Path(self.project)
        return loader


@dataclass(frozen=True)
class Task:
    """A run of `teachers` or `distill` to be made, with the parameters (as JSON) that it is part of."""

    params: str
    stage: str
    run: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task. `reason`: why it failed, in one line; `message`: the same with remedies.
    `of_training`: its training failed, so that others have a chance."""

    status: Literal["made", "fresh", "failed", "interrupted"]
    reason: str = ""
    message: str = ""
    of_training: bool = True


class Workspace:
    """A configuration, the plan of its artefacts, and their datasets. Raises ConfigError and DataError."""

    def __init__(self, site: Site, params: Tree) -> None:
        loader = site.loader(params)
        self.params = json.dumps(params, sort_keys=True)
        self.configuration = c = loader.configuration
        if c.source == "sample":
            ensure_sample(c.dataset.raw, c.root)
        self.distill = c.distill()
        self.plan = loader.plan
        self.plan.graph = _graph(self.plan.graph.cache)
        entries = loader["catalog"]
        self.datasets: dict[str, Any] = {  # of FolderDatasets
            stage: open_dataset(name, entries[name]) for stage, name in DATASETS.items()
        }

    def prepare(self) -> None:
        """Make the manifests and the feature stores, where they are missing. Raises what that raises."""
        self.plan.refresh()
        manifests, features = self.datasets["ingest"], self.datasets["featurize"]
        with without_wrapping():
            if not manifests.is_made():
                manifests.save(ingest_raw(self.configuration.ingest()))
            if not features.is_made():
                features.save(featurize_modalities(manifests.load(), self.configuration.featurize()))

    def students(self, methods: Collection[str]) -> list[str]:
        """The runs of these methods."""
        return [name for name, run in self.distill.runs.items() if run.method in methods]

    def teachers_of(self, student: str) -> list[str]:
        """The runs of the teachers that a student needs."""
        run, repeat = self.distill.runs[student], student.partition("/")[2]
        return [f"{m}/{repeat}" for m in run.encoders] if run.needs_teachers else []

    def missing(self, runs: Iterable[RunName]) -> list[RunName]:
        """Those of the runs that are not fresh."""
        self.plan.refresh()
        return [run for run in runs if not self.plan.is_fresh(*run)]

    def card(self, stage: str, run: str) -> dict[str, Any]:
        """The stage card of a run's folder; empty where there is none."""
        return read_card(self.plan.folder(stage, run)) or {}

    def trained(self, stage: str, run: str) -> TrainedFolder:
        """A finished run. Raises DataError where it is not there."""
        folder: TrainedFolder = self.datasets[stage].read(self.plan.require(stage, run))
        return folder

    def make(self, stage: str, run: str) -> Outcome:
        """Make one artefact whose inputs are made, unless it is fresh: another process may have made it. A
        training that fails is an outcome. Raises G2DError and OSError for other faults."""
        dataset, rebuild = self.datasets[stage], self.configuration.run.rebuild
        self.plan.refresh()
        dataset.overwrite = rebuild
        if not rebuild and self.plan.is_fresh(stage, run):
            return Outcome("fresh")
        stores = self.datasets["featurize"]
        settings: Any = self.configuration.teachers() if stage == "teachers" else self.distill
        split = settings.runs[run].split
        features = {split: stores.read(self.plan.require("featurize", split))}
        if stage == "teachers":
            make = train_teachers(features, settings)[run]
        else:
            teachers: Models = {name: self.trained("teachers", name) for name in self.teachers_of(run)}
            make = train_students(features, teachers, settings)[run]
        with without_wrapping():
            dataset.save({run: make})
        failed: FailedRun | None = self.plan.failures.pop((stage, run), None)
        return Outcome("failed", failed.reason, failed.message) if failed else Outcome("made")


@lru_cache(maxsize=1)
def _graph(cache: Path | None) -> CodeGraph:
    """The code of the package, read once a process."""
    return CodeGraph(PACKAGE, cache)


@lru_cache(maxsize=64)
def _workspace(site: Site, params: str) -> Workspace:
    return Workspace(site, json.loads(params))


def open_workspace(site: Site, params: Tree) -> Workspace:
    """The configuration of a run with these parameters, opened once a process. Raises ConfigError and
    DataError."""
    return _workspace(site, json.dumps(params, sort_keys=True))


def forget_workspaces() -> None:
    """Open all anew from now on: files may have changed."""
    _workspace.cache_clear()
    _graph.cache_clear()


def make(site: Site, until: float | None, task: Task) -> Outcome:
    """The outcome of the task; no error escapes. `until`: the time (of `time.time`) at which training is
    stopped and saved. After Ctrl-C or SIGTERM nothing is started."""
    if asked_to_stop():
        return Outcome("interrupted")
    try:
        with warnings.catch_warnings(), _stopped_at(until):
            warnings.simplefilter("ignore")
            return _workspace(site, task.params).make(task.stage, task.run)
    except InterruptedRun as error:
        if until is None or time.time() < until:
            ask_to_stop(error.exit_status - 128)
        return Outcome("interrupted", str(error))
    except Exception as error:
        failed = FailedRun.from_error(0, error)
        return Outcome("failed", failed.reason, failed.message, is_failed_training(error))


def warm_up() -> None:
    """Import what training imports, so that it does not count for the first one's time."""
    import torch

    import g2d_pipeline.training  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()  # imports the compiler


@contextmanager
def _stopped_at(until: float | None) -> Iterator[None]:
    """Send this process SIGTERM at the time `until`: training saves and raises InterruptedRun; other work,
    and training that does not end within ten seconds, raises it at once. Outside the main thread (Dask) only
    training is stopped."""
    if until is None:
        yield
        return
    ended, over = threading.Event(), "stopped at the end of the time"
    if time.time() >= until:
        raise InterruptedRun(over, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        timer = threading.Timer(until - time.time(), ask_to_stop, (signal.SIGTERM,))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        return

    def stop(number: int, frame: object) -> None:
        if not ended.is_set():
            raise InterruptedRun(over, number)

    def remind() -> None:
        seconds = max(until - time.time(), 0)
        while not ended.wait(seconds):
            os.kill(os.getpid(), signal.SIGTERM)
            seconds = 10.0

    before = signal.signal(signal.SIGTERM, stop)
    clock = threading.Thread(target=remind, daemon=True)
    try:
        try:
            clock.start()
            yield
        finally:  # where a signal may still raise, but no second one
            ended.set()
    finally:
        ended.set()
        clock.join()
        signal.signal(signal.SIGTERM, before)
