"""Trainings side by side, in processes that may be killed."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from g2d_pipeline.compute import Pool
from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.explain import Origins
from g2d_pipeline.progress import track_epochs
from g2d_pipeline.signals import stop_on_signals
from g2d_pipeline.studies.cells import Outcome, Site, Task, make, warm_up

KILLED = "its process was killed each time that it was tried, perhaps for want of memory"
STOPPED = "Stopped. What is whole is kept; the same command goes on from there."


class Trainings(Pool):
    """Workers that train, on `device` where that is CUDA; see `Pool`."""

    def __init__(self, site: Site, settings: ComputeSettings, workers: int | None, device: str) -> None:
        self.site = site
        super().__init__(settings, workers, site.threads, device in ("auto", "cuda"), warm_up)

    def train(
        self, tasks: Sequence[Task], done: Callable[[Task, Outcome], None], until: float | None = None
    ) -> None:
        """Call `done` with each of the independent tasks and its outcome when it has ended. `until`: the
        time (of `time.time`) at which unfinished ones are saved and given up.

        Ctrl-C and SIGTERM go to the workers, which save their trainings; then InterruptedRun is raised."""
        saved, train = [], partial(make, self.site, until)
        with stop_on_signals(self.stop) as stop:
            for task, outcome in self.run(train, tasks, lambda: stop.number is not None):
                if outcome is None:
                    done(task, Outcome("failed", KILLED))
                elif outcome.status != "interrupted":
                    done(task, outcome)
                elif stop.number is not None:
                    saved.append(outcome.reason)
                else:
                    late = until is not None and time.time() >= until
                    done(task, outcome if late else Outcome("failed", KILLED))
        if stop.number is not None:
            raise InterruptedRun("\n".join(filter(None, saved)) or STOPPED, stop.number)

    def train_waves(
        self,
        title: str,
        total: int,
        waves: Iterable[Sequence[Task]],
        failed: Callable[[Task, str], None],
        until: float | None = None,
    ) -> None:
        """Train each wave when the one before has ended, with progress over `total` tasks; `failed(task,
        reason)` is called for each that fails."""
        with track_epochs(title, 0, total) as progress:
            progress.start(1)

            def done(task: Task, outcome: Outcome) -> None:
                progress.advance(0, dict)
                if outcome.status == "failed":
                    failed(task, outcome.reason)

            for tasks in waves:
                self.train(tasks, done, until)


def open_pool(site: Site, study: str, origins: Origins, c: Configuration) -> Trainings:
    """The workers of a study whose cells have settings such as `c`. Raises ConfigError; see `Pool`."""
    alone = c.run.compute.devices != 1 or c.run.compute.num_nodes > 1  # a training has all devices
    try:
        return Trainings(site, c.run.compute, 1 if alone else None, c.run.device)
    except ConfigError as error:
        raise origins.mistake(("studies", study, "compute"), str(error)) from None
