"""The command line: Kedro's own, with a `run` that skips what is fresh and says mistakes in one line."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS
from kedro.io import DatasetError

from g2d_pipeline.errors import G2DError, InterruptedRun
from g2d_pipeline.progress import rich_logs

for variable in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "KEDRO_DISABLE_TELEMETRY"):
    os.environ.setdefault(variable, "1")


@click.group(context_settings=CONTEXT_SETTINGS, name=__file__)
def cli() -> None:
    """Commands of this project."""


def run(**arguments: Any) -> Any:
    """Run a pipeline: up to and including the stage named, skipping what is fresh (--params rebuild=true
    forces)."""
    callback = kedro_run.callback
    if callback is None:
        raise click.ClickException("this version of kedro has no run command")
    if sys.stdout.isatty():
        rich_logs()
    debug = bool((arguments.get("params") or {}).get("debug"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Option '--pipeline' is deprecated")
        try:
            return callback(**arguments)
        except KeyboardInterrupt:
            click.secho(
                "\nStopped by Ctrl-C. What is whole is kept; the same command goes on from there.", err=True
            )
            sys.exit(130)
        except (G2DError, OSError, DatasetError) as error:
            cause: BaseException | None = error  # the mistake under Kedro's wrapping
            while cause is not None and not isinstance(cause, G2DError | OSError):
                cause = cause.__cause__ or cause.__context__
            if debug or cause is None:
                raise
            if isinstance(cause, InterruptedRun):
                click.secho(str(cause), fg="yellow", err=True)
                sys.exit(cause.exit_status)
            hint = "" if isinstance(cause, G2DError) else " (--params debug=true shows where)"
            click.secho(f"Error: {cause}{hint}", fg="red", err=True)
            sys.exit(getattr(cause, "exit_status", 1))


def _options() -> list[click.Parameter]:
    """Kedro's options, with `--only-missing-outputs` on by default."""
    options = list(kedro_run.params)
    for option in options:
        if option.name == "only_missing_outputs":
            option.default = True
        elif option.name == "params":
            option.callback = _refuse_lost(option.callback)
    return options


class LostParameter(click.ClickException):
    """Of two parameters one would replace the other."""

    exit_code = 2


def _refuse_lost(parse: Any) -> Any:
    """Kedro's callback for --params, refusing what it would lose: `fusion=film,fusion.width=8` keeps the
    width alone."""

    def callback(context: click.Context, option: click.Parameter, value: Any) -> Any:
        items = [item.partition("=") for item in value.split(",")] if isinstance(value, str) else []
        words = {key.strip(): word.strip() for key, _, word in items}
        for key in words:
            above = next((k for k in words if key.startswith(f"{k}.")), None)
            if above is not None:
                tag = "column" if above.rpartition(".")[2] == "split" else "name"
                raise LostParameter(
                    f"--params: {above}={words[above]} and {key}={words[key]}: one would replace the other. "
                    f"Say {above}.{tag}={words[above]} beside it."
                )
        return parse(context, option, value)

    return callback


cli.add_command(click.Command("run", callback=run, params=_options(), help=run.__doc__))
