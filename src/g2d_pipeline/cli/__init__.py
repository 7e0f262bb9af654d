"""The command line: Kedro's, with a `run` that skips what is fresh and shows mistakes in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS, KedroCliError
from kedro.io import DatasetError
from kedro.pipeline import Pipeline
from kedro.utils import load_obj

from g2d_pipeline.catalog.parameters import parse_yaml
from g2d_pipeline.cli.models import models
from g2d_pipeline.errors import (
    ConfigError,
    DataError,
    G2DError,
    InterruptedRun,
    RefusedData,
    did_you_mean,
    mistake_under,
)
from g2d_pipeline.hooks import Mistake
from g2d_pipeline.progress import rich_logs
from g2d_pipeline.schedules.cli import schedule

if TYPE_CHECKING:
    from g2d_pipeline.studies.cells import Site

CHOOSING = ("from_nodes", "to_nodes", "tags", "from_inputs", "to_outputs")
# Kedro's arguments that choose nodes, as they are typed.
SELECTIONS = {"node_names": "--nodes"} | {key: f"--{key.replace('_', '-')}" for key in CHOOSING}

for variable in ("DO_NOT_TRACK", *(f"{name}_DISABLE_TELEMETRY" for name in ("HF_HUB", "KEDRO", "MLFLOW"))):
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
    params = dict(arguments.get("params") or {})
    # An error is shown once, at the end, and without Kedro's advice on how to resume: the same command does.
    for name in ("kedro.runner", "kedro_viz.integrations.kedro"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("kedro.pipeline.node").addFilter(lambda record: record.levelno < logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Option '--pipeline' is deprecated")
        try:
            _check_selection(arguments)
            if "study" in params:
                return _run_study(arguments, params)
            if "reproduce" in params:
                return _reproduce(arguments, params)
            return callback(**arguments)
        except KedroCliError as error:
            raise OptionMistake(str(error)) from error
        except KeyboardInterrupt:
            click.secho(
                "\nStopped by Ctrl-C. What is whole is kept; the same command goes on from there.", err=True
            )
            sys.exit(130)
        except (Mistake, G2DError, OSError, DatasetError) as error:
            cause = error.error if isinstance(error, Mistake) else mistake_under(error)
            if params.get("debug") or cause is None:
                raise
            if isinstance(cause, DataError) and "retrain" in _pipelines(arguments):
                _refuse(arguments, params, cause)
            if isinstance(error, Mistake):
                raise
            if isinstance(cause, InterruptedRun):
                click.secho(str(cause), fg="yellow", err=True)
                sys.exit(cause.exit_status)
            hint = "" if isinstance(cause, G2DError) else " (--params debug=true shows where)"
            click.secho(f"Error: {cause}{hint}", fg="red", err=True)
            sys.exit(getattr(cause, "exit_status", 1))


def _run_study(arguments: dict[str, Any], params: dict[str, Any]) -> None:
    """`--params study=<name>`: a grid of runs instead of one."""
    from g2d_pipeline.studies.study import run_study

    names = sorted({*_pipelines(arguments)} - {"evaluate", "__default__"})
    typed = [f"--pipeline {name}" for name in names]
    typed += [option for key, option in SELECTIONS.items() if arguments.get(key)]
    if typed:
        options = ", ".join(typed)
        raise ConfigError(f"{options}: a study goes to its end: leave it out, or say --pipeline evaluate.")
    run_study(_site(arguments), str(params.pop("study")), params)


def _pipelines(arguments: dict[str, Any]) -> list[str]:
    return [n for n in (arguments.get("pipeline"), *(arguments.get("pipelines") or ())) if n]


def _refuse(arguments: dict[str, Any], params: dict[str, Any], error: DataError) -> NoReturn:
    """Raw data that can not even be listed are refused as by a gate: `retrain.json`, exit status 3."""
    from g2d_pipeline.retraining.outcome import outcome_file, write_outcome, write_page

    loader = _site(arguments).loader(params)
    dataset = str(params.get("dataset") or loader.default_dataset)
    content = {"dataset": dataset, "outcome": "refused", "reason": str(error)}
    write_outcome(outcome_file(loader.project, dataset), content)
    write_page(loader.project, dataset)
    click.secho(f"Error: {error}", fg="red", err=True)
    sys.exit(RefusedData.exit_status)


def _reproduce(arguments: dict[str, Any], params: dict[str, Any]) -> None:
    """`--params reproduce=<version>`: a registered version trained again, and compared."""
    from g2d_pipeline.retraining.reproduce import reproduce

    version = str(params.pop("reproduce"))
    result = reproduce(version, _site(arguments).loader(params).configuration.retrain())
    click.echo(str(result))
    if not result.identical:
        sys.exit(1)


def _site(arguments: dict[str, Any]) -> Site:
    from g2d_pipeline.studies.cells import Site

    return Site.here(arguments.get("env"), arguments.get("conf_source"))


def _check_selection(arguments: dict[str, Any]) -> None:
    """Raise ConfigError for pipelines, nodes, tags, data sets and runners that do not exist."""
    if runner := arguments.get("runner"):
        try:
            load_obj(runner, "kedro.runner")
        except (AttributeError, ImportError, ValueError) as error:
            runners = "SequentialRunner, ThreadRunner, ParallelRunner"
            raise ConfigError(f"--runner {runner}: {error}. Known: {runners}.") from error
    if arguments.get("namespaces"):
        raise ConfigError("--namespaces: no node has a namespace. Choose by --pipeline, --nodes or --tags.")
    if arguments.get("load_versions"):
        raise ConfigError(
            "--load-versions: no data set is versioned. What is used follows from the parameters: "
            "say those that it was made with."
        )
    selected = {key: list(arguments.get(key) or ()) for key in SELECTIONS}
    names = _pipelines(arguments)
    if not names and not any(selected.values()):
        return
    from g2d_pipeline.pipeline_registry import register_pipelines

    pipelines = register_pipelines()
    _refuse_unknown("--pipeline", names, pipelines)
    chosen = sum((pipelines[name] for name in names or ["__default__"]), Pipeline([]))
    nodes = [node.name for node in chosen.nodes]
    data = sorted(name for name in chosen.datasets() if not name.startswith("params:"))
    tags = sorted({tag for n in chosen.nodes for tag in n.tags})
    known = {"tags": tags, "from_inputs": data, "to_outputs": data}
    prefix = f"pipeline {' + '.join(names)} has: " if names else ""
    for key, option in SELECTIONS.items():
        _refuse_unknown(option, selected[key], known.get(key, nodes), prefix)
    try:
        chosen.filter(**{key: value or None for key, value in selected.items()})
    except ValueError:
        options = ", ".join(f"{SELECTIONS[key]} {','.join(v)}" for key, v in selected.items() if v)
        raise ConfigError(f"{options}: no node is all of this. Nodes: {', '.join(nodes)}.") from None


def _refuse_unknown(option: str, names: list[str], known: Collection[str], prefix: str = "") -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{option} {name}: there is none of this name.{did_you_mean(name, known)} "
                f"Known: {prefix}{', '.join(known)}."
            )


def _options() -> list[click.Parameter]:
    checks = {"params": _check_params, "config": lambda file: parse_yaml(file, Path(file).read_bytes())}
    options = list(kedro_run.params)
    for option in options:
        if option.name == "only_missing_outputs":
            option.default = True
        if option.callback is not None:
            option.callback = _checked(option.callback, checks.get(str(option.name)))
    return options


class OptionMistake(click.ClickException):
    """A mistake in what was typed."""

    exit_code = 2


def _checked(parse: Any, check: Callable[[str], object] | None) -> Any:
    """The callback `parse` of one of Kedro's options, after `check`; their errors are one line."""

    def callback(context: click.Context, option: click.Parameter, value: Any) -> Any:
        try:
            if check is not None and isinstance(value, str):
                check(value)
            return parse(context, option, value)
        except (ConfigError, KedroCliError) as error:
            raise OptionMistake(f"{option.opts[0]}: {' '.join(str(error).split())}") from error

    return callback


