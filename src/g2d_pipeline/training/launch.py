"""Start the processes of one training from inside an ordinary function, and bring back what the first made.

Torch elastic starts them, and ends all where one ends. The caller alone knows of pipeline and catalog."""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from g2d_pipeline.artefacts import CHECKPOINTS
from g2d_pipeline.config import RunOptions
from g2d_pipeline.errors import ConfigError, G2DError, InterruptedRun, TrainingError
from g2d_pipeline.models.multimodal import pick_device
from g2d_pipeline.training.checkpoint import Checkpoints
from g2d_pipeline.training.distributed import Group, LostProcess
from g2d_pipeline.training.nodes import Nodes

logger = logging.getLogger(__name__)

Function = Callable[..., dict[str, Any]]  # (options, *arguments) → tensors, numbers and lists by name
GRACE_SECONDS = 5.0
START_METHOD = "spawn"  # of processes: with any number of tensors among the arguments
NODES: list[Nodes] = []  # of the first machine: what brings the others in
# Loggers that would repeat our messages with tracebacks.
QUIET = ("torch.distributed", "torch.distributed.elastic", "torch.multiprocessing")


def devices_of(options: RunOptions) -> int:
    """How many processes train together on this machine. Raises ConfigError for more than it has."""
    import joblib

    requested, device = options.compute.devices, pick_device(options.device)
    if device.type == "cuda":
        count, unit = torch.cuda.device_count(), "CUDA devices"
    else:
        count, unit = joblib.cpu_count() if device.type == "cpu" else 1, f"{device.type.upper()} cores"
    number = requested if requested != "auto" else count if device.type == "cuda" else 1
    if number > count:
        raise ConfigError(
            f"compute.devices = {number}: there are {count} {unit} here (each process has one, and no two "
            f"share one). Allowed: 1 to {count}, or auto"
        )
    if number > 1 and device.index is not None:
        raise ConfigError(
            f"compute.devices = {number}: device = {options.device} names one of them. Say device=cuda"
        )
    return number


def world_of(options: RunOptions) -> int:
    """How many processes train together, on all machines; 1 inside of them."""
    inside = dist.is_available() and dist.is_initialized()
    return 1 if inside else devices_of(options) * options.compute.num_nodes


def launch(
    function: Function,
    *arguments: Any,
    options: RunOptions,
    description: str,
    packed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Call `function(options, *arguments)` in `compute.devices` processes that form torch's process group;
    what it returns in the first of them. `options` there: with a device of the process's own, and quiet but
    in the first one. Function and arguments reach the processes of this machine by torch's own pickling;
    other machines make them of `packed` (`nodes.Nodes.call`, `fitting.take_part`).

    Where a process is lost, all are started again, up to `compute.max_restarts` times. Raises what one of
    them raised: G2DErrors as they are, others as TrainingError, OSError as such, each with its process."""
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    compute, folder = options.compute, Path(tempfile.mkdtemp(prefix="processes-", dir=options.folder))
    try:
        for attempt in range(compute.max_restarts + 1):
            endpoint, run = "", f"{description} {attempt}"
            if compute.num_nodes > 1:
                if not NODES:
                    raise ConfigError(
                        f"compute.num_nodes = {compute.num_nodes}: `kedro run` brings machines together; a "
                        "program of your own appends training.nodes.Nodes(compute) to training.launch.NODES"
                    )
                endpoint = f"{NODES[0].host}:{NODES[0].free_port()}"
                NODES[0].call(packed, options.model_dump(mode="json"), str(folder), run, endpoint)
            lost = start(function, arguments, options, folder, run, endpoint, 0)
            if (result := Checkpoints(folder / "result").newest()) is not None:
                return result
            _raise_recorded(folder)
            lost = lost or "the processes ended without a result"
            logger.warning("%s: %s; all are started again from the newest checkpoint", description, lost)
        restarts = f"{compute.max_restarts} restarts (compute.max_restarts)"
        raise TrainingError(f"{description}: {lost}, after {restarts}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(
    function: Function,
    arguments: Any,
    options: RunOptions,
    folder: Path,
    run: str,
    endpoint: str,
    machine: int,
) -> str:
    """Start this machine's processes, wait for them; in words, who was lost. `endpoint`: where machines meet;
    "": there is one."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    compute, number = options.compute, devices_of(options)
    rendezvous: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    rendezvous |= {"rdzv_configs": {"timeout": compute.timeout, "is_host": True}, "local_addr": "localhost"}
    if endpoint:
        rendezvous = {"rdzv_backend": "static", "rdzv_endpoint": endpoint}
        rendezvous |= {"rdzv_configs": {"timeout": compute.timeout, "rank": machine}}
    config = LaunchConfig(
        min_nodes=compute.num_nodes,
        max_nodes=compute.num_nodes,
        nproc_per_node=number,
        start_method=START_METHOD,
        run_id=run,
        max_restarts=0,  # ours: only a lost process is a reason to try again
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / f"elastic-{machine}")),
        **rendezvous,
    )
    level = logging.getLogger("g2d_pipeline").getEffectiveLevel()
    late = f"processes did not answer for {compute.timeout:g} s (compute.timeout)"
    try:
        with _contained():
            elastic_launch(config, _worker)(function, arguments, options, folder, level, os.getpid())
    except ChildFailedError as failed:
        died = {rank: signal.Signals(-f.exitcode) for rank, f in failed.failures.items() if f.exitcode < 0}
        return ", ".join(f"process {rank} was ended by {sig.name}" for rank, sig in died.items()) or late
    except SignalException as stopped:  # the processes have been told, and have saved, or were at their end
        _raise_recorded(folder)
        sig = signal.Signals(stopped.sigval)
        saved = options.folder is not None and any((options.folder / CHECKPOINTS).glob("epoch-*"))
        outcome = "saved; the same command goes on from there" if saved else "before anything was saved"
        raise InterruptedRun(f"{run}: stopped by {sig.name}, {outcome}.", sig) from None
    except (dist.DistError, TimeoutError) as error:
        return f"{late}: {error}"
    return ""


