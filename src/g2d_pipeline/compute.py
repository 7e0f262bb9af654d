"""A pool of workers for independent tasks, on one of several engines; tasks of lost workers run again."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from importlib.util import find_spec
from tempfile import gettempdir
from typing import Any, Self, TypeVar
from uuid import uuid4

from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.engines import ENGINES, remember_process
from g2d_pipeline.errors import ConfigError, G2DError
from g2d_pipeline.signals import keep_handlers

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
MODULES = {"loky": "joblib", "dask": "distributed", "ray": "ray"}  # backend → what it needs


class Pool:
    """Workers of `threads` threads of torch each, which begin with the first task and end with the context,
    each in another process than this one, which outlives them.

    `workers`: how many (None: what `settings` says; auto: as many as cores or devices allow, or as the
    cluster has). `on_gpus`: they share the CUDA devices, `cells_per_gpu` of them one. `set_up`: called once
    in each worker, before its first task.

    Raises ConfigError where the engine is not installed, workers and threads exceed the cores or devices, the
    scheduler at `address` does not answer within `timeout`, or its workers can not be used."""

    def __init__(
        self,
        settings: ComputeSettings,
        workers: int | None = None,
        threads: int = 1,
        on_gpus: bool = False,
        set_up: Callable[[], object] = dict,
    ) -> None:
        self.settings, self.threads, self.on_gpus, self.set_up = settings, threads, on_gpus, set_up
        self.engine: Any = None
        if find_spec(MODULES[settings.backend]) is None:
            extra = f"it needs the extra: pip install 'g2d-pipeline[{settings.backend}]'"
            raise ConfigError(f"compute.backend = {settings.backend}: {extra}")
        wanted, self.workers = settings.workers if workers is None else workers, 0
        self.gpus = visible_gpus() if on_gpus and settings.address is None else []
        if settings.address is None:
            self.workers = number_of_workers(settings, wanted, threads, self.gpus)
        else:
            slots = self.start().slots
            self.workers = slots if wanted == "auto" else min(wanted, slots)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Any:
        """The engine, started where it is not yet. Raises ConfigError or G2DError where that fails."""
        if self.engine is not None:
            return self.engine
        s, self.restore = self.settings, remember_process()
        engine = ENGINES[s.backend](self)
        try:
            with keep_handlers():
                if s.address is None:
                    engine.open()
                else:
                    _within(s.timeout + 1, engine.open)
        except BaseException as error:
            engine.close()
            self.restore()
            if isinstance(error, G2DError) or not isinstance(error, Exception):
                raise
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            if s.address is None:
                fault = f"it can not start, with files in {gettempdir()}: {reason}"
                raise G2DError(f"compute.backend = {s.backend}: {fault}") from error
            fault = f"{s.backend} can not be used there (compute.timeout = {s.timeout:g} s): {reason}"
            raise ConfigError(f"compute.address = {s.address}: {fault}") from error
        self.engine = engine
        return engine

    def close(self) -> None:
        """End the workers: what trainings have in hand goes on from their checkpoints."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
            self.restore()

    def stop(self, number: int) -> None:
        """Pass a signal on to the tasks in hand; to be called in its handler."""
        if self.engine is not None:  # in a thread: the handler may have interrupted a call of the engine
            threading.Thread(target=self.engine.stop, args=(number,), daemon=True).start()

    def run(
        self, function: Callable[[T], R], tasks: Iterable[T], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[T, R | None]]:
        """(task, `function(task)`) in any order; None: its worker was lost each time that it was tried.

        Tasks are taken when there is a worker for them, and none once `stopped()`. One whose worker was lost
        is tried `retries` times again; the last time it has the engine for itself, so that a task that kills
        its workers (for want of memory) takes no other with it. Function and tasks are pickled. Raises what
        `function` raises."""
        engine, retries, running = self.start(), self.settings.retries, dict[Future[R], tuple[T, int]]()
        todo, again, last = ((task, 0) for task in tasks), list[tuple[T, int]](), list[tuple[T, int]]()
        engine.run = uuid4().hex
        while True:
            while len(running) < self.workers and not stopped():
                entry = again.pop() if again else next(todo, None)
                if entry is None and (running or not last):
                    break
                entry = entry or last.pop()
                running[engine.submit(engine.run, self.threads, self.set_up, function, entry[0])] = entry
            if not running:
                return
            done = wait(running, self.settings.timeout, FIRST_COMPLETED).done
            if not done:
                engine.check()
            for future in done:
                task, tried = running.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if error is None:
                    yield task, future.result()
                elif not isinstance(error, (CancelledError, *engine.lost)):
                    raise getattr(error, "cause", None) or error  # Ray wraps it
                elif stopped():
                    continue
                elif tried == retries:
                    yield task, None
                else:
                    tried += 1
                    logger.warning("A worker was lost; its task is handed out again (%d/%d)", tried, retries)
                    (last if tried == retries else again).append((task, tried))


def number_of_workers(
    settings: ComputeSettings, wanted: int | str, threads: int, gpus: Sequence[str] = ()
) -> int:
    """How many workers this machine has room for. Raises ConfigError where more are wanted."""
    import joblib

    cores = joblib.cpu_count()
    most, why = cores // threads, f"× {threads} threads are more than the {cores} cores"
    if gpus and (shared := len(gpus) * settings.cells_per_gpu) < most:
        why = f"is more than {len(gpus)} GPUs × compute.cells_per_gpu = {settings.cells_per_gpu}"
        most = shared
    number = max(most, 1) if wanted == "auto" else int(wanted)
    if number > most:
        raise ConfigError(f"compute.workers = {number} {why}: say compute.workers={max(most, 1)}, or auto")
    return number


def visible_gpus() -> list[str]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [named[i] if named != [""] else str(i) for i in range(torch.cuda.device_count())]


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Call in a thread: Dask and Ray wait forever for a silent port. Raises its errors, or TimeoutError."""
    result: Future[object] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    result.result(seconds)
