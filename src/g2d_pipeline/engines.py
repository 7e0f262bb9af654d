"""The engines of `compute.Pool`: processes of this machine (loky), Dask, and Ray.

All three hand out futures of `concurrent.futures`, so that one loop serves them. Not through
`joblib.Parallel`: it ends with the first worker that is lost, and passes no signal on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import version
from typing import Any

from g2d_pipeline.errors import ConfigError, G2DError
from g2d_pipeline.signals import ask_to_stop, begin_task

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DASK: dict[str, Any] = {  # report a lost worker at once; serve no pages; start workers silently
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
LOGGERS = ("distributed", "ray", "tornado")
# What Dask and Ray set in this process for their workers.
VARIABLES = (
    *THREADS,
    "DASK_LOGGING__DISTRIBUTED",
    "MALLOC_TRIM_THRESHOLD_",
    "PYTHONBREAKPOINT",
    "PYTHONHASHSEED",
    "RAY_USAGE_STATS_ENABLED",
)
OBJECTS = 80_000_000  # bytes of Ray's object store, near its minimum: our objects are small


class Engine:
    """`slots`: tasks at once; `lost`: the errors of a lost worker; `run`: the name of the tasks that `stop`
    is about; `cleanup`: what `close` does."""

    lost: tuple[type[Exception], ...]
    run = ""

    def __init__(self, pool: Any) -> None:
        self.pool, self.slots, self.cleanup = pool, pool.workers, ExitStack()

    def check(self) -> None:
        """Raise G2DError where there is no worker any more; loky's dead processes fail their tasks."""

    def close(self) -> None:
        self.cleanup.close()

    def _folder(self, prefix: str) -> str:
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        return self.cleanup.enter_context(folder)


class Loky(Engine):
    """A process a slot, so that a lost one takes no other with it, and each has its own environment."""

    def open(self) -> None:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        self.lost = (TerminatedWorkerError,)
        self.executors: list[Any] = [None] * self.slots
        self.futures: list[Future[Any] | None] = [None] * self.slots

    def submit(self, *arguments: Any) -> Future[Any]:
        slot = next(i for i, future in enumerate(self.futures) if future is None or future.done())
        future: Future[Any]
        try:
            future = (self.executors[slot] or self._start(slot)).submit(work, *arguments)
        except self.lost:
            self.executors[slot].shutdown(wait=True, kill_workers=True)
            future = self._start(slot).submit(work, *arguments)
        self.futures[slot] = future
        return future

    def _start(self, slot: int) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        env = dict.fromkeys(THREADS, str(self.pool.threads)) | gpu_of(slot, self.pool.gpus)
        executor = ProcessPoolExecutor(1, initializer=_follow, initargs=(os.getpid(),), env=env)
        self.cleanup.callback(executor.shutdown, wait=True, kill_workers=True)
        self.executors[slot] = executor
        return executor

    def stop(self, number: int) -> None:
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)


