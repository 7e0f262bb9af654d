"""Inputs on which numbers go wrong in silence, and trainings that fail, through the command line: what is
shown, what is kept, what the exit status says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.e2e.project import Project, copy_project

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Project:
    """A project with the data sets r28 and r29 of `hard_inputs`."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    for folder in sorted((shared_data / "hard_inputs").glob("2[89]-*")):
        name = f"r{folder.name[:2]}"
        shutil.copytree(folder / "raw", project.path / "data/01_raw" / name, copy_function=shutil.copyfile)
        shutil.copyfile(folder / f"parameters_{name}.yml", project.path / f"conf/base/parameters_{name}.yml")
        (project.path / "data/01_raw" / name).chmod(0o755)
    return project


def metrics(project: Project, output: str) -> dict:
    report = re.search(r"Report: (data/\S+)/report.html", output)
    assert report, output
    return json.loads((project.path / report[1] / "metrics.json").read_text())


def block(output: str, title: str) -> list[str]:
    """The rows of the terminal table under a metric's title."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == title)
    return list(iter(iter(lines[start + 1 :]).__next__, ""))


def test_28_a_feature_constant_in_train_is_nothing_to_the_model_and_is_said(project: Project) -> None:
    result = project.run("run", "--pipeline", "featurize", "--params", "dataset=r28")
    assert result.status == 0, result.output
    (stored,) = (project.path / "data/04_feature/r28").glob("*/num.npy")
    assert not np.load(stored).any()
    said = "num: constant in train, so 0 for the model everywhere, but val and test differ: 'x' (12 samples)"
    data, line = result.output.rstrip().splitlines()[-2:]
    assert re.fullmatch(r"Data: data/\S+/data_report.html \(.*1 constant in train.*\)", data)
    assert line.strip() == said
    page = project.path / data.split()[1]
    assert "constant in train, so 0 for the model everywhere" in page.read_text()


def test_absent_classes_and_columns_that_are_the_target_are_said(project: Project) -> None:
    raw = project.path / "data/01_raw/leaky"
    raw.mkdir()
    table = pd.read_csv(project.path / "data/01_raw/r28/m.csv")
    table["x"] = (table["y"] == "a") * 10.0 + np.linspace(0, 1, len(table))
    table.loc[table["split"] == "test", ["y", "x"]] = ["b", 0.5]
    table.to_csv(raw / "m.csv", index=False)
    file = project.path / "conf/base/parameters_r28.yml"
    (file.parent / "parameters_leaky.yml").write_text(file.read_text().replace("r28", "leaky"))
    result = project.run("run", "--pipeline", "featurize", "--params", "dataset=leaky")
    assert result.status == 0, result.output
    assert [line.strip() for line in result.output.rstrip().splitlines()[-2:]] == [
        "test: classes without a sample: 'a'",
        "target leakage? Columns that predict the target by themselves: 'x' (balanced accuracy 1.000)",
    ]


def test_29_r2_of_a_constant_test_target_is_a_dash(project: Project) -> None:
    result = project.run("run", "--params", "dataset=r29,batch_size=64")
    assert result.status == 0, result.output
    rows = block(result.output, "R²")
    assert len(rows) == 4
    assert not re.search(r"\d|▲|▼", "".join(row.replace("g2d", "") for row in rows))
    assert any(re.search("g2d +[▲▼≈] ", row) for row in block(result.output, "RMSE (kg)"))
    record = metrics(project, result.output)
    r2 = [row["mean"] for row in record["summary"] if row["metric"] == "r2"]
    assert r2
    assert set(r2) == {None}
    closing = result.output[result.output.index("Against joint: ") :]
    assert "R² is undefined on test: the targets are constant, or of one sample." in closing
    assert "One step an epoch: a step of 64 samples holds all 28 of train (all runs). A smaller" in closing
    assert len(record["notes"]) == 2


def test_a_failed_run_is_shown_the_others_as_always_and_only_it_is_tried_again(project: Project) -> None:
    """α = 1e38 makes g2d diverge at once; joint does not know α."""
    first = project.run("run", "--params", "dataset=r29,alpha=1e38")
    assert first.status == 1, first.output
    assert "Traceback" not in first.output
    assert re.search(r"joint +\d", first.output)
    assert re.search(r"g2d \(0 of 1 seeds\) +failed", first.output)
    reason = r"loss/\S.* became NaN or infinite in epoch \d+, batch \d+\."
    assert re.search(rf"^Failed: g2d, seed 0: {reason}$", first.output, re.MULTILINE)
    assert first.output.rstrip().splitlines()[-1].startswith("Error: 1 of 4 runs failed: distill g2d/seed0.")
    (failed,) = metrics(project, first.output)["failed"]
    assert (failed["method"], failed["seed"]) == ("g2d", 0)
    page = next(line for line in first.output.splitlines() if line.startswith("Report: "))[8:]
    assert "became NaN or infinite" in (project.path / page).read_text()
    assert not [
        f for f in project.path.glob("data/06_models/**/*.partial") if not (f / "checkpoints").exists()
    ]
    again = project.run("run", "--params", "dataset=r29,alpha=1e38")
    assert (again.status, again.nodes) == (1, ["train_students", "evaluate_runs"])
    assert "distill joint/seed0 (1/2) is fresh: skipped" in again.output
    assert page in again.output  # the same report


def test_a_failed_teacher_fails_the_runs_that_need_it(project: Project) -> None:
    result = project.run("run", "--params", "dataset=r29,teacher.optimizer.lr=1e30")
    assert result.status == 1, result.output
    failed = {
        (one["method"], one["modality"]): one["reason"] for one in metrics(project, result.output)["failed"]
    }
    assert ("unimodal", "num") in failed
    assert failed["g2d", ""].startswith("it needs the teacher of num, which failed: loss/task became NaN")
    assert re.search(r"joint +\d", result.output)
