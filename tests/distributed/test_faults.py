"""Processes that are lost, and those that fail: restarts, one message, no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.artefacts import CHECKPOINTS
from g2d_pipeline.config import RunOptions
from g2d_pipeline.errors import ConfigError, InterruptedRun, TrainingError
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import fit, train_student
from tests.conftest import REPOSITORY, recipe
from tests.distributed.failing import BAD
from tests.distributed.recording import Recording
from tests.distributed.together import USUAL, data_of, digest, teachers_of, train
from tests.methods.test_every_method import interrupt_in_batch

OPTIONS = RunOptions(
    device="cpu", progress=False, checkpoint_minutes=0, compute={"devices": 2, "timeout": 60}
)
EPOCHS = 24  # half of them in each phase: not done before a signal has gone round
CHILD = """
import sys
from itertools import chain
from pathlib import Path
from g2d_pipeline.errors import G2DError
from tests.distributed.test_faults import once
if __name__ == "__main__":
    try:
        once(Path(sys.argv[1]))
    except G2DError as error:
        print(error)
        sys.exit(error.exit_status)
"""


def once(folder: Path | None, **changes: Any) -> str:
    """The digest of a student of two phases, trained on two devices with a checkpoint after every step."""
    case = {"method": "g2d", "smp": {"tau": [EPOCHS // 2]}, "epochs": EPOCHS, "encoder": USUAL}
    case["teachers"] = teachers_of(data_of(case), USUAL)
    return digest(train(case, OPTIONS.updated(folder=folder, **changes), 2)["weights"])


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return once(None)


def wait_for(folder: Path, epoch: int, alive: Any = lambda: True) -> None:
    """Until a checkpoint of this epoch, or of a later one, is there."""
    while all(int(file.name.split("-")[1]) < epoch for file in (folder / CHECKPOINTS).glob("epoch-*")):
        assert alive()
        time.sleep(0.002)


def kill_at(folder: Path, epoch: int, rank: int) -> None:
    wait_for(folder, epoch)
    sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)[rank].kill()


def test_after_a_kill_all_start_again_and_end_in_the_same_bits(
    tmp_path: Path, undisturbed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first process, in the first phase; `test_sharding` kills the second one in the last phase."""
    thread = threading.Thread(target=kill_at, args=(tmp_path, 2, 0), daemon=True)
    thread.start()
    assert once(tmp_path) == undisturbed
    thread.join()
    assert sum("was ended by SIGKILL" in r.getMessage() for r in caplog.records) == 1
    assert not list(tmp_path.glob("processes-*"))


def child(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = folder / "train.py"
    script.write_text(CHILD)
    paths = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    return subprocess.Popen(
        [sys.executable, script, folder],
        env=os.environ | paths,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_of_a_parent_that_ends_no_process_is_left_and_it_goes_on_from_there(
    tmp_path: Path, undisturbed: str
) -> None:
    """Stopped by SIGTERM in the first phase, then by kill -9 in the second."""
    folder = tmp_path / "training"
    stopped = child(folder)
    wait_for(folder, 2, lambda: stopped.poll() is None)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate(timeout=60)[0]
    assert stopped.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM" in output.splitlines()[-1]
    assert "the same command goes on from there" in output.splitlines()[-1]
    assert "Traceback" not in output

    killed = child(folder)
    wait_for(folder, EPOCHS // 2 + 2, lambda: killed.poll() is None)
    tasks = Path(f"/proc/{killed.pid}/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert len(children) >= 2
    killed.kill()
    killed.communicate()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert once(folder) == undisturbed


def test_on_another_number_of_devices_it_goes_on_from_the_same_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped on one device in the middle of an epoch: the two others train on what is left of it."""
    data, training = data_of({}), recipe(2, batch_size=6)
    done = train_student(
        data, dict.fromkeys("ab", USUAL), {}, method="joint", training=recipe(1), progress=False
    )

    def fit_on(devices: int) -> Recording:
        method, options = Recording(), OPTIONS.updated(folder=tmp_path, compute={"devices": devices})
        fit(build_model(done.info["architecture"]), data, method, training=training, options=options)
        return method

    with pytest.raises(InterruptedRun):
        interrupt_in_batch(4, lambda: fit_on(1))
    epochs = fit_on(2).epochs
    rows = sorted(data.rows["train"].tolist())
    assert [sorted(chain.from_iterable(batches)) for batches in epochs.values()] == [rows, rows]
    assert [len(batch) for batch in epochs["1"]] == [6, 6, 6, 6, 12, 12, 12, 4]


def test_a_bad_sample_of_one_process_ends_all_with_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingError) as error:
        train({"method": "tests.distributed.failing", "teachers": {}}, OPTIONS, 2)
    said = str(error.value)
    assert said.startswith("process ")
    assert "epoch 1, batch" in said
    assert f"{BAD}" in said
    assert said.endswith("ValueError: this sample is bad")
    assert "Traceback" not in "".join(capfd.readouterr())


def test_more_devices_than_there_are_are_refused_before_work() -> None:
    with pytest.raises(ConfigError, match=r"compute\.devices = 1000: there are"):
        once(None, compute={"devices": 1000})
