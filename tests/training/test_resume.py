"""kill -9 at any moment, then the same call again: the same bits. Ctrl-C and SIGTERM save first."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from g2d_pipeline.artefacts import CHECKPOINTS
from g2d_pipeline.errors import ConfigError, InterruptedRun
from tests.training.training_process import STUDENTS, train, train_on_a_full_disk, train_to_the_end


@pytest.fixture(autouse=True)
def a_process_in_the_foreground() -> Iterator[None]:
    """Ctrl-C is ignored in a process that a shell started in the background: not in these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


FILES = ("model.safetensors", "history.parquet", "predictions.parquet")


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes forked from a server that has everything imported: they start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.training_process"])
    return context


def result(folder: Path) -> dict[str, bytes]:
    files = [folder / name for name in FILES] + sorted((folder / "outputs").glob("*.npy"))
    return {f.name: f.read_bytes() for f in files}


def run(
    processes: Any, name: str, folder: Path, minutes: float, workers: int, kill_after: float | None = None
) -> None:
    """Run to the end, or kill `kill_after` seconds after it has begun (or when it has ended, if that comes
    first)."""
    folder.mkdir(exist_ok=True)
    (folder / "begun").unlink(missing_ok=True)
    process = processes.Process(target=train_to_the_end, args=(name, folder, minutes, workers))
    process.start()
    if kill_after is not None:
        while not (folder / "begun").exists():
            time.sleep(0.001)
        process.join(kill_after)
        process.kill()
    process.join()
    assert kill_after is not None or process.exitcode == 0


@pytest.fixture(scope="module")
def undisturbed(
    processes: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, bytes], float]]:
    """name → (the files, the seconds it took)."""
    found = {}
    for name in STUDENTS:
        folder = tmp_path_factory.mktemp(name)
        start = time.monotonic()
        run(processes, name, folder, 10.0, 0)
        found[name] = (result(folder), time.monotonic() - start)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_killed_at_a_random_moment_and_run_again_it_ends_in_the_same_bits(
    processes: Any, undisturbed: dict[str, tuple[dict[str, bytes], float]], tmp_path: Path, moment: int
) -> None:
    rng = np.random.default_rng(moment)
    name = list(STUDENTS)[moment % len(STUDENTS)]
    minutes = (0.0, 0.002)[moment // len(STUDENTS) % 2]  # a checkpoint after every batch, or now and then
    expected, seconds = undisturbed[name]
    run(processes, name, tmp_path, minutes, moment % 3, kill_after=rng.uniform(0, 1.2 * seconds))
    run(processes, name, tmp_path, minutes, moment % 3, kill_after=rng.uniform(0, 1.2 * seconds))
    run(processes, name, tmp_path, minutes, moment % 3)
    assert result(tmp_path) == expected


@functools.cache
def undisturbed_here(name: str) -> Any:
    """The same in this process."""
    return train(name, None)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("at", [1, 27, 55])
def test_stopped_after_a_batch_and_called_again_it_ends_in_the_same_bits(
    tmp_path: Path, name: str, at: int
) -> None:
    """Ctrl-C comes in the middle of batch `at`: mid-epoch, in another phase, late."""
    expected = undisturbed_here(name)
    with pytest.raises(
        InterruptedRun, match=r"stopped by Ctrl-C at epoch \d+, batch \d+, saved; the same"
    ) as error:
        interrupt_in_batch(at, lambda: train(name, tmp_path))
    assert error.value.exit_status == 130
    again = train(name, tmp_path)
    for key, value in expected.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    assert again.history.equals(expected.history)
    assert again.predictions.equals(expected.predictions)


def interrupt_in_batch(at: int, call: Any, number: int = signal.SIGINT) -> None:
    """Send this process a signal during the loss of batch `at`."""
    from g2d_pipeline.methods.base import Batch
    from g2d_pipeline.training.loader import Loader

    made, original = 0, Loader._batch

    def count(self: Loader, *arguments: Any) -> Batch:
        nonlocal made
        if self.teachers or len(self.data.modalities) > 1:  # not while a teacher is trained
            made += 1
            if made == at:
                os.kill(os.getpid(), number)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "_batch", count)
        call()


def test_sigterm_saves_and_exits_with_its_own_status(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM") as error:
        interrupt_in_batch(5, lambda: train("g2d", tmp_path), signal.SIGTERM)
    assert error.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_a_folder_ctrl_c_is_python_s_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_in_batch(5, lambda: train("g2d", None))


def test_a_training_that_had_ended_returns_at_once(tmp_path: Path) -> None:
    tmp_path /= "made/on/demand"
    first = train("g2d", tmp_path)

    def nothing(*_: Any) -> None:
        raise AssertionError("a batch was made")

    with pytest.MonkeyPatch.context() as patch:
        from g2d_pipeline.training.loader import Loader

        original = Loader._batch
        patch.setattr(Loader, "_batch", lambda self, *a: nothing() if self.teachers else original(self, *a))
        again = train("g2d", tmp_path)
    assert again.history.equals(first.history)
    assert again.predictions.equals(first.predictions)


def test_a_folder_of_another_training_is_refused_by_name(tmp_path: Path) -> None:
    train("g2d", tmp_path)
    with pytest.raises(ConfigError, match=r"another training \(another smp\)"):
        train("g2d", tmp_path, smp={"tau": [2]})
    with pytest.raises(ConfigError, match=r"another method, another parameters|another smp, another method"):
        train("g2d", tmp_path, method="joint", smp=None)


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = undisturbed_here("remembering")
    with pytest.raises(InterruptedRun):
        interrupt_in_batch(35, lambda: train("remembering", tmp_path, checkpoint_minutes=0))
    newest = sorted((tmp_path / CHECKPOINTS).iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = train("remembering", tmp_path)
    assert newest.name in caplog.text
    assert again.history.equals(expected.history)
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in expected.model.state_dict().items())


def test_a_full_disk_is_said_and_training_goes_on(processes: Any, tmp_path: Path) -> None:
    """No file may grow as large as a checkpoint while it trains: each one fails, the result is the same."""
    process = processes.Process(target=train_on_a_full_disk, args=("g2d", tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
    log = (tmp_path / "log.txt").read_text()
    assert "was not written" in log
    assert "Training goes on" in log
    assert list((tmp_path / CHECKPOINTS).iterdir()) == []
    weights = {k: v.contiguous() for k, v in undisturbed_here("g2d").model.state_dict().items()}
    assert (tmp_path / "model.safetensors").read_bytes() == save(weights)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_in_batch(5, lambda: train("g2d", tmp_path))  # runs to its end
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
