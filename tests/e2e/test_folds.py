"""Cross-validation as one run: every fold trained, tested once, and told in one table."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.e2e.project import Project, copy_project

pytestmark = pytest.mark.e2e
N = 60


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A table of sixty samples, ten a day."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    raw, rng = project.path / "data/01_raw/birds", np.random.default_rng(0)
    raw.mkdir(parents=True)
    label = np.arange(N) % 2
    columns = {"id": [f"s{i}" for i in range(N)], "day": [f"d{i // 10}" for i in range(N)]}
    columns |= {"a": label + rng.normal(size=N), "b": 2 * label + rng.normal(size=N), "label": label}
    pd.DataFrame(columns).to_csv(raw / "metadata.csv", index=False)
    mlp = {"name": "mlp", "widths": [8], "dropout": []}
    birds = {
        "raw": {
            "layout": "table", "raw_dir": "data/01_raw/birds", "id": "id", "target": "label",
            "split": {"folds": 3, "group": "day"},
        },
        "task": "classification",
        "modalities": {m: {"kind": "tabular", "columns": [m], "encoder": mlp} for m in "ab"},
        "training": {"epochs": 2, "batch_size": 8},
        "smp": {"tau": [1, 1]},
    }  # fmt: skip
    text = yaml.safe_dump({"datasets": {"birds": birds}})
    (project.path / "conf/base/parameters_birds.yml").write_text(text)
    return project


def test_three_folds_are_one_run_with_one_report(project: Project) -> None:
    run = project.run("run", "--params", "dataset=birds")
    assert run.status == 0, run.output
    assert "birds · test · mean ± std over 3 folds\n" in run.output
    assert "distill g2d/fold3/seed0 (6/6)" in run.output
    report = project.path / re.findall(r"Report: (\S+)", run.output)[0]
    assert "Fold by fold" in report.read_text()
    summary = json.loads((report.parent / "metrics.json").read_text())
    assert [r["fold"] for r in summary["runs"] if r["method"] == "joint"] == [1, 2, 3]
    assert {s["n"] for s in summary["summary"]} == {3}
    metrics = pd.read_parquet(report.parent / "metrics.parquet")
    assert set(metrics["fold"]) == {1, 2, 3}
    files = sorted(project.path.glob("data/06_models/birds/students/g2d/fold*/seed0-*/predictions.parquet"))
    assert len(files) == 3
    predictions = pd.concat(map(pd.read_parquet, files)).query("split == 'test' and part == 'multi'")
    assert sorted(predictions["sample_id"]) == sorted(f"s{i}" for i in range(N))  # each is tested once
    again = project.run("run", "--params", "dataset=birds")
    assert (again.status, again.nodes) == (0, []), again.output


def test_repeated_cross_validation_and_too_many_folds(project: Project) -> None:
    line = "dataset=birds,method=unimodal,compare=unimodal,split.folds=2,seeds=0/1"
    run = project.run("run", "--params", f"{line},split.per_seed=true")
    assert run.status == 0, run.output
    assert "mean ± std over 2 folds × 2 seeds" in run.output
    assert "ingest fold2/seed1 (4/4)" in run.output
    wrong = project.run("run", "--params", "dataset=birds,split.folds=7")
    assert wrong.status == 1
    assert "split.folds = 7, and there are 6 values of 'day'" in wrong.output
    assert not list(project.path.glob("data/02_intermediate/birds/*.partial"))
