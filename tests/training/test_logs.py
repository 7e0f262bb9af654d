"""Logs of a training run: what a reader finds in them, also after interruptions."""

from __future__ import annotations

import csv
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.training.logs import open_logs, tensorboard_log, write_csv


def rows(epochs: int, offset: float = 0.0) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "phase": 1 + epoch // 4,
            "learning": "image+audio" if epoch % 2 else "audio",
            "lr": 0.1 / epoch,
            "loss/task": 1 / epoch + offset,
            "grad_norm/audio": 0.0,
            "val/multi": np.float32(epoch / 7),
        }
        for epoch in range(1, epochs + 1)
    ]


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → (step, value) as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The same from the rows; TensorBoard keeps 32 bits of a number."""
    names = [name for name in history[0] if name not in ("epoch", "learning")]
    return {name: [(row["epoch"], float(np.float32(row[name]))) for row in history] for name in names}


def train(
    folder: Path, history: list[dict[str, Any]], start: int = 0, kinds: tuple[Any, ...] = ("tensorboard",)
) -> None:
    """Log the epochs after the first `start`, as a run does that goes on from there."""
    with open_logs(kinds, folder) as log:
        for done in range(start, len(history)):
            log(history[: done + 1])


def test_no_kinds_no_files(tmp_path):
    with open_logs([], None) as log:
        log(rows(1))
    train(tmp_path, rows(2), kinds=())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_ends_an_epoch_leaves_nothing(tmp_path):
    train(tmp_path, [], kinds=("csv", "tensorboard"))
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- csv
def test_csv_is_whole_after_each_epoch(tmp_path):
    folder = tmp_path / "student"
    history = rows(5)
    with open_logs(["csv"], folder) as log:
        for done in range(1, 6):
            log(history[:done])
            assert [f.name for f in folder.iterdir()] == ["history.csv"]
            found = pd.read_csv(folder / "history.csv").to_dict("records")
            assert found == [{**row, "val/multi": pytest.approx(row["val/multi"])} for row in history[:done]]


def test_csv_has_a_column_for_what_only_some_epochs_have(tmp_path):
    history = [
        {"epoch": 1, "loss/task": 0.5},
        {"epoch": 2, "loss/task": 0.25, "loss/logit, distillation": 0.125},
    ]
    write_csv(tmp_path, history)
    with (tmp_path / "history.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["epoch", "loss/task", "loss/logit, distillation"],
            ["1", "0.5", ""],
            ["2", "0.25", "0.125"],
        ]


def test_csv_keeps_every_digit(tmp_path):
    values = {"lr": 0.1 + 0.2, "loss/task": 1e-300, "val/multi": np.float64(2 / 3)}
    write_csv(tmp_path, [{"epoch": 1} | values])
    with (tmp_path / "history.csv").open(encoding="utf-8", newline="") as file:
        (found,) = csv.DictReader(file)
    assert {name: float(found[name]) for name in values} == values


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not replace a file that somebody reads")
def test_a_reader_of_the_csv_is_not_disturbed_by_the_next_epoch(tmp_path):
    write_csv(tmp_path, rows(2))
    before = (tmp_path / "history.csv").read_text()
    with (tmp_path / "history.csv").open() as reader:
        start = reader.readline()
        write_csv(tmp_path, rows(3))
        assert start + reader.read() == before


def test_csv_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    train(tmp_path / "whole", rows(6), kinds=("csv",))
    train(tmp_path / "resumed", rows(4, offset=9.0), kinds=("csv",))
    (tmp_path / "resumed" / "history.csv.tmp").write_text("epoch,pha")
    train(tmp_path / "resumed", rows(6), start=3, kinds=("csv",))
    assert [f.name for f in (tmp_path / "resumed").iterdir()] == ["history.csv"]
    assert (tmp_path / "resumed" / "history.csv").read_bytes() == (
        tmp_path / "whole" / "history.csv"
    ).read_bytes()


# ------------------------------------------------------------------------------------------------ tensorboard
def test_tensorboard_shows_the_numbers_under_their_names(tmp_path):
    train(tmp_path, rows(6), kinds=("csv", "tensorboard"))
    assert points(tmp_path) == expected(rows(6))


def test_tensorboard_shows_an_epoch_as_soon_as_it_ends(tmp_path):
    with open_logs(["tensorboard"], tmp_path) as log:
        for done in (1, 2, 3):
            log(rows(done))
            assert points(tmp_path) == expected(rows(done))


def test_event_files_do_not_name_the_computer(tmp_path):
    train(tmp_path, rows(2))
    train(tmp_path, rows(3), start=2)
    with suppress(KeyboardInterrupt), open_logs(["tensorboard"], tmp_path) as log:
        log(rows(4))
        raise KeyboardInterrupt
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [f.name for f in files] == [f"events.out.tfevents.00000{n}" for n in (1, 2, 3)]
    assert not any(socket.gethostname().encode() in f.read_bytes() for f in files)
    assert points(tmp_path) == expected(rows(4))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=4), st.integers(1, 6))
def test_tensorboard_shows_no_point_twice_however_often_a_run_is_resumed(sessions, epochs):
    """Each session gets as far as `reached`; the next one goes on from an earlier checkpoint, with other
    numbers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (reached, back) in enumerate(sessions):
            train(folder, rows(reached, offset=float(number)), start=max(reached - 1 - back, 0))
        train(folder, rows(epochs, offset=99.0), start=epochs - 1)
        assert points(folder) == expected(rows(epochs, offset=99.0))


def test_tensorboard_goes_on_after_a_kill(tmp_path):
    with tensorboard_log(tmp_path / "alive") as write:
        write(rows(3, offset=1.0))
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")  # what a kill would leave, and half a record
    (left,) = (tmp_path / "killed" / "tensorboard").iterdir()
    with left.open("ab") as file:
        file.write(b"\x18\x00\x00")
    left.rename(
        left.with_name("events.out.tfevents.9999999999.elsewhere.1.0")
    )  # where the clock is ahead of ours
    train(tmp_path / "killed", rows(5), start=2)
    assert points(tmp_path / "killed") == expected(rows(5))
    assert len(list((tmp_path / "killed" / "tensorboard").glob("*.00000[12]"))) == 2


# ----------------------------------------------------------------------------------------------------- errors
def test_tensorboard_that_is_not_installed_is_said_before_training(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # its import fails from here on
    with (
        pytest.raises(ConfigError, match=r"pip install 'g2d-pipeline\[tensorboard\]'"),
        open_logs(["tensorboard"], tmp_path),
    ):
        pytest.fail("opened")
    with open_logs(["csv"], tmp_path) as log:
        log(rows(1))
    assert (tmp_path / "history.csv").exists()


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_logs_need_a_folder(kind):
    with pytest.raises(ConfigError, match=f"log={kind} needs a folder"), open_logs([kind], None):  # type: ignore[list-item]
        pytest.fail("opened")


def test_an_unknown_kind(tmp_path):
    unknown: Any = "wandb"
    with pytest.raises(ConfigError, match="'wandb' is unknown"), open_logs([unknown], tmp_path):
        pytest.fail("opened")
