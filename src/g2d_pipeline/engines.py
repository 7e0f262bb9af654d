"""The engines of `compute.Pool`: processes of this machine (loky), Dask, and Ray.

All three hand out futures of `concurrent.futures`, so that one loop serves them. Not through
`joblib.Parallel`: it ends with the first worker that is lost, and passes no signal on. An engine has `slots`
for tasks at once, `lost`, the errors that tell of a lost worker, and `run`, the name that `stop` is about."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any

from g2d_pipeline.errors import ConfigError, G2DError
from g2d_pipeline.signals import ask_to_stop, begin_task

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DASK: dict[str, Any] = {  # a lost worker is told at once; no pages are served; workers start in silence
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
OBJECTS = 80_000_000  # bytes of Ray's store of objects, near the least that it takes: ours are small


class Loky:
    """A process a slot, so that a lost one takes no other with it, and each has its own environment."""

    def open(self, pool: Any) -> None:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        self.pool, self.lost = pool, (TerminatedWorkerError,)
        self.executors: list[Any] = [None] * pool.workers
        self.futures: list[Future[Any] | None] = [None] * pool.workers

    def submit(self, *arguments: Any) -> Future[Any]:
        slot = next(i for i, future in enumerate(self.futures) if future is None or future.done())
        future: Future[Any]
        try:
            executor = self.executors[slot] or self._start(slot)
            future = executor.submit(work, *arguments)
        except self.lost:
            future = self._start(slot).submit(work, *arguments)
        self.futures[slot] = future
        return future

    def _start(self, slot: int) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        if (broken := self.executors[slot]) is not None:
            broken.shutdown(wait=True, kill_workers=True)
        env = dict.fromkeys(THREADS, str(self.pool.threads)) | gpu_of(slot, self.pool.gpus)
        self.executors[slot] = ProcessPoolExecutor(1, initializer=_follow, initargs=(os.getpid(),), env=env)
        return self.executors[slot]

    def stop(self, number: int) -> None:
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    def check(self) -> None:
        """The processes are ours: a dead one is told at once."""

    def close(self) -> None:
        for executor in filter(None, self.executors):
            executor.shutdown(wait=True, kill_workers=True)


class Dask:
    """A worker of Dask is a process with one thread, which is not its main one: no signal reaches a task."""

    client: Any = None
    run = ""
    cluster: Any = None
    folder = ""

    def open(self, pool: Any) -> None:
        import dask
        from distributed import Client, LocalCluster
        from distributed.scheduler import KilledWorker, NoWorkerError

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self.pool, self.lost, s, address = (
            pool,
            (KilledWorker, NoWorkerError),
            pool.settings,
            pool.settings.address,
        )
        if address is None:
            self.folder = tempfile.mkdtemp(prefix="g2d-dask-")
            with dask.config.set(DASK | {"temporary-directory": self.folder}):
                self.cluster = LocalCluster(
                    n_workers=pool.workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    memory_limit=0,
                    env=dict.fromkeys(THREADS, str(pool.threads)),
                )
            address = self.cluster.scheduler_address
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, which are checked below
            self.client = Client(address, timeout=s.timeout, set_as_default=False)
        if self.cluster is not None:
            self.client.register_plugin(_own_worker())
        self.client.wait_for_workers(1, timeout=s.timeout)
        nthreads = self.client.nthreads()
        if many := [name for name, number in nthreads.items() if number > 1]:
            words = f"the worker {many[0]} has {nthreads[many[0]]} threads, which would share a process"
            raise ConfigError(f"compute.address = {s.address}: {words}: start it with --nthreads 1")
        self.slots = len(nthreads)
        check_workers(self.client.run(about), pool.threads)

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
        if self.client is not None:
            self.client.run(ask_to_stop, number, self.run)

    def check(self) -> None:
        lost = "the scheduler is gone" if self.client.status != "running" else "no worker is left"
        if self.client.status != "running" or not self.client.nthreads():
            raise G2DError(
                f"compute.backend = dask: {lost} (compute.timeout = {self.pool.settings.timeout:g} s)"
            )

    def close(self) -> None:
        for one in filter(None, (self.client, self.cluster)):
            one.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _own_worker() -> Any:
    from distributed import WorkerPlugin

    class OwnWorker(WorkerPlugin):
        """Ctrl-C in a terminal reaches all of its processes; what this one logs is not for the terminal."""

        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            logging.disable(logging.CRITICAL)

    return OwnWorker()


def _work_on_dask(gpus: Sequence[str], *arguments: Any) -> Any:
    from distributed import get_worker

    os.environ |= gpu_of(int(get_worker().name), gpus) if gpus else {}
    return work(*arguments)


class Ray:
    """A task of Ray is in the main thread of a process; Ray itself gives it its device."""

    ray: Any = None
    folder = ""

    def __init__(self) -> None:
        self.tasks: dict[Future[Any], Any] = {}

    def open(self, pool: Any) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, TaskCancelledError, WorkerCrashedError

        self.ray, self.pool, s = ray, pool, pool.settings
        self.lost = (NodeDiedError, OutOfMemoryError, TaskCancelledError, WorkerCrashedError)
        start: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if s.address is None:
            self.folder = tempfile.mkdtemp(prefix="g2d-ray-")
            start |= {"address": "local", "include_dashboard": False, "_temp_dir": self.folder}
            start |= {"num_cpus": pool.workers * pool.threads, "num_gpus": len(pool.gpus)}
            start |= {"object_store_memory": OBJECTS, "_node_ip_address": "127.0.0.1"}
            ray.init(**start)
        else:
            ray.init(s.address, **start)
        self.slots = pool.workers if s.address is None else self._check_nodes()
        gpu = 1 / s.cells_per_gpu if pool.on_gpus and ray.cluster_resources().get("GPU") else 0
        self.work = ray.remote(work).options(max_retries=0, num_cpus=pool.threads, num_gpus=gpu)

    def _check_nodes(self) -> int:
        """How many tasks fit the cluster. Raises ConfigError where its nodes can not be used."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        s, threads = self.pool.settings, self.pool.threads
        nodes = {n["NodeID"]: n for n in self.ray.nodes() if n["Alive"] and n["Resources"].get("CPU")}
        ask = self.ray.remote(about)
        asked = [ask.options(num_cpus=0, scheduling_strategy=On(node, soft=False)).remote() for node in nodes]
        answers = self.ray.get(asked, timeout=s.timeout)
        names = [node["NodeManagerAddress"] for node in nodes.values()]
        check_workers(dict(zip(names, answers, strict=True)), threads)
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

    def close(self) -> None:
        if self.ray is not None:
            self.ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def remember_process() -> Callable[[], None]:
    """What puts back, when it is called, the environment variables and levels of loggers that engines change
    in this process: later trainings inherit them."""
    environment = {name: os.environ.get(name) for name in VARIABLES}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}

    def put_back() -> None:
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

    return put_back


