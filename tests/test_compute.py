"""Independent tasks on loky, Dask and Ray: the same results, a lost worker, a signal, what can not be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

from g2d_pipeline.compute import Pool
from g2d_pipeline.config import ComputeSettings
from g2d_pipeline.engines import THREADS
from g2d_pipeline.errors import DataError
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


# ------------------------------------------------------------------------------------------------------ tests
def test_tasks_are_taken_when_there_is_a_worker_and_each_is_done_once(pool):
    taken: list[int] = []
    ended = []
    for task, result in pool.run(square, (taken.append(i) or i for i in range(20))):  # type: ignore[func-returns-value]
        assert len(taken) <= len(ended) + pool.workers + 1
        ended.append((task, result))
    assert sorted(ended) == [(i, i**2) for i in range(20)]


def test_processes_times_threads_are_no_more_than_the_cores(pool):
    found = [result for _, result in pool.run(describe, range(2 * pool.workers))]
    processes = {one["pid"]: one["threads"] for one in found if one}
    assert os.getpid() not in processes
    assert sum(processes.values()) <= joblib.cpu_count()
    names = THREADS if pool.settings.backend != "ray" else THREADS[:1]
    assert {one["env"][name] for one in found if one for name in names} == {"1"}


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
    with stop_on_signals(pool.stop) as stop:
        results = pool.run(until_stopped, [str(tmp_path)] * 5, lambda: stop.number is not None)
        ended = []
        started = _when(lambda: len(list(tmp_path.iterdir())) == pool.workers)
        ended = [result for _, result in results]
        started.join()
    assert ended == ["saved"] * pool.workers
    assert [result for _, result in pool.run(square, [3])] == [9] or pool.settings.backend == "loky"


def _when(true: Any) -> Any:
    """A thread that sends this process Ctrl-C once something is so."""
    import threading

    def watch() -> None:
        while not true():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
