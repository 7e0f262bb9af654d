"""Parallel trainings of a stage: how many workers of how many threads, and their work."""

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
from g2d_pipeline.compute import visible_gpus
from g2d_pipeline.config import StudentRun, TeacherRun
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.overrides import Tree
from g2d_pipeline.stages import Plan
from g2d_pipeline.studies.cells import Outcome, Site, Task
from g2d_pipeline.studies.runner import Trainings

logger = logging.getLogger(__name__)

# docs/performance.md, "Trainings side by side": measured, on the low side
STEP, NUMBER = 2e-3, 3e-7  # CPU seconds of a step, and of each number of a sample in it
WORTH = 10.0  # CPU seconds of a stage from which on processes, which start in 4, are worth it
PROCESS, STATES = 0.6e9, 8  # bytes of a process with torch; copies of the weights (optimizer, best, teachers)


@dataclass
class Jobs:
    """The workers that train for a `kedro run`, started when they are first needed. Their number depends on
    the stage's settings and data and on the machine, not on what is missing or on the load: the number of
    threads decides the last bits of a training."""

    loader: ProjectConfigLoader
    pool: Trainings | None = None
    wanted: int = 0
    _shares: dict[str, tuple[int, int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ConfigError where the engine can not be used, or its workers or `devices` exceed what there
        is."""
        c = self.loader.configuration
        if c.run.compute.devices != 1 or c.run.compute.num_nodes > 1:
            from g2d_pipeline.training.launch import devices_of

            try:
                devices_of(c.options)
            except ConfigError as error:
                raise c.origins.mistake(("compute", "devices"), str(error)) from None
        self._open(None, 1).close()

    def _open(self, workers: int | None, threads: int) -> Trainings:
        loader, c = self.loader, self.loader.configuration
        site = Site(str(loader.project.absolute()), str(loader.conf_source), loader.env, threads)
        try:
            return Trainings(site, c.run.compute, workers, c.run.device)
        except ConfigError as error:
            key = str(error).split()[0].strip(":")  # with which it begins
            raise c.origins.mistake(tuple(key.split(".")), str(error)) from None

    def share(self, stage: str) -> tuple[int, int]:
        """(workers, threads of each) for a stage whose inputs are made; (0, 0): it trains in this process,
        with torch's default number of threads."""
        if stage not in self._shares:
            import joblib

            s, cores = self.loader.configuration.run.compute, joblib.cpu_count()
            number = automatic(self.loader.plan, stage, cores) if s.workers == "auto" else s.workers
            alone = number == 1 and (s.address is None or s.workers == "auto")
            one = s.devices != 1 or s.num_nodes > 1 or alone  # one training has all devices
            threads = cores // number if s.address is None else 1
            self._shares[stage] = (0, 0) if one else (number, threads)
        return self._shares[stage]

    @contextmanager
    def __call__(self, stage: str, runs: Sequence[str]) -> Iterator[Collection[str]]:
        """Train runs, and yield those that are made or have failed. The caller trains the rest, such as a
        single one or one that another process has locked, with as many threads as the others had."""
        number, threads = self.share(stage) if runs else (0, 0)
        if not number:
            yield ()
            return
        import torch

        before = torch.get_num_threads()
        threads = min(threads, before)
        elsewhere = self.loader.configuration.run.compute.address is not None
        done = self._train(stage, runs, number, threads) if len(runs) > 1 or elsewhere else ()
        torch.set_num_threads(threads)
        try:
            yield done
        finally:
            torch.set_num_threads(before)

    def _train(self, stage: str, runs: Sequence[str], number: int, threads: int) -> Collection[str]:
        plan, done = self.loader.plan, set[str]()
        if self.pool is None or (self.wanted, self.pool.threads) != (number, threads):
            self.close()
            self.pool, self.wanted = self._open(number, threads), number
        params: Tree = {**(self.loader.runtime_params or {}), "progress": False, "workers": 1}
        seeds = {run: plan.card(stage, run)["seed"] for run in runs}
        workers = self.pool.workers
        logger.info("%s: %d runs in %d processes of %d threads", stage, len(runs), workers, threads)

        def end(task: Task, outcome: Outcome) -> None:
            failed, run = outcome.status == "failed", task.run
            if failed and not outcome.of_training:
                return  # it ends the whole run, when it is tried again here
            done.add(run)
            if failed:
                message = outcome.message or outcome.reason
                plan.failures[stage, run] = FailedRun(seeds[run], outcome.reason, message)
                logger.error("%s %s failed: %s", stage, run, message)
            else:
                logger.info("%s %s (%d/%d) is trained", stage, run, len(done), len(runs))

        self.pool.train([Task(json.dumps(params, sort_keys=True), stage, run) for run in runs], end)
        plan.refresh()
        return done

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None


def automatic(plan: Plan, stage: str, cores: int) -> int:
    """How many workers train the runs of a stage: one a core where so many runs fit into memory, or a device
    (`cells_per_gpu`); on a cluster one a run; one where all runs take less than it takes to start them."""
    from g2d_pipeline.models.multimodal import pick_device

    c = plan.configuration
    settings: Any = c.teachers() if stage == "teachers" else c.distill()
    device, here = pick_device(c.run.device), c.run.compute.address is None
    if here and device.type != "cpu":
        cores = max(len(visible_gpus()), 1) if device.type == "cuda" and device.index is None else 1
        cores *= c.run.compute.cells_per_gpu
    number = min(cores, len(settings.runs)) if here else len(settings.runs)
    if number < 2 and here:
        return 1
    stores = {run.split: open_store(plan.require("featurize", run.split)) for run in settings.runs.values()}
    if sum(seconds_of(run, stores[run.split].meta) for run in settings.runs.values()) < WORTH:
        return 1
    if device.type != "cpu" or not here:
        return number
    different = {run.model_dump_json(exclude={"seed", "split"}): run for run in settings.runs.values()}
    largest = max(bytes_of(run, stores[run.split]) for run in different.values())
    return max(min(number, int(0.8 * memory_size() / largest)), 1)


def seconds_of(run: TeacherRun | StudentRun, meta: dict[str, Any]) -> float:
    """CPU seconds that a training takes, at least."""
    rows: int = meta["counts"]["train"]
    numbers = sum(math.prod(meta["modalities"][m]["shape"]) for m in run.encoders)
    size: int = rows if run.training.batch_size == "auto" else run.training.batch_size
    return float(run.training.epochs * (math.ceil(rows / size) * STEP + rows * numbers * NUMBER))


def bytes_of(run: TeacherRun | StudentRun, store: FeatureStore) -> float:
    """About the memory of a training's process, computed on torch's device `meta`."""
    from g2d_pipeline.training import Data
    from g2d_pipeline.training.capacity import kept_bytes
    from g2d_pipeline.training.recipes import describe_architecture

    augment = {run.modality: run.augment} if isinstance(run, TeacherRun) else run.augment
    fusion = "late" if isinstance(run, TeacherRun) else run.fusion
    data = Data.from_store(store, run.target, augment).only(*run.encoders)
    architecture = describe_architecture(data, run.encoders, fusion, None)
    weights, kept = kept_bytes(architecture, data, run.training)
    return PROCESS + STATES * weights + 2 * kept


def memory_size() -> float:
    """The bytes of memory of this machine, or of the control group that it is cut to."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    return float(min(float(text) if text.isdigit() else math.inf, pages))
