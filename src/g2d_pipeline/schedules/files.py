"""Schedules without Dagster: run once, and as lines of cron, units of systemd and CronJobs of Kubernetes."""

import math
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from g2d_pipeline.config.schedules import DAYS, cron_fields
from g2d_pipeline.schedules.jobs import Job, Log, notify

DOCKERFILE = Path(__file__).with_name("Dockerfile.j2")


def run_once(job: Job, say: Log) -> int:
    """Run the schedule's command, with its retries, and notify of the result. Returns the exit status."""
    until = time.monotonic() + job.schedule.timeout
    for attempt in range(job.schedule.retries + 1):
        result = job.run(None, say, until - time.monotonic())
        if not result.again or attempt == job.schedule.retries:
            break
        say(f"Attempt {attempt + 1} failed; the next one goes on from there.")
        time.sleep(job.schedule.retry_delay)
    notify(job, result, say)
    return result.status if result.status > 0 else int(result.outcome == "failed")


def table(jobs: dict[str, Job]) -> str:
    """The schedules as text, a line each."""
    if not jobs:
        return "No schedules: conf/base/schedules.yml has none."
    rows = [("schedule", "data set", "pipeline", "cron", "time zone", "active")]
    for name, job in jobs.items():
        s = job.schedule
        rows.append((name, s.dataset, s.pipeline, s.cron, s.timezone, "yes" if s.active else "no"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _locked(job: Job) -> list[str]:
    """The command for cron or a unit, under the data set's lock: the next one waits for it."""
    lock = ["flock", "--wait", str(math.ceil(job.schedule.timeout)), f"logs/{job.schedule.dataset}.lock"]
    env = ["env", f"KEDRO_ENV={job.env}"] if job.env else []
    return [*lock, *env, sys.executable, "-m", "kedro", "schedule", "run", job.name]


def crontab(jobs: Sequence[Job]) -> str:
    """The lines of a crontab."""
    lines = [
        "# Made by `kedro schedule cron`: put these lines into yours (crontab -e). Outputs go to logs/.",
        "# CRON_TZ is cronie's (Fedora, Arch); Debian's cron ignores it and takes the machine's time zone.",
    ]
    zone = None
    for job in sorted(jobs, key=lambda job: job.schedule.timezone):
        if job.schedule.timezone != zone:
            zone = job.schedule.timezone
            lines.append(f"CRON_TZ={zone}")
        shell = f"cd {shlex.quote(str(job.project))} && mkdir -p logs && {shlex.join(_locked(job))}"
        command = f"{shell} >> logs/{job.name}.log 2>&1".replace("%", r"\%")
        lines.append(f"{job.schedule.cron} {command}")
    return "\n".join(lines)


def calendar(job: Job) -> list[str]:
    """The times of a schedule in systemd's format: one, or two (a day of the month or a weekday)."""
    minutes, hours, days, months, weekdays = cron_fields(job.schedule.cron)
    both = [(days, None), (None, weekdays)] if days and weekdays else [(days, weekdays)]
    return [
        f"{','.join(DAYS[day].capitalize() for day in week) + ' ' if week else ''}"
        f"*-{_list(months)}-{_list(month)} {_list(hours)}:{_list(minutes)}:00 {job.schedule.timezone}"
        for month, week in both
    ]


def _list(values: Iterable[int] | None) -> str:
    return "*" if values is None else ",".join(f"{value:02}" for value in values)


def systemd(jobs: Sequence[Job]) -> dict[str, str]:
    """Name of a unit → its text: a service and a timer per job."""
    units: dict[str, str] = {}
    for job in jobs:
        values = {
            "job": job,
            "s": job.schedule,
            "name": f"g2d-{job.name}",
            "folder": str(job.project).replace("%", "%%"),
            "command": " ".join(map(_unit_word, ["/usr/bin/env", *_locked(job)])),
            "seconds": math.ceil(job.schedule.timeout),
            "times": calendar(job),
        }
        units |= {f"g2d-{job.name}.{kind}": _filled(f"{kind}.j2", **values) for kind in ("service", "timer")}
    return units


def _filled(template: str, **values: Any) -> str:
    text = Path(__file__).with_name(template).read_text(encoding="utf-8")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return str(Template(text, undefined=StrictUndefined, **options).render(values))


def _unit_word(word: str) -> str:
    """A word of a command, quoted for systemd."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(escaped) & set(" \t\"'\\;") else escaped


def kubernetes(jobs: Sequence[Job], image: str, claim: str) -> str:
    """The manifests, as YAML documents."""
    text = _filled("kubernetes.yml.j2", jobs=jobs, image=image, claim=claim)
    return yaml.safe_dump_all(yaml.safe_load_all(text), sort_keys=False, allow_unicode=True).rstrip()
