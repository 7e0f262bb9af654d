"""Dagster around the project's commands: ticks, retries, one run a data set at a time, and its ending."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from zoneinfo import ZoneInfo

import pytest

from g2d_pipeline.errors import ConfigError, LockedError
from g2d_pipeline.schedules.jobs import NODES, Job
from g2d_pipeline.schedules.server import start, write_home
from g2d_pipeline.schedules.settings import read_jobs

from .conftest import REPOSITORY, calls, has_ended, stub_job

dg = pytest.importorskip("dagster", reason="Dagster is not installed: it comes with the extra `retrain`")
from g2d_pipeline.schedules.definitions import make_definitions  # noqa: E402


@pytest.fixture(scope="module")
def instance() -> Iterator[Any]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def execute(job: Job, instance: Any) -> Any:
    definitions = make_definitions({job.name: job})
    return definitions.resolve_job_def(job.name).execute_in_process(instance=instance, raise_on_error=False)


def counts(result: Any, kind: str) -> dict[str, int]:
    """Stage → how many events of a kind it had."""
    steps = [event.step_key for event in result.all_events if event.event_type_value == kind]
    return {step: steps.count(step) for step in dict.fromkeys(steps)}


def test_a_schedule_is_a_job_with_its_cron_and_time_zone(tmp_path: Path) -> None:
    jobs = {n: stub_job(tmp_path, name=n, active=n == "a", timezone="Europe/Vienna") for n in ("a", "b")}
    repository = make_definitions(jobs).get_repository_def()
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    running, stopped = schedules["a_schedule"], schedules["b_schedule"]
    assert (running.cron_schedule, running.execution_timezone) == ("0 3 * * *", "Europe/Vienna")
    assert [s.default_status.value for s in (running, stopped)] == ["RUNNING", "STOPPED"]
    assert repository.get_job("a").tags["dataset"] == "av_digits"


@pytest.mark.e2e
def test_a_tick_runs_the_project_to_success(write: Callable[[Any], Path], instance: Any) -> None:
    """The real command on the bundled sample, as the schedule's tick asks for it."""
    schedule = {"dataset": "av_digits", "cron": "0 3 * * *", "pipeline": "ingest", "overrides": {"seeds": 0}}
    job = read_jobs(write({"nightly": schedule}))["nightly"]
    (job.project / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    (job.project / "src").mkdir()  # Kedro wants the folder; the package is the installed one
    definitions = make_definitions({"nightly": job})
    time_of_tick = datetime(2026, 11, 27, 3, tzinfo=ZoneInfo("UTC"))
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=time_of_tick) as context:
        tick = definitions.resolve_schedule_def("nightly_schedule").evaluate_tick(context)
    assert len(tick.run_requests) == 1
    result = execute(job, instance)
    assert result.success
    assert list((job.project / "data" / "02_intermediate" / "av_digits").rglob("stage.json"))


def test_a_stage_that_fails_is_tried_again_and_the_run_goes_on(tmp_path: Path, instance: Any) -> None:
    job = stub_job(
        tmp_path, "0 0 0 1 1 0 0 0 0", notify={"command": "tee -a told.txt", "on": ["finished", "failed"]}
    )
    result = execute(job, instance)
    assert result.success
    assert counts(result, "STEP_RESTARTED") == {"teachers": 2}
    assert counts(result, "STEP_SUCCESS") == dict.fromkeys(job.stages, 1)
    nodes = [NODES[stage] for stage in job.stages for _ in range(3 if stage == "teachers" else 1)][:-1]
    assert [call.split()[4] for call in calls(tmp_path)[:-1]] == nodes
    assert calls(tmp_path)[-1] == "run --pipeline retrain --params dataset=av_digits,wait=true"  # to the end
    assert json.loads((tmp_path / "told.txt").read_text())["outcome"] == "finished"  # one message
    outputs = [
        e for e in result.all_events if e.event_type_value == "STEP_OUTPUT" and e.step_key == "promote"
    ]
    report = outputs[0].step_output_data.metadata["report"]
    assert report.path == str(tmp_path / "data/08_reporting/d/1/report.html")


