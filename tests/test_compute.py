"""Independent tasks on loky, Dask and Ray: the same results, a lost worker, a signal, what can not be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from g2d_pipeline import compute
from g2d_pipeline.compute import Pool, number_of_workers
from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.engines import THREADS, VARIABLES, about, check_workers, gpu_of
from g2d_pipeline.errors import ConfigError, DataError, G2DError
from g2d_pipeline.signals import stop_on_signals

REPOSITORY = Path(__file__).resolve().parents[1]
BACKENDS = ("loky", "dask", "ray")
WORKERS = min(joblib.cpu_count(), 2)


@pytest.fixture(scope="module", params=BACKENDS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'src'}")
        with Pool(ComputeSettings(backend=request.param, retries=1), WORKERS) as pool:
            yield pool


# ---------------------------------------------------------------------------------------- tasks, in workers
def square(number: int) -> int:
    return number**2


def describe(_: Any) -> dict[str, Any]:
    import torch

    time.sleep(0.2)
    env = {name: os.environ.get(name) for name in THREADS}
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "env": env}


def kill(task: tuple[str, str]) -> str:
    """`once`: kills its process where the file is not there yet; `always`: each time."""
    what, file = task
    if what == "always" or (what == "once" and not Path(file).exists()):
        Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return what


def refuse(task: str) -> str:
    raise DataError(f"{task} is bad")


def until_stopped(folder: str) -> str:
    """As training: to the end of a batch, then saved."""
    with stop_on_signals() as stop:
        (Path(folder) / str(os.getpid())).touch()
        for _ in range(1200):
            if stop.number is not None:
                return "saved"
            time.sleep(0.05)
    return "not stopped"


# ---------------------------------------------------------------------------------------------------- tests
def test_tasks_are_taken_when_there_is_a_worker_and_each_is_done_once(pool):
    taken: list[int] = []
    ended = []
    for task, result in pool.run(square, (taken.append(i) or i for i in range(20))):  # type: ignore[func-returns-value]
        assert len(taken) <= len(ended) + pool.workers + 1
        ended.append((task, result))
    assert sorted(ended) == [(i, i**2) for i in range(20)]


def test_processes_times_threads_are_no_more_than_the_cores(pool):
    results = [result for _, result in pool.run(describe, range(2 * pool.workers))]
    processes = {result["pid"]: result["threads"] for result in results if result}
    assert os.getpid() not in processes
    assert sum(processes.values()) <= joblib.cpu_count()
    names = THREADS if pool.settings.backend != "ray" else THREADS[:1]
    assert {result["env"][name] for result in results if result for name in names} == {"1"}


def test_the_task_of_a_lost_worker_is_done_by_another_one(pool, tmp_path, caplog):
    tasks = [("once", str(tmp_path / "killed")), *[("calm", str(i)) for i in range(4)]]
    assert sorted(pool.run(kill, tasks)) == sorted((task, task[0]) for task in tasks)
    assert caplog.text.count("A worker was lost") == 1


def test_a_task_that_kills_its_workers_takes_no_other_with_it(pool, tmp_path):
    tasks = [("always", str(tmp_path / "killed")), *[("calm", str(i)) for i in range(3)]]
    assert dict(pool.run(kill, tasks)) == {task: "calm" if task[0] == "calm" else None for task in tasks}


def test_an_error_is_raised_as_it_is(pool):
    with pytest.raises(DataError, match=r"^row 3 is bad$"):
        list(pool.run(refuse, ["row 3"]))


def test_a_signal_is_passed_on_and_what_is_in_hand_is_saved(pool, tmp_path):
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < pool.workers:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with stop_on_signals(pool.stop) as stop:
        ended = list(pool.run(until_stopped, [str(tmp_path)] * 5, lambda: stop.number is not None))
    assert [result for _, result in ended] == ["saved"] * pool.workers
    assert list(pool.run(square, [3])) == [(3, 9)]


PROCESS = """
import logging, os, signal, sys
from pathlib import Path
from tests.test_compute import *

logging.basicConfig(level=logging.INFO)  # as Kedro does; here and in processes that are spawned

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return [*handlers, sys.excepthook]

