"""A schedule's commands without Dagster: retries, time limit, secrets, and who is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from g2d_pipeline.schedules.files import run_once

from .conftest import calls, has_ended, stub_job

ADDRESS = "https://hooks.example.org/services/T0/s3cr3t"


def test_a_failure_is_tried_again_and_the_status_is_the_last(tmp_path: Path) -> None:
    said: list[str] = []
    assert run_once(stub_job(tmp_path, "1 1 0"), said.append) == 0
    assert len(calls(tmp_path)) == 3
    assert calls(tmp_path)[0] == "run --pipeline retrain --params dataset=av_digits,wait=true"
    assert run_once(stub_job(tmp_path, "1 1 1 1"), said.append) == 1


@pytest.mark.parametrize("status", [2, 3])
def test_a_wrong_configuration_and_a_gate_are_not_tried_again(tmp_path: Path, status: int) -> None:
    assert run_once(stub_job(tmp_path, f"{status} 0"), lambda _: None) == status
    assert len(calls(tmp_path)) == 1


def test_the_time_limit_ends_the_command_and_its_children(tmp_path: Path) -> None:
    started, job = time.monotonic(), stub_job(tmp_path, "hang 0", timeout=2)
    result = job.run(None, lambda _: None, job.schedule.timeout)
    assert (result.outcome, result.again) == ("failed", False)
    assert "timeout of 2 s was reached" in result.reason
    assert time.monotonic() - started < 15
    assert has_ended(int((tmp_path / "child.txt").read_text()))


def test_secrets_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2D_TEST_HOOK", ADDRESS)
    job, said = stub_job(tmp_path, "1", retries=0, notify={"webhook_env": "G2D_TEST_HOOK"}), list[str]()
    monkeypatch.setattr("urllib.request.urlopen", _refuse)
    assert run_once(job, said.append) == 1
    text = "\n".join(said)
    assert "token *** https://***@example.org/x" in text
    assert "notify.webhook_env (G2D_TEST_HOOK) failed" in text  # and the status is that of the run
    assert "s3cr3t" not in text
    assert "pass1word" not in text


def _refuse(request: object, **_: object) -> None:
    raise OSError(f"can not reach {ADDRESS}")


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What was posted to the address in G2D_TEST_HOOK."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("G2D_TEST_HOOK", f"http://127.0.0.1:{server.server_port}/hook")
    yield posted
    server.shutdown()
    server.server_close()


def test_a_webhook_and_a_command_are_told_of_what_they_ask_for(
    tmp_path: Path, webhook: list[dict[str, str]]
) -> None:
    notify = {"webhook_env": "G2D_TEST_HOOK", "command": "tee told.json", "on": ["refused", "promoted"]}
    assert run_once(stub_job(tmp_path, "3", notify=notify), lambda _: None) == 3
    message = json.loads((tmp_path / "told.json").read_text())
    assert webhook == [message]
    assert message["text"] == "nightly: av_digits: refused (planned to fail)"
    reports = tmp_path / "data" / "08_reporting" / "av_digits"
    reports.mkdir(parents=True)
    about = {"outcome": "promoted", "reason": "better", "version": 4, "report": "r.html"}
    (reports / "retrain.json").write_text(json.dumps(about))
    assert run_once(stub_job(tmp_path, "0", notify=notify), lambda _: None) == 0
    assert {key: webhook[1][key] for key in ("outcome", "reason", "version", "report")} == {
        **{"outcome": "promoted", "reason": "better", "version": "4"},
        "report": str(tmp_path / "r.html"),
    }
    assert run_once(stub_job(tmp_path, "1 1 1", notify=notify), lambda _: None) == 1  # nobody asked for this
    assert len(webhook) == 2


@pytest.mark.parametrize("command", ["no-such-command-at-all", "false", "sh -c 'unclosed"])
def test_a_notification_that_fails_is_a_warning(tmp_path: Path, command: str) -> None:
    said: list[str] = []
    job = stub_job(tmp_path, "0", notify={"command": command, "on": "finished"}, pipeline="evaluate")
    assert run_once(job, said.append) == 0
    assert "notify.command" in said[-1]


def test_an_old_result_of_another_run_is_not_told(tmp_path: Path) -> None:
    file = tmp_path / "data" / "08_reporting" / "av_digits" / "retrain.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"outcome": "promoted", "reason": "old"}')
    os.utime(file, (1, 1))
    result = stub_job(tmp_path, "3").run(None, lambda _: None, 60)
    assert (result.outcome, result.reason) == ("refused", "planned to fail")