@pytest.mark.parametrize(
    ("plan", "outcome", "attempts"),
    [("0 3 0 0", "refused", 1), ("0 1 1 1 0", "failed", 3), ("0 hang", "failed", 1)],
)
def test_a_run_that_fails_trains_no_further_and_is_told(
    tmp_path: Path, instance: Any, plan: str, outcome: str, attempts: int
) -> None:
    """What a gate refuses (3) and what takes too long is not tried again."""
    job = stub_job(tmp_path, plan, notify={"command": "tee -a told.txt"}, timeout=5 if "hang" in plan else 60)
    result = execute(job, instance)
    assert not result.success
    assert counts(result, "STEP_START") == {"ingest": 1, "gates": 1}
    assert len(calls(tmp_path)) == 1 + attempts
    message = json.loads((tmp_path / "told.txt").read_text())
    assert (message["outcome"], message["dataset"]) == (outcome, "av_digits")
    assert message["reason"] == (
        "gates: the timeout of 5 s was reached" if "hang" in plan else "planned to fail"
    )


def test_secrets_are_in_no_log_of_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("G2D_TEST_HOOK", "https://127.0.0.1:9/s3cr3t")
    job = stub_job(tmp_path, "1", retries=0, notify={"webhook_env": "G2D_TEST_HOOK"})
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(job, instance)
        logs = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert "token *** https://***@example.org" in logs
    assert "s3cr3t" not in logs + "".join(capfd.readouterr())


def test_dagsters_settings_are_written_once_and_are_ours(tmp_path: Path) -> None:
    home = write_home(tmp_path)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.scheduler.max_catchup_runs == 1
        queue = instance.get_concurrency_config().run_queue_config
        limit = {"key": "dataset", "limit": 1, "value": {"applyLimitPerUniqueValue": True}}
        assert queue.tag_concurrency_limits == [limit]
        assert instance.run_retries_enabled
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    write_home(tmp_path)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}"


def test_a_port_in_use_and_a_second_dagster_are_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: Address already in use"):
            start(tmp_path, {}, port, lambda _: None)
    folder = str(tmp_path / ".dagster")
    words = f"with locked(Path({folder!r})): print('held', flush=True); input()"
    hold = f"from g2d_pipeline.files import locked, Path\n{words}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError):
            start(tmp_path, {}, port, lambda _: None)
        holder.kill()


# What `kedro schedule start` does, with jobs of two data sets whose commands are the stub's.
LOCATION = """
from pathlib import Path
from g2d_pipeline.schedules.definitions import make_definitions
from tests.schedules.conftest import stub_job
def job(name, dataset):
    return stub_job(Path.cwd(), name=name, dataset=dataset, pipeline="ingest", cron="0 0 1 1 *")
definitions = make_definitions({"one": job("one", "av_digits"), "other": job("other", "mis_me")})
"""
START = """
from pathlib import Path
from g2d_pipeline.schedules import server
server.MODULE = "location"
server.start(Path.cwd(), {}, PORT, lambda line: print(line, flush=True))
"""
LAUNCH = """mutation($job: String!) { launchRun(executionParams: {selector: {
  repositoryLocationName: "location", repositoryName: "__repository__", jobName: $job}}) { __typename } }"""


def launch(port: int, job: str) -> None:
    query = json.dumps({"query": LAUNCH, "variables": {"job": job}}).encode()
    request = Request(f"http://127.0.0.1:{port}/graphql", query, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        assert json.load(answer)["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.slow
def test_two_data_sets_run_side_by_side_and_one_never_twice_and_all_ends_by_a_signal(tmp_path: Path) -> None:
    (tmp_path / "location.py").write_text(LOCATION, encoding="utf-8")
    (tmp_path / "plan.txt").write_text("meet " * 9, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    command = [sys.executable, "-c", START.replace("PORT", str(port))]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert f"Dagster: http://127.0.0.1:{port} (Ctrl-C ends it)\n" in iter(process.stdout.readline, "")
        for name in ("one", "one", "other"):
            launch(port, name)
        wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2)  # side by side
        (tmp_path / "plan.txt").write_text("hang", encoding="utf-8")  # the second run of the same data set
        child = tmp_path / "child.txt"
        wait_for(child.exists)
        lines = (line.split() for line in (tmp_path / "times.txt").read_text().splitlines())
        spans = {dataset: (float(begin), float(end)) for begin, end, dataset in lines}
        first, other = spans["dataset=av_digits"], spans["dataset=mis_me"]
        assert other[0] <= first[1]  # the first waited for it
        assert first[1] <= child.stat().st_mtime
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert has_ended(int((tmp_path / "child.txt").read_text()))
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--port {port}" not in left
