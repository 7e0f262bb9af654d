"""The trainings of a stage side by side: how many processes of how many threads, and their work."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2d_pipeline.artefacts import FailedRun
from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.config import StudentRun, TeacherRun
from g2d_pipeline.config.studies import Processes
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.overrides import Tree
from g2d_pipeline.stages import Plan
from g2d_pipeline.studies.cells import Outcome, Site, Task
from g2d_pipeline.studies.runner import Pool

logger = logging.getLogger(__name__)

# docs/performance.md, "Trainings side by side": measured, on the low side
STEP, NUMBER = 2e-3, 3e-7  # CPU seconds of a step, and of each number of a sample in it
WORTH = 10.0  # CPU seconds of a stage from which on processes, which start in 4, are worth it
PROCESS, STATES = 0.6e9, 8  # bytes of a process with torch; copies of the weights (optimizer, best, teachers)


@dataclass
class Jobs:
    """The processes that train for a `kedro run`, started when they are first needed. What a stage gets
    depends on its settings and data and on the machine, not on what is missing or on the load: the number of
    threads decides about the last bits of a training."""

    loader: ProjectConfigLoader
    pool: Pool | None = None
    _shares: dict[str, tuple[int, int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ConfigError where `n_jobs` exceeds the cores, or `compute` asks for devices that are not
        there."""
        c = self.loader.configuration
        if c.run.compute.together > 1 or c.run.compute.devices == "auto":
            from g2d_pipeline.training.launch import devices_of

            try:
                devices_of(c.teachers().options)
            except ConfigError as error:
                raise c.origins.mistake(("compute", "devices"), str(error)) from None
            if c.run.n_jobs not in ("auto", 1):
                words = (
                    f"n_jobs = {c.run.n_jobs}: the devices train one model at a time. Say n_jobs=1 or auto"
                )
                raise c.origins.mistake(("n_jobs",), words)
        if c.run.n_jobs not in ("auto", 1):
            import joblib

            try:
                Processes(n_jobs=c.run.n_jobs).processes(joblib.cpu_count())
            except ConfigError as error:
                raise c.origins.mistake(("n_jobs",), str(error)) from None

    def share(self, stage: str) -> tuple[int, int]:
        """(processes, threads of each) for a stage whose inputs are made; threads 0: torch's own number."""
        if stage not in self._shares:
            import joblib

            plan, cores = self.loader.plan, joblib.cpu_count()
            wanted = self.loader.configuration.run.n_jobs
            number = automatic(plan, stage, cores) if wanted == "auto" else wanted
            self._shares[stage] = number, cores // number if number > 1 else 0
        return self._shares[stage]

    @contextmanager
    def __call__(self, stage: str, runs: Sequence[str]) -> Iterator[Collection[str]]:
        """Train runs, and yield those that are made or have failed. The rest, such as one alone or one that
        another process has locked, is the caller's, with as many threads as the others had."""
        number, threads = self.share(stage) if runs else (1, 0)
        if number == 1:
            yield ()
            return
        import torch

        before = torch.get_num_threads()
        threads = min(threads, before)
        done = self._train(stage, runs, number, threads) if len(runs) > 1 else ()
        torch.set_num_threads(threads)
        try:
            yield done
        finally:
            torch.set_num_threads(before)

    def _train(self, stage: str, runs: Sequence[str], number: int, threads: int) -> Collection[str]:
        loader, plan, done = self.loader, self.loader.plan, set[str]()
        site = Site(str(loader.project.absolute()), str(loader.conf_source), loader.env, threads)
        if self.pool is None or self.pool.site != site or self.pool.processes != number:
            self.close()
            self.pool = Pool(site, number)
        params: Tree = {**(loader.runtime_params or {}), "progress": False, "workers": 1}
        seeds = {run: plan.card(stage, run)["seed"] for run in runs}
        logger.info("%s: %d runs in %d processes of %d threads", stage, len(runs), number, threads)

        def end(task: Task, outcome: Outcome) -> None:
            if outcome.status == "failed" and not outcome.of_training:
                return  # it ends the whole run, when it is tried again here
            done.add(task.run)
            if outcome.status == "failed":
                failed = FailedRun(seeds[task.run], outcome.reason, outcome.message or outcome.reason)
                plan.failures[stage, task.run] = failed
                logger.error("%s %s failed: %s", stage, task.run, failed.message)
            else:
                logger.info("%s %s (%d/%d) is trained", stage, task.run, len(done), len(runs))

        self.pool.run([Task(json.dumps(params, sort_keys=True), stage, run) for run in runs], end)
        plan.refresh()
        return done

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None


def automatic(plan: Plan, stage: str, cores: int) -> int:
    """How many processes train the runs of a stage: one a core where so many runs fit into memory, one on an
    accelerator, or where all runs take less than it takes to start processes."""
    from g2d_pipeline.models.multimodal import pick_device

    c = plan.configuration
    settings: Any = c.teachers() if stage == "teachers" else c.distill()
    number = min(cores, len(settings.runs))
    if c.run.compute.together > 1 or c.run.compute.devices == "auto":
        return 1
    if number < 2 or pick_device(c.run.device).type != "cpu":
        return 1
    stores = {run.split: open_store(plan.require("featurize", run.split)) for run in settings.runs.values()}
    if sum(seconds_of(run, stores[run.split].meta) for run in settings.runs.values()) < WORTH:
        return 1
    different = {run.model_dump_json(exclude={"seed", "split"}): run for run in settings.runs.values()}
    largest = max(bytes_of(run, stores[run.split]) for run in different.values())
    return max(min(number, int(0.8 * memory_size() / largest)), 1)


def seconds_of(run: TeacherRun | StudentRun, meta: dict[str, Any]) -> float:
    """CPU seconds that a training takes, at least."""
    rows: int = meta["counts"]["train"]
    numbers = sum(math.prod(meta["modalities"][m]["shape"]) for m in _encoders(run))
    size: int = rows if run.training.batch_size == "auto" else run.training.batch_size
    return float(run.training.epochs * (math.ceil(rows / size) * STEP + rows * numbers * NUMBER))


def bytes_of(run: TeacherRun | StudentRun, store: FeatureStore) -> float:
    """About what the process of a training takes: found without memory, on torch's device `meta`."""
    from g2d_pipeline.training import Data
    from g2d_pipeline.training.capacity import kept_bytes
    from g2d_pipeline.training.recipes import describe_architecture

    augment, fusion = (
        ({run.modality: run.augment}, "late") if isinstance(run, TeacherRun) else (run.augment, run.fusion)
    )
    data = Data.from_store(store, run.target, augment).only(*_encoders(run))
    architecture = describe_architecture(data, _encoders(run), fusion, None)
    weights, kept = kept_bytes(architecture, data, run.training)
    return PROCESS + STATES * weights + 2 * kept


def _encoders(run: TeacherRun | StudentRun) -> dict[str, Any]:
    return {run.modality: run.encoder} if isinstance(run, TeacherRun) else run.encoders


def memory_size() -> float:
    """The bytes of memory of this machine, or of the control group that it is cut to."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    return float(min(float(text) if text.isdigit() else math.inf, pages))
