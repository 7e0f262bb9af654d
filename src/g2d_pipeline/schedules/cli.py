"""`kedro schedule`: start Dagster, run a schedule once, or write it for cron, systemd and Kubernetes."""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from kedro.utils import find_kedro_project

from g2d_pipeline.errors import G2DError
from g2d_pipeline.files import atomic_write
from g2d_pipeline.schedules import files
from g2d_pipeline.schedules.jobs import Job
from g2d_pipeline.schedules.server import start
from g2d_pipeline.schedules.settings import read_jobs, select


@click.group("schedule")
@click.option("--env", "-e", default=None, help="Kedro's environment, such as prod.")
@click.pass_context
def schedule(context: click.Context, env: str | None) -> None:
    """Retrain on a schedule (conf/base/schedules.yml): by Dagster, cron, systemd or Kubernetes."""
    context.obj = env or os.getenv("KEDRO_ENV")


def _project() -> Path:
    return Path(find_kedro_project(Path.cwd()) or Path.cwd()).resolve()


def _command(function: Callable[..., int | None]) -> Callable[..., None]:
    """A command that gets the jobs first; mistakes are one line, the exit status is theirs or its own."""

    @wraps(function)
    def command(context: click.Context, **arguments: Any) -> None:
        try:
            jobs = read_jobs(_project(), context.obj, check=True)
            sys.exit(function(jobs, **arguments) or 0)
        except (G2DError, OSError) as error:
            click.secho(f"Error: {error}", fg="red", err=True)
            sys.exit(getattr(error, "exit_status", 1))

    decorated: Callable[..., None] = click.pass_context(command)
    return decorated


NAMES = click.argument("names", nargs=-1)


@schedule.command("list")
@_command
def list_(jobs: dict[str, Job]) -> None:
    """Show the schedules."""
    click.echo(files.table(jobs))


@schedule.command("start")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@_command
def start_(jobs: dict[str, Job], port: int) -> int:
    """Start Dagster with these schedules on this machine, and say its address; Ctrl-C ends it."""
    return start(_project(), jobs, port, click.echo)


@schedule.command("run")
@click.argument("name")
@_command
def run_(jobs: dict[str, Job], name: str) -> int:
    """Run a schedule once, now, without Dagster: with its retries, time limit and notifications."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the command ends with it
    return files.run_once(select(jobs, [name])[0], click.echo)


@schedule.command("cron")
@NAMES
@_command
def cron_(jobs: dict[str, Job], names: tuple[str, ...]) -> None:
    """Print the lines of a crontab for these schedules (none named: the active ones)."""
    click.echo(files.crontab(select(jobs, names)))


@schedule.command("systemd")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@NAMES
@_command
def systemd_(jobs: dict[str, Job], folder: Path, names: tuple[str, ...]) -> None:
    """Write a service and a timer of systemd for each schedule into FOLDER (~/.config/systemd/user)."""
    for name, text in files.systemd(select(jobs, names)).items():
        with atomic_write(folder.expanduser() / name) as file:
            file.write_text(text, encoding="utf-8")
        click.echo(folder / name)


@schedule.command("kubernetes")
@click.option("--image", default="g2d-pipeline:latest", show_default=True, help="The container's image.")
@click.option("--claim", default="g2d-data", show_default=True, help="The volume claim of the folder data/.")
@NAMES
@_command
def kubernetes_(jobs: dict[str, Job], names: tuple[str, ...], image: str, claim: str) -> None:
    """Print a CronJob of Kubernetes for each schedule, and the volume claim of their data."""
    click.echo(files.kubernetes(select(jobs, names), image, claim))


@schedule.command("dockerfile")
@_command
def dockerfile_(jobs: dict[str, Job]) -> None:
    """Print a Dockerfile of this project: built by `make run` and `make test`, run by no root."""
    click.echo(files.DOCKERFILE.read_text(encoding="utf-8"), nl=False)