class Dask(Engine):
    """A worker of Dask is a process with one thread, which is not its main one: no signal reaches a task."""

    def open(self) -> None:
        import dask
        from distributed import Client, LocalCluster
        from distributed.scheduler import KilledWorker, NoWorkerError

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self.lost, s = (KilledWorker, NoWorkerError), self.pool.settings
        address = s.address
        if address is None:
            env = dict.fromkeys(THREADS, str(self.pool.threads))
            quiet = {"dashboard_address": None, "memory_limit": 0}
            with dask.config.set(DASK | {"temporary-directory": self._folder("g2d-dask-")}):
                cluster = LocalCluster(n_workers=self.slots, threads_per_worker=1, env=env, **quiet)
            self.cleanup.callback(cluster.close)
            address = cluster.scheduler_address
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, which are checked below
            self.client = Client(address, timeout=s.timeout, set_as_default=False)
        self.cleanup.callback(self.client.close)
        if s.address is None:
            self.client.register_plugin(_local_worker())
        self.client.wait_for_workers(1, timeout=s.timeout)
        threads: dict[str, int] = self.client.nthreads()
        if name := next((name for name, number in threads.items() if number > 1), None):
            fault = f"the worker {name} has {threads[name]} threads, which would share a process"
            raise ConfigError(f"compute.address = {s.address}: {fault}: start it with --nthreads 1")
        self.slots = len(threads)
        check_workers(self.client.run(about), self.pool.threads)

    def submit(self, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()  # that of Client.get_executor() never ends where a result is lost

        def end(ended: Any) -> None:
            try:
                future.set_result(ended.result())
            except BaseException as error:
                future.set_exception(error)

        task = self.client.submit(_work_on_dask, self.pool.gpus, *arguments, pure=False)
        task.add_done_callback(end)
        return future

    def stop(self, number: int) -> None:
        self.client.run(ask_to_stop, number, self.run)

    def check(self) -> None:
        running = self.client.status == "running"
        if not running or not self.client.nthreads():
            fault = "no worker is left" if running else "the scheduler is gone"
            timeout = f"compute.timeout = {self.pool.settings.timeout:g} s"
            raise G2DError(f"compute.backend = dask: {fault} ({timeout})")


def _local_worker() -> Any:
    from distributed import WorkerPlugin

    class LocalWorker(WorkerPlugin):
        """Ctrl-C in a terminal reaches all of its processes; what this one logs is not for the terminal."""

        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            logging.disable(logging.CRITICAL)

    return LocalWorker()


def _work_on_dask(gpus: Sequence[str], *arguments: Any) -> Any:
    from distributed import get_worker

    os.environ |= gpu_of(int(get_worker().name), gpus) if gpus else {}
    return work(*arguments)


class Ray(Engine):
    """A task of Ray is in the main thread of a process; Ray itself gives it its device."""

    def open(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, TaskCancelledError, WorkerCrashedError

        self.ray, pool, s = ray, self.pool, self.pool.settings
        self.tasks: dict[Future[Any], Any] = {}
        self.lost = (NodeDiedError, OutOfMemoryError, TaskCancelledError, WorkerCrashedError)
        start: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if s.address is None:
            start |= {"include_dashboard": False, "_temp_dir": self._folder("g2d-ray-")}
            start |= {"num_cpus": pool.workers * pool.threads, "num_gpus": len(pool.gpus)}
            start |= {"object_store_memory": OBJECTS, "_node_ip_address": "127.0.0.1"}
        self.cleanup.callback(ray.shutdown)
        ray.init(s.address or "local", **start)
        if s.address is not None:
            self.slots = self._check_nodes()
        gpu = 1 / s.cells_per_gpu if pool.on_gpus and ray.cluster_resources().get("GPU") else 0
        self.work = ray.remote(work).options(max_retries=0, num_cpus=pool.threads, num_gpus=gpu)

    def _check_nodes(self) -> int:
        """How many tasks fit the cluster. Raises ConfigError where its nodes can not be used."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        s, threads = self.pool.settings, self.pool.threads
        nodes = {n["NodeID"]: n for n in self.ray.nodes() if n["Alive"] and n["Resources"].get("CPU")}
        ask = self.ray.remote(about)
        asked = [ask.options(num_cpus=0, scheduling_strategy=On(node, soft=False)).remote() for node in nodes]
        names = [node["NodeManagerAddress"] for node in nodes.values()]
        check_workers(dict(zip(names, self.ray.get(asked, timeout=s.timeout), strict=True)), threads)
        slots = sum(int(node["Resources"]["CPU"] // threads) for node in nodes.values())
        if self.pool.on_gpus and (gpus := self.ray.cluster_resources().get("GPU")):
            slots = min(slots, int(gpus * s.cells_per_gpu))
        if not slots:
            raise ConfigError(f"compute.address = {s.address}: no node has {threads} CPUs")
        return slots

    def submit(self, *arguments: Any) -> Future[Any]:
        reference = self.work.remote(*arguments)
        future: Future[Any] = reference.future()
        self.tasks = {f: one for f, one in self.tasks.items() if not f.done()} | {future: reference}
        return future

    def stop(self, number: int) -> None:
        for reference in list(self.tasks.values()):  # as Ctrl-C, in its main thread
            self.ray.cancel(reference, force=False)

    def check(self) -> None:
        if not any(node["Alive"] for node in self.ray.nodes()):
            raise G2DError("compute.backend = ray: no node is left")


ENGINES: dict[str, Any] = {"loky": Loky, "dask": Dask, "ray": Ray}


def remember_process() -> Callable[[], None]:
    """A function that restores the environment variables and levels of loggers that engines change in this
    process: later trainings inherit them."""
    environment = {name: value for name in VARIABLES if (value := os.environ.get(name)) is not None}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}

    def restore() -> None:
        for name in VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(environment)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

    return restore


def work(
    run: str, threads: int, set_up: Callable[[], object], function: Callable[[Any], Any], task: Any
) -> Any:
    """Run a task in a worker, without log lines."""
    import torch

    begin_task(run)
    torch.set_num_threads(threads)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        _once(set_up)
        return function(task)
    finally:
        logging.disable(before)


@cache
def _once(set_up: Callable[[], object]) -> None:
    set_up()


def _follow(parent: int) -> None:
    """Make this process end with `parent`, and note signals where nothing else does."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ask_to_stop(number, ""))
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def gpu_of(worker: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment variable that gives a worker its one device; nothing where there are none."""
    return {"CUDA_VISIBLE_DEVICES": gpus[worker % len(gpus)]} if gpus else {}


def about() -> dict[str, Any]:
    """The host, cores and versions of a worker."""
    versions = {"Python": platform.python_version()}
    versions |= {name: version(name) for name in ("g2d-pipeline", "torch")}
    return {"host": socket.gethostname(), "cores": os.cpu_count() or 1, "versions": versions}


def check_workers(workers: Mapping[str, Mapping[str, Any]], threads: int) -> None:
    """`workers`: name → its `about`. Raises ConfigError where versions differ from those here, and where the
    workers of a host have more threads than it has cores."""
    expected, used = about()["versions"], dict[str, int]()
    for name, worker in workers.items():
        for library, here in expected.items():
            if (theirs := worker["versions"].get(library)) != here:
                fault = f"{library} is {here} here and {theirs} on the worker {name}"
                raise ConfigError(f"compute.address: {fault}: install the same versions on both")
        host, cores = worker["host"], worker["cores"]
        used[host] = used.get(host, 0) + threads
        if used[host] > cores:
            fault = f"{used[host] // threads} or more workers × {threads} threads exceed its {cores} cores"
            raise ConfigError(f"compute.address: {host}: {fault}: start fewer workers there")
