"""A project folder with data sets and schedules, and a stub of `kedro` that writes down what it is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from g2d_pipeline.config.schedules import Schedule
from g2d_pipeline.schedules.jobs import Job

REPOSITORY = Path(__file__).resolve().parents[2]
# Notes its arguments, and then does what `plan.txt` says of this call: the exit status, or a word.
STUB = """
import os, pathlib, subprocess, sys, time
words = sys.argv[1:]
calls, plan = pathlib.Path("calls.txt"), pathlib.Path("plan.txt")
with calls.open("a") as file:
    file.write(" ".join(words) + "\\n")
planned = plan.read_text().split() if plan.exists() else []
status = planned.pop(0) if planned else "0"
plan.write_text(" ".join(planned))
if status == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path("child.txt").write_text(str(child.pid))
    time.sleep(60)
if status == "meet":  # another data set's run
    started, dataset = time.time(), words[-1].split(",")[0]
    pathlib.Path(f"started-{dataset}").touch()
    while len(list(pathlib.Path().glob("started-*"))) < 2 and time.time() < started + 90:
        time.sleep(0.1)
    with pathlib.Path("times.txt").open("a") as file:
        file.write(f"{started} {time.time()} {dataset}\\n")
    status = "0"
print("token", os.environ.get("G2D_TEST_HOOK", ""), "https://user:pass1word@example.org/x")
print("Report: data/08_reporting/d/1/report.html" if status == "0" else "Error: planned to fail")
sys.exit(int(status))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's settings in a folder of their own."""
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local", "studies"))
    (tmp_path / "conf" / "local").mkdir()
    shutil.copytree(REPOSITORY / "data" / "01_raw" / "av_digits", tmp_path / "data" / "01_raw" / "av_digits")
    return tmp_path


@pytest.fixture
def write(project: Path) -> Callable[[Any], Path]:
    """Writes schedules.yml of the project."""

    def write(content: Any) -> Path:
        text = content if isinstance(content, str) else yaml.safe_dump({"schedules": content})
        (project / "conf" / "base" / "schedules.yml").write_text(text, encoding="utf-8")
        return project

    return write


def stub_job(folder: Path, plan: str = "", name: str = "nightly", **settings: Any) -> Job:
    """A job whose commands are the stub's, in `folder`."""
    (folder / "stub.py").write_text(STUB, encoding="utf-8")
    if plan:
        (folder / "plan.txt").write_text(plan, encoding="utf-8")
    fields = {"dataset": "av_digits", "cron": "0 3 * * *", "retry_delay": 0.01} | settings
    return Job(name, Schedule(**fields), folder, kedro=(sys.executable, "stub.py"))


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or waits for its parent to say so."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] in ("", "Z")


def calls(folder: Path) -> list[str]:
    """What the stub was asked."""
    file = folder / "calls.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
