"""A training that fails leaves the others as they are; what is nobody's own fault ends them all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kedro.io import DatasetError

from g2d_pipeline.artefacts import CHECKPOINTS, FailedRun, TrainedFolder
from g2d_pipeline.catalog import trained
from g2d_pipeline.catalog.trained import TrainedSetDataset
from g2d_pipeline.errors import ConfigError, DataError, InterruptedRun
from g2d_pipeline.stages import Plan
from g2d_pipeline.training import DivergenceError
from g2d_pipeline.training.capacity import CapacityError
from tests.plans import make_missing, plan_of
from tests.test_resolve import configure


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan whose ingest and features are made, and trained models that are one text each."""
    monkeypatch.setattr(trained, "write_trained", lambda folder, text: (folder / "model").write_text(text))
    plan = plan_of(configure(), tmp_path)
    made = plan.runs
    plan.runs = lambda stage: [] if stage in ("teachers", "distill", "evaluate") else made(stage)  # type: ignore[method-assign]
    make_missing(plan)
    plan.runs = made  # type: ignore[method-assign]
    return plan


def students(plan: Plan, stage: str = "teachers") -> TrainedSetDataset:
    return TrainedSetDataset(plan.folders[stage], stage, plan)


def fail_with(error: BaseException) -> Callable[[Path], Any]:
    def train(folder: Path) -> Any:
        (folder / "logs.csv").write_text("half")
        raise error

    return train


def jobs(plan: Plan, failing: str, error: BaseException) -> dict[str, Callable[[Path], Any]]:
    return {
        run: fail_with(error) if run == failing else lambda folder: "whole" for run in plan.runs("teachers")
    }


FAILURES = [
    (DivergenceError("teacher image, seed 1: loss/task became NaN.\nRemedies: …"), "loss/task became NaN."),
    (
        CapacityError("A batch of 16 samples does not fit.\nRemedies: …"),
        "A batch of 16 samples does not fit.",
    ),
    (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
    (MemoryError(), "MemoryError"),
    (ValueError("no cluster is left"), "ValueError: no cluster is left"),
    (TypeError("unsupported operand"), "TypeError: unsupported operand"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES, ids=lambda value: type(value).__name__)
def test_one_failure_leaves_the_others_and_is_tried_again_alone(plan, error, reason, caplog):
    dataset = students(plan)
    dataset.save(jobs(plan, "image/seed1", error))
    loaded = dataset.load()
    assert loaded["image/seed1"] == FailedRun(1, reason)
    others = [run for name, run in loaded.items() if name != "image/seed1"]
    assert len(others) == 5
    assert all(isinstance(run, TrainedFolder) and (run.path / "model").is_file() for run in others)
    assert not dataset.exists()
    assert "image/seed1 failed" in caplog.text
    assert not list(Path(plan.folders["teachers"]).parent.rglob("*.partial"))
    trained_again = []
    dataset.save({run: lambda folder, run=run: trained_again.append(run) or "whole" for run in loaded})
    assert trained_again == ["image/seed1"]
    assert dataset.exists()
    assert plan.failures == {}


def test_what_is_made_from_a_failed_run_counts_its_reason(plan):
    students(plan).save(jobs(plan, "image/seed1", ValueError("first")))
    needs, without = ("g2d/seed1", "g2d/seed0")
    one, same = (plan.fingerprint("distill", run) for run in (needs, without))
    students(plan).save(jobs(plan, "image/seed1", ValueError("second")))
    assert plan.fingerprint("distill", needs) != one
    assert plan.fingerprint("distill", without) == same


def test_checkpoints_of_a_failed_run_are_kept_for_the_next_attempt(plan):
    def train(folder: Path) -> Any:
        (folder / CHECKPOINTS).mkdir()
        raise CapacityError("too large")

    dataset = students(plan)
    dataset.save(
        {run: train if run == "image/seed1" else lambda folder: "whole" for run in plan.runs("teachers")}
    )
    (left,) = Path(plan.folders["teachers"]).parent.rglob("*.partial")
    seen = []
    dataset.save({"image/seed1": lambda folder: seen.append((folder / CHECKPOINTS).is_dir()) or "whole"})
    assert seen == [True]
    assert not left.exists()


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("precision: …"),
        DataError("the train target is constant"),
        InterruptedRun("stopped", 15),
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_concerns_all_runs_ends_them(plan, error):
    dataset = students(plan)
    with pytest.raises((DatasetError, KeyboardInterrupt)) as caught:
        dataset.save(jobs(plan, "image/seed1", error))
    assert error in (caught.value, caught.value.__cause__)  # Kedro wraps it
    assert plan.failures == {}
