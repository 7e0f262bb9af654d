"""kill -9 at any moment, then the same call again: the same bits. Ctrl-C and SIGTERM save first."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from g2d_pipeline.artefacts import CHECKPOINTS, write_trained
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


@functools.cache
def undisturbed_here(name: str) -> Any:
    """What is trained where nobody interrupts."""
    return train(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["g2d", "alternating"])
def test_killed_at_a_random_moment_and_run_again_it_ends_in_the_same_bits(
    processes: Any, tmp_path: Path, name: str
) -> None:
    """kill -9 of a process that saves after every batch, at a third of the way or later."""
    number = list(STUDENTS).index(name)
    process = processes.Process(target=train_to_the_end, args=(name, tmp_path, 0.0, number % 3))
    process.start()
    saved = tmp_path / CHECKPOINTS / f"epoch-000{2 + number}-*"
    while process.is_alive() and not list(saved.parent.glob(saved.name)):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    write_trained(tmp_path, train(name, tmp_path, workers=number % 3))
    (expected := tmp_path / "expected").mkdir()
    write_trained(expected, undisturbed_here(name))
    assert result(tmp_path) == result(expected)


class Killed(BaseException):
    """The process ends here, as far as the disk can tell: nothing is saved on the way out."""


@pytest.mark.parametrize("moment", range(4))
def test_ended_at_random_batches_and_called_again_it_ends_in_the_same_bits(
    tmp_path: Path, moment: int
) -> None:
    """Twice, without a word, with a checkpoint after every batch or now and then."""
    rng = np.random.default_rng(moment)
    name, minutes = list(STUDENTS)[moment], (0.0, 0.002)[moment % 2]
    options = {"checkpoint_minutes": minutes, "workers": moment % 3}

    def die() -> None:
        raise Killed

    first, second = sorted(rng.integers(1, 29, 2).tolist())
    with pytest.raises(Killed):
        at_batch(first, die, lambda: train(name, tmp_path, **options))
    with suppress(Killed):  # it may have less than so many batches left
        at_batch(second - first, die, lambda: train(name, tmp_path, **options))
    assert_same(train(name, tmp_path, **options), undisturbed_here(name))


def assert_same(trained: Any, expected: Any) -> None:
    for key, value in expected.model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[key], value), key
    assert trained.history.equals(expected.history)
    assert trained.predictions.equals(expected.predictions)


@pytest.mark.parametrize(
    ("at", "name"),
    [(1, "g2d"), (14, "g2d"), (14, "remembering"), (28, "averaged"), (1, "alternating"), (28, "alternating")],
)
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
    assert_same(train(name, tmp_path), expected)


def interrupt_in_batch(at: int, call: Any, number: int = signal.SIGINT) -> None:
    """Send this process a signal while batch `at` is made."""
    at_batch(at, lambda: os.kill(os.getpid(), number), call)


def at_batch(at: int, action: Callable[[], None], call: Callable[[], Any]) -> None:
    """Call, and act while batch `at` of a student is made."""
    from g2d_pipeline.methods.base import Batch
    from g2d_pipeline.training.loader import Loader

    made, original = 0, Loader._batch

    def count(self: Loader, *arguments: Any) -> Batch:
        nonlocal made
        if self.teachers or len(self.data.modalities) > 1:  # not while a teacher is trained
            made += 1
            if made == at:
                action()
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "_batch", count)
        call()


def test_sigterm_saves_and_exits_with_its_own_status(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM") as error:
        interrupt_in_batch(5, lambda: train("g2d", tmp_path), signal.SIGTERM)
    assert error.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) == before


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
        interrupt_in_batch(18, lambda: train("remembering", tmp_path, checkpoint_minutes=0))
    newest = sorted((tmp_path / CHECKPOINTS).iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert_same(train("remembering", tmp_path), expected)
    assert newest.name in caplog.text


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
