"""Many tasks side by side, in processes that may be killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.studies.cells import Outcome, Site, Task, make, start_worker

logger = logging.getLogger(__name__)
KILLED = "its process was killed each time that it was tried, perhaps for want of memory"
STOPPED = "Stopped. What is whole is kept; the same command goes on from there."
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def _pass_on(number: int) -> None:
    """Send a signal to the processes of the pool."""
    for process in multiprocessing.active_children():
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, number)


@dataclass
class Pool:
    """`processes` on this machine, which begin with the first task and end with the context. A single one
    is apart from this process, too: what kills it does not end the study."""

    site: Site
    processes: int
    retries: int = 2
    executor: Any = field(default=None, init=False)  # of loky

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes: what is in hand goes on from its checkpoint."""
        if self.executor is not None:
            self.executor.shutdown(wait=True, kill_workers=True)
            self.executor = None

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
        from joblib.externals.loky import FIRST_COMPLETED, wait
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        from g2d_pipeline.training.resume import stop_on_signals

        left, running, killed, saved = list(reversed(tasks)), dict[Any, Task](), False, []
        with warnings.catch_warnings(), stop_on_signals(_pass_on) as stop:
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
            while running or (left and not killed and stop.number is None):
                try:
                    while left and len(running) < self.processes and not killed and stop.number is None:
                        running[self._start().submit(make, self.site, until, left[-1])] = left[-1]
                        left.pop()  # no queue to be ended
                except TerminatedWorkerError:
                    killed = True
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    if isinstance(future.exception(), TerminatedWorkerError):
                        killed = True
                    elif (outcome := future.result()).status != "interrupted":
                        yield task, outcome
                    elif outcome.reason:
                        saved.append(outcome.reason)
        if killed:
            self.close()
        if stop.number is not None:
            raise InterruptedRun("\n".join(saved) or STOPPED, stop.number)

    def _start(self) -> Any:
        """The processes, started where they are not."""
        from joblib.externals.loky import ProcessPoolExecutor

        if self.executor is None:
            threads = self.site.threads
            self.executor = ProcessPoolExecutor(
                self.processes,
                initializer=start_worker,
                initargs=(os.getpid(), threads),
                env=dict.fromkeys(THREADS, str(threads)),
            )
        return self.executor