ENGINES = {"loky": Loky, "dask": Dask, "ray": Ray}


def work(
    run: str, threads: int, set_up: Callable[[], object], function: Callable[[Any], Any], task: Any
) -> Any:
    """A task, in a worker, which says no word."""
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
    """What a worker has to have in common with this process, and where it is."""
    versions = {name: version(name) for name in ("g2d-pipeline", "torch")}
    return {"host": socket.gethostname(), "cores": os.cpu_count() or 1} | {
        "versions": {"Python": platform.python_version(), **versions}
    }


def check_workers(workers: Mapping[str, Mapping[str, Any]], threads: int) -> None:
    """`workers`: name → what `about` says there. Raises ConfigError where versions differ from those here,
    and where the workers of a host have more threads than it has cores."""
    here, hosts = about()["versions"], dict[str, int]()
    for name, other in workers.items():
        for library, expected in here.items():
            if (theirs := other["versions"].get(library)) != expected:
                words = f"{library} is {expected} here and {theirs} on the worker {name}"
                raise ConfigError(f"compute.address: {words}: install the same versions on both")
        host, cores = other["host"], other["cores"]
        hosts[host] = hosts.get(host, 0) + threads
        if hosts[host] > cores:
            words = f"{hosts[host] // threads} or more workers × {threads} threads exceed its {cores} cores"
            raise ConfigError(f"compute.address: {host}: {words}: start fewer workers there")
