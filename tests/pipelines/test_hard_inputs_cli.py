"""Kedro's own options, used wrongly: one line with the right advice (hard_inputs 25). In this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project

from g2d_pipeline.cli import cli
from tests.e2e.project import REPOSITORY

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`kedro run --params dataset=kd …` in a folder of its own."""
    inputs = shared_data / "hard_inputs" / "25-kedro-options"
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    shutil.copy(inputs / "parameters_kd.yml", tmp_path / "conf/base")
    shutil.copytree(inputs / "raw", tmp_path / "data/01_raw/kd")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)  # else a project further up is taken
    monkeypatch.chdir(tmp_path)
    configure_project("g2d_pipeline")
    return lambda *options: CliRunner().invoke(cli, ["run", "--params", "dataset=kd", *options])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            ["--nodes", "train_students"],
            ["train_students needs features, teachers", "kedro run --pipeline teachers --params dataset=kd "],
        ),
        (
            ["--from-nodes", "evaluate_runs", "--params", "dataset=kd,alpha=0.5,compare="],
            [
                "evaluate_runs needs",
                "kedro run --pipeline distill --params dataset=kd,alpha=0.5,compare= (or",
            ],
        ),
        (["--from-inputs", "features"], ["describe_data needs manifest, features", "--pipeline featurize"]),
        (["--nodes", "train_student"], ["--nodes train_student", "Did you mean 'train_students'?"]),
        (["--to-nodes", "x"], ["--to-nodes x", "Known: ingest_raw, "]),
        (["--tags", "x"], ["--tags x", "Known: distill, evaluate"]),
        (["--to-outputs", "feature"], ["--to-outputs feature", "Did you mean 'features'?"]),
        (["--pipeline", "featurise"], ["--pipeline featurise", "Did you mean 'featurize'?"]),
        (["--pipelines", "ingest,x"], ["--pipeline x", "Known: ingest"]),
        (
            ["--pipeline", "featurize", "--nodes", "train_students"],
            ["--nodes train_students", "pipeline featurize has: ingest_raw"],
        ),
        (["--nodes", "ingest_raw", "--tags", "distill"], ["no node is all of this", "Nodes: ingest_raw"]),
        (["--namespaces", "x"], ["no node has a namespace"]),
        (["--load-versions", "features:x"], ["no data set is versioned"]),
        (["--runner", "x"], ["--runner x", "SequentialRunner"]),
        (["--env", "prdo"], ["--env prdo", "Did you mean 'prod'?"]),
        (["--params", "dataset:kd"], ["'dataset:kd' has no '='"]),
        (["--params", "tau=[1,2]"], ["'2]' has no '='", "seeds=1/2/3"]),
    ],
)
def test_a_mistake_ends_in_one_line_before_anything_is_done(
    run: Run, options: list[str], parts: list[str], tmp_path: Path
) -> None:
    result = run(*options)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert [part for part in parts if part not in line] == [], line
    assert not list(tmp_path.glob("data/0[2-8]*/kd/*-*"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("run:\n\tparams: x\n", ["run.yml, line 2", "a tab in the indentation"]),
        ("run:\n  param: x\n", ["--config", "`param`", "Did you mean", "params"]),
    ],
)
def test_a_file_of_options(run: Run, content: str, parts: list[str]) -> None:
    Path("run.yml").write_text(content)
    result = run("--config", "run.yml")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert [part for part in parts if part not in line] == [], line


def test_the_advice_helps(run: Run) -> None:
    """And a failure inside a node is said once, without Kedro's own advice."""
    assert run("--pipeline", "ingest").exit_code == 0
    result = run("--nodes", "featurize_modalities")
    assert result.exit_code == 0, result.output
    table = Path("data/01_raw/kd/m.csv")
    table.write_text("\n".join(line.rsplit(",", 1)[0] for line in table.read_text().splitlines()))
    result = run("--pipeline", "ingest")
    assert result.exit_code == 1
    assert result.output.count("Error: ") == 1
    assert "No nodes ran" not in result.output
    assert "failed with error" not in result.output
