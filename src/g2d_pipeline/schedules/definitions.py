"""Dagster's definitions: a job a schedule, an op a stage, each a command of its own in the project's folder.

Fresh stages skip themselves, so that a retry goes on where the last attempt stopped. Loaded by
`dagster dev -m g2d_pipeline.schedules.definitions` in the project's folder (see `kedro schedule start`)."""
# Dagster reads annotations, not their text: no `from __future__ import annotations` here.

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from g2d_pipeline.schedules.jobs import ADDRESS, NODES, Job, Result, notify
from g2d_pipeline.schedules.settings import read_jobs

LEVEL = re.compile(r"^\S+ (WARNING|ERROR) ")


@dg.definitions
def definitions() -> dg.Definitions:
    """Those of the project in the current folder. Raises ConfigError."""
    return make_definitions(read_jobs(Path.cwd(), os.getenv("KEDRO_ENV")))


def make_definitions(jobs: Mapping[str, Job]) -> dg.Definitions:
    """A Dagster job and a schedule for each."""
    last: dict[str, Result] = {}  # run of this process → result of its last command
    ops, hooks = {stage: _op(stage, jobs, last) for stage in NODES}, _hooks(jobs, last)
    made = {name: _job(job, ops, hooks) for name, job in jobs.items()}
    schedules = [
        dg.ScheduleDefinition(
            name=f"{name}_schedule",
            job=made[name],
            cron_schedule=job.schedule.cron,
            execution_timezone=job.schedule.timezone,
            default_status=dg.DefaultScheduleStatus("RUNNING" if job.schedule.active else "STOPPED"),
        )
        for name, job in jobs.items()
    ]
    return dg.Definitions(jobs=list(made.values()), schedules=schedules)


def _job(job: Job, ops: Mapping[str, dg.OpDefinition], hooks: set[dg.HookDefinition]) -> dg.JobDefinition:
    """The stages in sequence, in the process of the run: each starts a process anyway."""
    s = job.schedule

    @dg.job(
        name=job.name,
        description=f"`{s.pipeline}` of {s.dataset}: {s.cron} ({s.timezone})",
        executor_def=dg.in_process_executor,
        tags={"dataset": s.dataset},
        config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},  # Dagster's page has all of it
        hooks=hooks,
    )
    def stages() -> None:
        done: Any = None
        for stage in job.stages:
            done = ops[stage]() if done is None else ops[stage](done)

    return stages


def _op(stage: str, jobs: Mapping[str, Job], last: dict[str, Result]) -> dg.OpDefinition:
    @dg.op(name=stage, ins={"before": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing), description=NODES[stage])
    def run_stage(context: dg.OpExecutionContext) -> dg.Output[None]:
        job = jobs[context.job_name]
        record = context.instance.get_run_record_by_id(context.run_id)
        started = (record.start_time if record else None) or time.time()

        def log(line: str) -> None:
            level = LEVEL.match(line)
            context.log.log(level[1] if level else "ERROR" if line.startswith("Error: ") else "INFO", line)

        last.pop(context.run_id, None)
        context.log.info("$ " + job.masked(" ".join(["kedro", *job.command(stage)[len(job.kedro) :]])))
        result = last[context.run_id] = job.run(stage, log, started + job.schedule.timeout - time.time())
        # No RetryPolicy: with one, Dagster tries again what was interrupted, too: nothing could be ended.
        if result.again and context.retry_number < job.schedule.retries:
            context.log.warning(f"Failed: {result.reason}")
            raise dg.RetryRequested(job.schedule.retries, job.schedule.retry_delay)
        if result.outcome in ("refused", "failed"):
            raise dg.Failure(result.reason, _metadata(result), allow_retries=False)
        return dg.Output(None, metadata=_metadata(result) if stage == job.stages[-1] else {})

    return run_stage


def _metadata(result: Result) -> dict[str, Any]:
    texts = {"outcome": result.outcome, "reason": result.reason, "version": result.version}
    report = {"report": dg.MetadataValue.path(result.report)} if result.report else {}
    return {key: text for key, text in texts.items() if text} | report


def _hooks(jobs: Mapping[str, Job], last: Mapping[str, Result]) -> set[dg.HookDefinition]:
    """Hooks that notify of the end of a run: of its last stage, or of the stage that failed for good."""

    def tell(context: dg.HookContext) -> None:
        job, page = jobs[context.job_name], os.getenv(ADDRESS)
        result = last.get(context.run_id) or Result("failed", str(context.op_exception))
        notify(job, result, context.log.warning, f"{page}/runs/{context.run_id}" if page else "")

    @dg.failure_hook(name="notify_of_failure")
    def notify_of_failure(context: dg.HookContext) -> None:
        tell(context)

    @dg.success_hook(name="notify_of_success")
    def notify_of_success(context: dg.HookContext) -> None:
        if context.op.name == jobs[context.job_name].stages[-1]:
            tell(context)

    return {notify_of_failure, notify_of_success}
