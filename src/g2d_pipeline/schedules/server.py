"""`kedro schedule start`: Dagster's page and daemon for this project, on this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.files import atomic_write, locked
from g2d_pipeline.schedules.jobs import ADDRESS, GRACE, Job, end

if TYPE_CHECKING:
    import dagster as dg

HOST, HOME = "127.0.0.1", ".dagster"
MODULE = "g2d_pipeline.schedules.definitions"
STARTING = 180.0  # seconds


def write_home(project: Path) -> Path:
    """The folder of Dagster's settings and records, created where it is missing."""
    home = project / HOME
    if not (home / "dagster.yaml").exists():
        template = Path(__file__).with_name("dagster.yaml.j2").read_text(encoding="utf-8")
        with atomic_write(home / "dagster.yaml") as file:
            file.write_text(template, encoding="utf-8")
    return home


def start(project: Path, jobs: dict[str, Job], port: int, say: Callable[[str], None]) -> int:
    """Start Dagster, print its address with `say`, and wait until it ends; Ctrl-C and SIGTERM end it with all
    that it started. Returns the exit status. Raises ConfigError (Dagster is missing, the port is in use) and
    LockedError (it runs already)."""
    try:
        import dagster as dg
        import dagster_webserver  # noqa: F401
    except ImportError as error:
        remedy = "`make schedule` installs it; so does pip install 'g2d-pipeline[retrain]'"
        raise ConfigError(f"Dagster is not installed ({error}): {remedy}") from error
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            remedy = f"Say another one: --port {port + 1}"
            raise ConfigError(f"--port {port}: {error.strerror}. {remedy}") from error
    home, address = write_home(project), f"http://{HOST}:{port}"
    env = next(iter(jobs.values())).env if jobs else None
    variables = {"DAGSTER_HOME": str(home), ADDRESS: address}
    variables |= {"PYTHONWARNINGS": "ignore:Function `dev_command`"} | ({"KEDRO_ENV": env} if env else {})
    options = ["--host", HOST, "--port", str(port), "--module-name", MODULE, "--log-level", "error"]
    with locked(home), dg.DagsterInstance.from_config(str(home)) as instance:
        for run in _active(instance):  # of a Dagster that was killed; they hold their data sets
            instance.report_run_failed(run, "Dagster was ended while this run was at work.")
        for number in (signal.SIGINT, signal.SIGTERM):  # ignored in a shell's background
            signal.signal(number, signal.default_int_handler)
        command = [sys.executable, "-m", "dagster", "dev", *options]
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | variables, text=True, start_new_session=True
        )
        try:
            _wait_for_page(process, port)
            say(f"Dagster: {address} (Ctrl-C ends it)")
            return process.wait()
        except KeyboardInterrupt:
            say("Ending Dagster and what it started; runs go on when it starts again …")
            return 0
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
            soonest = time.monotonic() + 3  # Dagster itself would take half a minute
            end(process, 2 * GRACE, lambda: time.monotonic() > soonest and not _active(instance))


def _wait_for_page(process: subprocess.Popen[str], port: int) -> None:
    """Return when Dagster answers, has ended, or takes longer than it should."""
    until = time.monotonic() + STARTING
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)


def _active(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    import dagster as dg

    s = dg.DagsterRunStatus
    return instance.get_runs(dg.RunsFilter(statuses=[s.STARTING, s.STARTED, s.CANCELING]))