@contextmanager
def _contained() -> Iterator[None]:
    """Silence torch elastic's loggers (errors are reported once, by us), restore the signal handlers that it
    replaces."""
    log_level = os.environ.get("TORCH_CPP_LOG_LEVEL")
    levels = {name: logging.getLogger(name).level for name in QUIET}
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers if in_main_thread}
    os.environ["TORCH_CPP_LOG_LEVEL"] = log_level or "FATAL"
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if log_level is None:
            del os.environ["TORCH_CPP_LOG_LEVEL"]


# -------------------------------------------------------------------------------------------- in each process
def _worker(
    function: Function, arguments: tuple[Any, ...], options: RunOptions, folder: Path, level: int, parent: int
) -> None:
    """Main function of each process, which exits with its parent."""

    def exit_with_parent() -> None:
        started_by = parent_process()
        if started_by is not None and started_by.pid == parent:
            connection.wait([started_by.sentinel])
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on
    if options.folder is not None:  # what asks to stop is noted where something is saved, see `resume`
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    where = f"process {rank} of {os.environ['WORLD_SIZE']}"
    form = "%(asctime)s %(levelname)-7s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, datefmt="%H:%M:%S", stream=sys.stdout)
    logging.getLogger("g2d_pipeline").setLevel(level if rank == 0 else logging.CRITICAL)
    try:
        options = _join(options, local)
        result = function(options, *arguments)
        if Group().is_first:
            Checkpoints(folder / "result", keep=1).save(result, 0, 0)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException as error:
        _record_error(error, rank, where, folder)
        sys.stdout.flush()
        if isinstance(error, LostProcess):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(GRACE_SECONDS)  # whoever is lost is found first
        os._exit(1)  # without waiting for the others: they are ended


def _join(options: RunOptions, local: int) -> RunOptions:
    """Join torch's process group, with a device and a share of the threads."""
    import joblib

    device = pick_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(local)
        device = torch.device("cuda", local)
    threads = min(joblib.cpu_count() // devices_of(options), torch.get_num_threads())
    torch.set_num_threads(max(threads, 1))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=options.compute.timeout))
    changes = {} if Group().is_first else {"progress": False, "log": []}
    return options.updated(device=str(device), **changes)


# ---------------------------------------------------------------------------------------------------- errors
def _record_error(error: BaseException, rank: int, where: str, folder: Path) -> None:
    """Write the error that ended a process to a file."""
    kind = type(error).__name__
    is_ours = isinstance(error, G2DError)
    location = ", ".join([where, *getattr(error, "__notes__", [])])
    text = str(error) if is_ours else f"{location}: {kind}: {error}"
    number = error.exit_status - 128 if isinstance(error, InterruptedRun) else None
    fault = {"kind": kind, "text": text, "lost": isinstance(error, LostProcess), "number": number}
    fault |= {"time": time.time(), "rank": rank, "os": error.errno if isinstance(error, OSError) else None}
    temporary = folder / f"{rank}.tmp"
    temporary.write_text(json.dumps(fault), encoding="utf-8")
    temporary.replace(folder / f"error-{rank}.json")


def _raise_recorded(folder: Path) -> None:
    """Raise the first recorded error that is no consequence of another; delete all records."""
    faults = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("error-*.json"))]
    for file in folder.glob("error-*.json"):
        file.unlink()
    causes = sorted((f for f in faults if not f["lost"]), key=lambda f: (f["time"], f["rank"]))
    if not causes:
        return
    fault, kinds = causes[0], {cls.__name__: cls for cls in _subclasses(G2DError)}
    if fault["number"] is not None:
        raise InterruptedRun(fault["text"], fault["number"])
    if fault["os"] is not None:
        raise OSError(fault["os"], fault["text"])
    raise kinds.get(fault["kind"], TrainingError)(fault["text"])


def _subclasses(cls: type[G2DError]) -> Iterator[type[G2DError]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
