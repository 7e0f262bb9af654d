"""Who is told of what came of a run: a command, or an address that the environment holds."""

import json
import os
import shlex
import subprocess

from g2d_pipeline.schedules.jobs import Job, Log, Result

SECONDS = 15.0  # that a command or an address may take


def notify(job: Job, result: Result, warn: Log, page: str = "") -> None:
    """Tell of the result, where the schedule asks for it; `page`: the address of the run. Whatever goes wrong
    is one line through `warn`: it never fails a run."""
    settings = job.schedule.notify
    if settings is None or result.outcome not in settings.on:
        return
    text = f"{job.schedule.dataset}: {result.outcome}{f' ({result.reason})' if result.reason else ''}"
    fields = {"schedule": job.name, "dataset": job.schedule.dataset, "outcome": result.outcome}
    about = {"reason": result.reason, "report": result.report, "version": result.version, "run": page}
    message = json.dumps({"text": f"{job.name}: {text}"} | fields | about, ensure_ascii=False).encode()
    try:
        if settings.command:
            command = shlex.split(settings.command)
            done = subprocess.run(
                command, input=message, cwd=job.project, timeout=SECONDS, stderr=subprocess.PIPE
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                warn(job.masked(f"notify.command ended with status {done.returncode}: {''.join(said)}"))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        warn(job.masked(f"notify.command failed: {error}"))
    try:
        if settings.webhook_env:
            _post(os.environ.get(settings.webhook_env, ""), message)
    except (OSError, ValueError) as error:
        warn(job.masked(f"notify.webhook_env ({settings.webhook_env}) failed: {error}"))


def _post(address: str, message: bytes) -> None:
    """Post JSON. Raises ValueError for what is no address of the web, and OSError."""
    if not address.startswith(("https://", "http://")):
        raise ValueError("the variable is not set" if not address else "it holds no address of http(s)")
    import urllib.request  # dear to import

    header = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, message, header, method="POST")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        answer.read(1024)
