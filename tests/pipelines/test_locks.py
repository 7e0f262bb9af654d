"""Two processes and one artefact: the second waits, or ends in one line; a killed one blocks nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from g2d_pipeline.errors import DataError, LockedError
from g2d_pipeline.files import locked

HOLD = """
import sys, pathlib
from g2d_pipeline.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    return tmp_path / "data" / "features-1"


@pytest.fixture
def holder(artefact: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that makes the artefact until it is killed or reads a line."""
    command = [sys.executable, "-c", HOLD, str(artefact)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_does_not_wait_is_told_by_whom_and_since_when(
    artefact: Path, holder: subprocess.Popen[str]
) -> None:
    year = time.strftime("%Y-")
    with pytest.raises(LockedError, match=rf"process {holder.pid}, since {year}.*features-1.*wait=true"):
        locked(artefact).__enter__()
    with locked(artefact.with_name("features-2")):  # another artefact is free
        pass


@pytest.mark.parametrize("killed", [True, False])
def test_who_waits_goes_on_when_the_other_ends(
    artefact: Path, holder: subprocess.Popen[str], killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert holder.stdin is not None
    end = holder.kill if killed else lambda: holder.stdin.write("\n") and holder.stdin.flush()  # type: ignore[union-attr]
    threading.Timer(0.5, end).start()
    started = time.monotonic()
    with locked(artefact, wait=True):
        assert time.monotonic() - started > 0.4
        with pytest.raises(LockedError):
            locked(artefact).__enter__()
    assert f"process {holder.pid}, since" in caplog.text
    assert "waiting for it to end" in caplog.text
    assert list(artefact.parent.iterdir()) == []


def test_what_a_killed_process_left_behind_does_not_block(
    artefact: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    assert artefact.with_name("features-1.lock").exists()
    with locked(artefact):
        pass


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file cannot be written"):
        locked(tmp_path / "file" / "features-1").__enter__()
