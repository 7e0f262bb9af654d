"""Schedules without Dagster: run once, and as lines of cron, units of systemd and CronJobs of Kubernetes."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from g2d_pipeline.config.schedules import DAYS, cron_fields
from g2d_pipeline.schedules.jobs import Job, Log
from g2d_pipeline.schedules.notify import notify

DOCKERFILE = Path(__file__).with_name("Dockerfile.j2")
SECRET = "g2d-secrets"  # Kubernetes' secret with the variables that webhook_env names
HOURS = 12  # a CronJob that could not start in time may start so much later


def run_once(job: Job, say: Log) -> int:
    """Run the schedule's command, again where it failed and may not fail again, and tell of the result. The
    exit status."""
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
    """A line a schedule."""
    if not jobs:
        return "No schedules: conf/base/schedules.yml has none."
    rows = [("schedule", "data set", "pipeline", "cron", "time zone", "active")]
    for name, job in jobs.items():
        s = job.schedule
        rows.append((name, s.dataset, s.pipeline, s.cron, s.timezone, "yes" if s.active else "no"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _locked(job: Job) -> list[str]:
    """The command of a line of cron or a unit: one at a time a data set; the next waits for it."""
    wait = str(math.ceil(job.schedule.timeout))
    env = ["env", f"KEDRO_ENV={job.env}"] if job.env else []
    lock = f"logs/{job.schedule.dataset}.lock"
    return ["flock", "--wait", wait, lock, *env, sys.executable, "-m", "kedro", "schedule", "run", job.name]


def crontab(jobs: Sequence[Job]) -> str:
    """The lines of a crontab."""
    lines = [
        "# Made by `kedro schedule cron`: put these lines into yours (crontab -e). Outputs go to logs/.",
        "# CRON_TZ is cronie's (Fedora, Arch); Debian's cron ignores it and takes the machine's time zone.",
    ]
    by_zone = sorted(jobs, key=lambda job: job.schedule.timezone)
    for zone, group in groupby(by_zone, key=lambda job: job.schedule.timezone):
        lines.append(f"CRON_TZ={zone}")
        for job in group:
            shell = f"cd {shlex.quote(str(job.project))} && mkdir -p logs && {shlex.join(_locked(job))}"
            command = f"{shell} >> logs/{job.name}.log 2>&1".replace("%", r"\%")
            lines.append(f"{job.schedule.cron} {command}")
    return "\n".join(lines)


def calendar(job: Job) -> list[str]:
    """The times of a schedule as systemd writes them: one, or two where a day of the month or a weekday will
    do."""
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
    """Name of a unit → its text: a service and a timer for each job."""
    units = {}
    for job in jobs:
        s, name = job.schedule, f"g2d-{job.name}"
        words = " ".join(map(_unit_word, ["/usr/bin/env", *_locked(job)]))
        folder = str(job.project).replace("%", "%%")
        units[f"{name}.service"] = "\n".join(
            [
                f"# Secrets (the variable of notify.webhook_env): in ~/.config/{name}.env, as NAME=value.",
                "[Unit]",
                f"Description=g2d-pipeline: {s.pipeline} of {s.dataset} ({job.name})",
                "",
                "[Service]",
                "Type=oneshot",
                f"WorkingDirectory={folder}",
                f"EnvironmentFile=-%h/.config/{name}.env",
                "ExecStartPre=/usr/bin/env mkdir -p logs",
                f"ExecStart={words}",
                f"TimeoutStartSec={2 * math.ceil(s.timeout) + 300}",
                "TimeoutStopSec=60",
                "",
            ]
        )
        times = [f"OnCalendar={time}" for time in calendar(job)]
        about = ["[Unit]", f"Description=When {name}.service runs: {s.cron} ({s.timezone})", ""]
        install = ["", "[Install]", "WantedBy=timers.target", ""]
        units[f"{name}.timer"] = "\n".join([*about, "[Timer]", *times, "Persistent=true", *install])
    return units


def _unit_word(word: str) -> str:
    """A word of a command as systemd reads it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(escaped) & set(" \t\"'\\;") else escaped


def kubernetes(jobs: Sequence[Job], image: str, claim: str) -> str:
    """The manifests, as YAML documents."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}},
    }
    documents = [volume, *(_cron_job(job, image, claim) for job in jobs)]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True).rstrip()


def _cron_job(job: Job, image: str, claim: str) -> dict[str, Any]:
    s, variables = job.schedule, list[dict[str, Any]]()
    if job.env:
        variables.append({"name": "KEDRO_ENV", "value": job.env})
    if s.notify and (key := s.notify.webhook_env):
        variables.append({"name": key, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}})
    container = {
        "name": "retrain",
        "image": image,
        "args": ["schedule", "run", job.name],
        **({"env": variables} if variables else {}),
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/project/data"}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,  # training saves its state
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    evicted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    task = {
        "backoffLimit": 0,  # the command has retries of its own
        "activeDeadlineSeconds": math.ceil(s.timeout) + 300,
        "podFailurePolicy": {"rules": [evicted]},  # a node that is drained is no failure: it starts again
        "template": {"metadata": {"labels": {"dataset": s.dataset}}, "spec": pod},
    }
    spec = {
        "schedule": s.cron,
        "timeZone": s.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": HOURS * 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": task},
    }
    metadata = {"name": f"g2d-{job.name.replace('_', '-')}", "labels": {"app": "g2d-pipeline"}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}
