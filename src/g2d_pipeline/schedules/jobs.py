"""A schedule as the commands that it runs: each command, its result, and the notifications about it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from g2d_pipeline.config.schedules import Outcome, Schedule
from g2d_pipeline.overrides import as_params
from g2d_pipeline.retraining.outcome import outcome_file, read_outcome

# The stages of `retrain` in their order, and the node at which each ends.
NODES = {
    "ingest": "ingest_raw",
    "gates": "admit_data",
    "featurize": "featurize_modalities",
    "teachers": "train_teachers",
    "distill": "train_students",
    "evaluate": "evaluate_runs",
    "promote": "promote_challenger",
}
OF_RETRAIN = ("gates", "promote")  # stages that other pipelines do not have
REFUSED = 3  # the exit status where a gate refuses the data
FINAL = (2, REFUSED)  # a wrong configuration and refused data stay so: no retry
ADDRESS = "G2D_DAGSTER_ADDRESS"  # the environment variable with the address of Dagster's page
GRACE = 20.0  # seconds that a command has to save its state
NOTIFYING = 15.0  # seconds that a notification may take
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL|WEBHOOK", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")

Log = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """The result of a command. `again`: whether a retry may change it; `report`: the page, if any."""

    outcome: Outcome
    reason: str = ""
    report: str = ""
    version: str = ""
    status: int = 0
    again: bool = False


@dataclass(frozen=True)
class Job:
    """A schedule of a project (`env`: Kedro's environment), and its commands, which begin with `kedro`."""

    name: str
    schedule: Schedule
    project: Path
    env: str | None = None
    kedro: tuple[str, ...] = (sys.executable, "-m", "kedro")

    @property
    def stages(self) -> list[str]:
        stages, last = list(NODES), self.schedule.pipeline
        if last == "retrain":
            return stages
        return [s for s in stages[: stages.index(last) + 1] if s not in OF_RETRAIN]

    def command(self, stage: str | None = None) -> list[str]:
        """The command that goes as far as `stage`; the last stage, and None: to the end."""
        s = self.schedule
        until = [] if stage in (None, self.stages[-1]) else ["--to-nodes", NODES[str(stage)]]
        params = as_params({"dataset": s.dataset, "wait": True} | s.overrides)
        return [*self.kedro, "run", "--pipeline", s.pipeline, *until, "--params", params]

    def run(self, stage: str | None, log: Log, seconds: float) -> Result:
        """Run the command, and pass each line of its output to `log`, with secrets masked. It is ended, with
        all that it started, after `seconds` and when this process is interrupted."""
        started, lines, late = time.time(), [""], threading.Event()
        env = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"KEDRO_ENV": self.env} if self.env else {})
        process = subprocess.Popen(
            self.command(stage),
            cwd=self.project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

        def end_late() -> None:
            late.set()
            end(process)

        timer = threading.Timer(max(seconds, 0), end_late)
        timer.start()
        try:
            for line in process.stdout or ():
                if text := self.masked(line.rstrip()):
                    lines.append(text)
                    log(text)
            process.wait()
        finally:
            timer.cancel()
            end(process, GRACE if process.poll() is None else 1.0)
        if late.is_set():
            limit = f"the timeout of {self.schedule.timeout:g} s was reached"
            return Result("failed", f"{stage or self.schedule.pipeline}: {limit}", status=process.returncode)
        return self.result(process.returncode, lines, started)

    def result(self, status: int, lines: list[str], started: float) -> Result:
        """The result of a command that ended with `status`, by its output and `retrain.json`."""
        file = outcome_file(self.project, self.schedule.dataset)
        is_new = file.is_file() and file.stat().st_mtime >= started - 1
        retrain = read_outcome(file) if self.schedule.pipeline == "retrain" and is_new else {}
        printed = next((line[8:].strip() for line in reversed(lines) if line.startswith("Report: ")), "")
        page = retrain.get("report") or printed
        report = str(self.project / page) if page else ""
        if status:
            error = next((line for line in reversed(lines) if line.startswith("Error: ")), lines[-1])
            reason = str(retrain.get("reason") or error).removeprefix("Error: ")
            outcome: Outcome = "refused" if status == REFUSED else "failed"
            return Result(outcome, reason, report, status=status, again=status not in FINAL)
        outcome = retrain.get("outcome", "finished")
        return Result(outcome, retrain.get("reason") or "", report, str(retrain.get("version") or ""))

    def masked(self, text: str) -> str:
        """The text without secrets: values of environment variables that hold one, and URLs' passwords."""
        notify = self.schedule.notify
        webhook = notify.webhook_env if notify else None
        hidden = [v for n, v in os.environ.items() if (n == webhook or SECRET.search(n)) and len(v) >= 6]
        for value in sorted(hidden, key=len, reverse=True):
            text = text.replace(value, "***")
        return CREDENTIALS.sub("***", text)


def end(process: subprocess.Popen[str], grace: float = GRACE, done: Callable[[], bool] = bool) -> None:
    """End a command and its process group: by SIGTERM first, so that training saves its state; after `grace`
    seconds, or as soon as `done()`, by SIGKILL."""
    if not hasattr(os, "killpg"):  # Windows
        process.kill()
        return
    until = time.monotonic() + grace
    with suppress(ProcessLookupError, PermissionError):  # the group is empty
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < until and not done() and _works(process.pid):
            process.poll()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _works(group: int) -> bool:
    """Whether a process of the group runs. (One that has ended stays a member until its parent waits for it,
    which the init process of a container may never do.) Raises ProcessLookupError for an empty group."""
    os.killpg(group, 0)
    states = Path("/proc").glob("[0-9]*/stat")
    for file in states if Path("/proc/self/stat").exists() else ():
        with suppress(OSError):
            state, _, member = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(member) == group and state not in "ZX":
                return True
    return not Path("/proc/self/stat").exists()


def notify(job: Job, result: Result, warn: Log, page: str = "") -> None:
    """Send the result, where the schedule asks for it; `page`: the address of the run. A failure is a line
    to `warn`: it never fails a run."""
    settings = job.schedule.notify
    if settings is None or result.outcome not in settings.on:
        return
    text = f"{job.schedule.dataset}: {result.outcome}{f' ({result.reason})' if result.reason else ''}"
    fields = {"schedule": job.name, "dataset": job.schedule.dataset, "outcome": result.outcome}
    fields |= {"reason": result.reason, "report": result.report, "version": result.version, "run": page}
    message = json.dumps({"text": f"{job.name}: {text}"} | fields, ensure_ascii=False).encode()
    try:
        if settings.command:
            command, pipe = shlex.split(settings.command), subprocess.PIPE
            done = subprocess.run(command, input=message, cwd=job.project, timeout=NOTIFYING, stderr=pipe)
            if done.returncode:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                warn(job.masked(f"notify.command ended with status {done.returncode}: {''.join(last)}"))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        warn(job.masked(f"notify.command failed: {error}"))
    try:
        if settings.webhook_env:
            _post(os.environ.get(settings.webhook_env, ""), message)
    except (OSError, ValueError) as error:
        warn(job.masked(f"notify.webhook_env ({settings.webhook_env}) failed: {error}"))


def _post(address: str, message: bytes) -> None:
    """Post JSON. Raises ValueError for anything but an http(s) address, and OSError."""
    if not address.startswith(("https://", "http://")):
        raise ValueError("the variable is not set" if not address else "it holds no address of http(s)")
    import urllib.request  # slow to import

    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, message, header, method="POST")
    with urllib.request.urlopen(request, timeout=NOTIFYING) as answer:
        answer.read(1024)