def _check_params(text: str) -> None:
    """Raise ConfigError for what is not key=value, or would be lost: `fusion=film,fusion.width=8` keeps 8."""
    items = [item.partition("=") for item in text.split(",")]
    values = {key.strip(): value.strip() for key, _, value in items}
    for key, equals, _ in items:
        if key.strip() and not equals:
            raise ConfigError(
                f"'{key.strip()}' has no '='. Items are key=value, with commas between them; "
                "the values of a list have slashes between them, such as seeds=1/2/3."
            )
    for key, above in permutations(values, 2):
        if key.startswith(f"{above}."):
            tag = "column" if above.rpartition(".")[2] == "split" else "name"
            raise ConfigError(
                f"{above}={values[above]} and {key}={values[key]}: one would replace the other. "
                f"Say {above}.{tag}={values[above]} beside it."
            )


def study(name: str, **arguments: Any) -> Any:
    """Run a study of conf/base/studies: a grid of data sets, methods, options and seeds, of which only what
    is missing is trained. The same as `kedro run --params study=NAME`."""
    return run(**arguments | {"params": {**(arguments.get("params") or {}), "study": name}})


OPTIONS, NAME = _options(), click.Argument(["name"])
cli.add_command(click.Command("run", callback=run, params=OPTIONS, help=run.__doc__))
cli.add_command(click.Command("study", callback=study, params=[NAME, *OPTIONS], help=study.__doc__))
cli.add_command(models)
cli.add_command(schedule)
