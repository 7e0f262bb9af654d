"""Many tasks side by side, in processes that may be killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.studies.cells import Outcome, Site, Task, make

logger = logging.getLogger(__name__)
KILLED = "its process was killed each time that it was tried, perhaps for want of memory"
STOPPED = "Stopped. What is whole is kept; the same command goes on from there."


def _pass_on(number: int) -> None:
    """Send a signal to the processes of joblib's pool."""
    for process in multiprocessing.active_children():
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, number)


@dataclass
class Pool:
    """`processes` on this machine, which end with its context; 1: this one. `retries`: see `Processes`."""

    site: Site
    processes: int
    retries: int = 2
    started: bool = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes: what is in hand goes on from its checkpoint."""
        if self.started:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor(reuse=True, kill_workers=True).shutdown(wait=True, kill_workers=True)
            self.started = False

    def run(
        self, tasks: Sequence[Task], done: Callable[[Task, Outcome], None], until: float | None = None
    ) -> None:
        """Call `done` with each task when it has ended, and what became of it; none needs another one.

        Of a killed process the tasks in hand are lost, and handed out again; at the last attempt each task is
        alone with the processes, so that one that kills them all takes no other with it. `until`: the time
        (of `time.time`) at which what is not done is saved and given up."""
        rest = list(tasks)
        for attempt in range(self.retries + 1):
            if attempt:
                logger.warning("A process was killed: %d trainings are handed out again", len(rest))
            for group in [[task] for task in rest] if attempt == self.retries > 0 else [list(rest)]:
                for task, outcome in self._attempt(group, until):
                    rest.remove(task)
                    done(task, outcome)
            if not rest or (until is not None and time.time() >= until):
                break
        late = until is not None and time.time() >= until
        for task in rest:
            done(task, Outcome("interrupted") if late else Outcome("failed", KILLED))

    def _attempt(self, tasks: Sequence[Task], until: float | None) -> Iterator[tuple[Task, Outcome]]:
        """(task, outcome) as they end; fewer than all where a process was killed. Ctrl-C and SIGTERM go to
        the processes, which save what they have in hand, before InterruptedRun is raised."""
        if not tasks:
            return
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from g2d_pipeline.training.resume import Stop, stop_on_signals

        self.started = self.processes > 1
        try:
            with parallel_config(backend="loky", n_jobs=self.processes, **self._threads):
                pool = Parallel(return_as="generator_unordered", batch_size=1, max_nbytes=None)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
                    about = self.site, os.getpid(), until
                    jobs = (delayed(make)(*about, *pair) for pair in enumerate(tasks))
                    saved = []
                    with stop_on_signals(_pass_on) if self.started else nullcontext(Stop()) as stop:
                        for number, outcome in pool(jobs):
                            if outcome.status != "interrupted":
                                yield tasks[number], outcome
                            elif outcome.reason:
                                saved.append(outcome.reason)
        except TerminatedWorkerError:
            self.close()
        if stop.number is not None:
            raise InterruptedRun("\n".join(saved) or STOPPED, stop.number)

    @property
    def _threads(self) -> Mapping[str, int]:
        return {"inner_max_num_threads": self.site.threads} if self.processes > 1 else {}
