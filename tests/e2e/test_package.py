"""What `kedro package` makes: a wheel that runs anywhere with --conf-source (hard_inputs 24)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.e2e.project import REPOSITORY

pytestmark = pytest.mark.e2e
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"  # as `python -m build --wheel`


def test_the_wheel_runs_with_the_archive_of_the_settings(tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("setuptools")
    inputs = shared_data / "hard_inputs" / "25-kedro-options"
    source, site, elsewhere = (tmp_path / name for name in ("source", "site", "elsewhere"))
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "local")
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=ignored)
    shutil.copytree(REPOSITORY / "conf", source / "conf", ignore=ignored)
    shutil.copy(inputs / "parameters_kd.yml", source / "conf/base")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    zipfile.ZipFile(next((source / "dist").glob("*.whl"))).extractall(site)
    files = {
        path.relative_to(source / "src")
        for path in (source / "src/g2d_pipeline").rglob("*")
        if path.is_file()
    }
    assert {
        file for file in files if not (site / file).is_file()
    } == set()  # templates, lists, published numbers
    archive = source / "dist" / "conf-g2d_pipeline.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / "conf", "conf")
    shutil.copytree(inputs / "raw", elsewhere / "data/01_raw/kd")
    environment = os.environ | {"PYTHONPATH": str(site), "DO_NOT_TRACK": "1", "COLUMNS": "300"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "g2d_pipeline", *options]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    without = run("run", "--params", "dataset=kd")
    assert without.returncode == 2
    (line,) = without.stderr.splitlines()
    assert line.startswith(f"Error: There is no folder of settings {elsewhere}/conf.")
    assert "--conf-source" in line
    done = run("--conf-source", str(archive), "--pipeline", "featurize", "--params", "dataset=kd")
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = elsewhere.glob("data/08_reporting/kd/data-*/data_report.html")
    assert f"Data: {page.relative_to(elsewhere)}" in done.stdout
