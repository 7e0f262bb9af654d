"""`kedro run --pipeline predict` and the README's section on it, word for word, in a project of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.project import REPOSITORY, finished_project

pytestmark = pytest.mark.e2e
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Predict") :].split("\n## ")[0]


def test_the_readme_predicts_new_rows(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a model the command that makes it is said; nothing is trained; then both ways say the same."""
    project = finished_project(tmp_path_factory, tmp_path)
    shutil.rmtree(project.path / "data/06_models/av_digits/students")
    options = re.findall(r"kedro run (.*input=.*)", SECTION)[0].split()
    refused = project.run("run", *options)
    assert refused.status == 2
    assert "predict_samples needs model" in refused.output
    command = re.findall(r"Make it first: kedro (run --pipeline \w+)", refused.output)[0]
    assert command == "run --pipeline distill"
    assert project.run(*command.split()).status == 0
    done = project.run("run", *options)
    assert done.status == 0, done.output
    assert done.nodes == ["predict_samples"]
    file = project.path / re.findall(r"data/07_model_output/\S+", done.output)[-1]
    written = pd.read_parquet(file)
    assert written["missing"].tolist() == ["", "", "", "image", "audio"]
    assert written["prediction"].notna().all()
    assert "5_nobody.flac' is missing" in written["fault"].iloc[4]

    code = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)[0]
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=project.path,
        env=project.environment,
    )
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()[1:4]]
    assert [row[3] for row in rows] == written["prediction"].tolist()[:3]