if __name__ == "__main__":
    folder, before, environment = sys.argv[2], state(), dict(os.environ)
    with Pool(ComputeSettings(backend=sys.argv[1]), 1) as pool:
        with stop_on_signals(pool.stop) as stop:  # as the stages: the engine is opened within
            noting = state()
            print(list(pool.run(square, [3])), state() == noting, flush=True)
            print(list(pool.run(until_stopped, [folder], lambda: stop.number is not None))[0][1], stop.number)
    environment |= {name: value for name, value in os.environ.items() if name not in VARIABLES}
    print(state() == before, os.environ == environment)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_leaves_the_handlers_and_the_environment_of_its_process(backend, tmp_path):
    (folder := tmp_path / "begun").mkdir()
    (tmp_path / "process.py").write_text(PROCESS)
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env |= {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"}
    command = [sys.executable, str(tmp_path / "process.py"), backend, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        while not list(folder.iterdir()) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.splitlines() == ["[(3, 9)] True", "saved 15", "True True"]


# ------------------------------------------------------------------------------------------ what can not be
def test_workers_follow_from_cores_and_devices():
    cores = joblib.cpu_count()
    one = ComputeSettings(cells_per_gpu=1)
    assert number_of_workers(one, "auto", 1) == cores
    assert number_of_workers(one, "auto", cores) == 1
    assert number_of_workers(one, "auto", 1, ["0"]) == 1
    assert number_of_workers(ComputeSettings(cells_per_gpu=2), "auto", 1, ["0"]) == min(2, cores)
    with pytest.raises(ConfigError, match=rf"compute.workers = 2 × {cores} threads .* say compute.workers=1"):
        number_of_workers(one, 2, cores)
    if cores > 1:
        with pytest.raises(ConfigError, match=r"compute.workers = 2 is more than 1 GPUs × compute.cells_per"):
            number_of_workers(one, 2, 1, ["0"])


def test_each_worker_has_one_device_and_each_device_as_many_workers():
    devices = [gpu_of(worker, ["3", "5"])["CUDA_VISIBLE_DEVICES"] for worker in range(4)]
    assert devices == ["3", "5", "3", "5"]
    assert gpu_of(1, []) == {}


def test_workers_that_do_not_fit_are_refused():
    here = about()
    check_workers({"a": here, "b": here | {"host": "other"}}, here["cores"])
    with pytest.raises(ConfigError, match=r"torch is [\d.+a-z]+ here and 1.0 on the worker tcp://b:1"):
        check_workers({"tcp://b:1": here | {"versions": here["versions"] | {"torch": "1.0"}}}, 1)
    with pytest.raises(ConfigError, match=rf"{here['host']}: .* exceed its {here['cores']} cores"):
        check_workers({"a": here, "b": here}, here["cores"])


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_a_mistake(backend, monkeypatch):
    monkeypatch.setattr(compute, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=rf"compute.backend = {backend}: .* pip install 'g2d-pipeline\[{backend}\]'"
    ):
        Pool(ComputeSettings(backend=backend))


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_scheduler_that_does_not_answer_is_given_up(backend):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(
            ConfigError, match=rf"compute.address = {address}: {backend} can not be used there"
        ):
            Pool(ComputeSettings(backend=backend, address=address, timeout=2))
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_without_room_for_their_files_engines_do_not_start(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    message = rf"compute.backend = {backend}: it can not start, .*gone.*No such file"
    with Pool(ComputeSettings(backend=backend), 1) as pool, pytest.raises(G2DError, match=message):
        list(pool.run(square, [1]))


@pytest.fixture
def cluster() -> Iterator[Callable[..., str]]:
    """Start a scheduler of Dask, and workers with these environments; its address."""
    processes = []

    def dask(*words: str, **environment: str) -> None:
        env = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"} | environment
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, env=env, **quiet))

    def start(*workers: dict[str, str], nthreads: int = 1) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = f"tcp://127.0.0.1:{port}"
        dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        for environment in workers:
            words = ("--nthreads", str(nthreads), "--no-nanny", "--no-dashboard", "--memory-limit", "0")
            dask("worker", address, *words, **environment)
        return address

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_running_cluster_is_used_and_one_whose_workers_are_gone_is_told(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ComputeSettings(backend="dask", address=cluster({}), timeout=20)
    with Pool(settings, threads=1) as pool:
        assert pool.workers == 1
        assert sorted(pool.run(square, range(4))) == [(i, i**2) for i in range(4)]
        pool.settings = settings.model_copy(update={"timeout": 3})
        with pytest.raises(G2DError, match=r"compute.backend = dask: no worker is left"):
            list(pool.run(kill, [("always", "killed")]))


def test_other_versions_on_a_worker_are_refused_with_both(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = tmp_path / "g2d_pipeline-0.0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: g2d-pipeline\nVersion: 0.0.1\n")
    path = f"{tmp_path}:{REPOSITORY}:{REPOSITORY / 'src'}"
    address = cluster({"PYTHONPATH": path})
    with pytest.raises(
        ConfigError, match=r"g2d-pipeline is [\d.]+ here and 0.0.1 on the worker tcp://127.0.0.1:"
    ):
        Pool(ComputeSettings(backend="dask", address=address, timeout=30))
    with pytest.raises(ConfigError, match=r"has 2 threads, .*--nthreads 1"):
        Pool(ComputeSettings(backend="dask", address=cluster({}, nthreads=2), timeout=30))
