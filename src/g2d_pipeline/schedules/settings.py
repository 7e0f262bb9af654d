"""The schedules of a project, as its files declare them."""

import re
from collections.abc import Iterable
from pathlib import Path

from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.catalog.parameters import parse_yaml
from g2d_pipeline.config.schedules import Schedule
from g2d_pipeline.errors import ConfigError, DataError, did_you_mean
from g2d_pipeline.explain import COMMAND_LINE, Origins, checked
from g2d_pipeline.overrides import Tree, as_text, leaves, merge
from g2d_pipeline.schedules.jobs import Job
from g2d_pipeline.studies.cells import Site
from g2d_pipeline.studies.settings import nested


def read_jobs(project: Path, env: str | None = None, *, check: bool = False) -> dict[str, Job]:
    """Name → schedule of `conf/<environment>/schedules.yml`. `check`: also resolve their overrides. Raises
    ConfigError with file, key, value and what is allowed."""
    site = Site(str(project), str(project / "conf"), env)
    loader = site.loader({})
    tree, origins = _read(loader)
    schedules = checked(dict[str, Schedule], tree, ("schedules",), origins)
    jobs = {name: Job(name, schedule, project, env) for name, schedule in schedules.items()}
    for name, job in jobs.items():
        path, dataset = ("schedules", name), job.schedule.dataset
        if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) is None:
            allowed = "lower-case letters, digits and _, 40 at most"
            raise origins.mistake(path, f"the name of a schedule, {name!r}: {allowed}")
        if dataset not in loader.datasets:
            hint = f"{did_you_mean(dataset, loader.datasets)} Known: {', '.join(loader.datasets)}"
            raise origins.mistake((*path, "dataset"), f"{name}.dataset = {dataset!r} is unknown.{hint}")
        if check:
            _check_overrides(site, job, origins)
    return jobs


def _read(loader: ProjectConfigLoader) -> tuple[Tree, Origins]:
    """The merged files, and where each key was written."""
    tree: Tree = {}
    origins = Origins()
    for file, content in loader.files("schedules"):
        parsed = parse_yaml(file, content)
        if unknown := [key for key in parsed if key != "schedules"]:
            raise ConfigError(f"{file}: unknown key '{unknown[0]}': it should hold 'schedules:' alone")
        section = parsed.get("schedules") or {}
        if not isinstance(section, dict) or not all(isinstance(s, dict) for s in section.values()):
            raise ConfigError(f"{file}: 'schedules:' should hold names, with dataset, cron, … below each")
        for path, _ in leaves(section):
            origins.entries.extend((file, ("schedules", *path[:depth])) for depth in range(len(path) + 1))
        for name, settings in section.items():
            notify = settings.get("notify")
            variable = str(notify.get("webhook_env", "")) if isinstance(notify, dict) else ""
            if "/" in variable:  # not shown: an address is a secret
                raise ConfigError(
                    f"{file}: {name}.notify.webhook_env holds an address: write the name of an environment "
                    "variable that holds it, since an address is a secret"
                )
        merge(tree, section)
    return tree, origins


def _check_overrides(site: Site, job: Job, origins: Origins) -> None:
    """Raise ConfigError for overrides that a run would refuse. (Raw data may come later.)"""
    file = origins.find(("schedules", job.name, "overrides"))
    for path, value in leaves(job.schedule.overrides):
        if "," in as_text(value):
            key = ".".join(path)
            raise ConfigError(f"{file}: {job.name}.overrides: {key} = {value!r}: no value has a comma")
    try:
        _ = site.loader({"dataset": job.schedule.dataset} | nested(job.schedule.overrides)).configuration
    except DataError:
        return
    except ConfigError as error:
        text = str(error).replace(f"{COMMAND_LINE}: ", f"{file}: {job.name}.overrides: ")
        raise ConfigError(text) from error


def select(jobs: dict[str, Job], names: Iterable[str] = ()) -> list[Job]:
    """The jobs of these names; none named: the active ones. Raises ConfigError for unknown names."""
    chosen = []
    for name in names:
        if name not in jobs:
            known = f"{did_you_mean(name, jobs)} Known: {', '.join(jobs)}"
            raise ConfigError(f"unknown schedule '{name}'.{known}")
        chosen.append(jobs[name])
    chosen = chosen or [job for job in jobs.values() if job.schedule.active]
    if not chosen:
        raise ConfigError("no schedule is active: name one, or set its active: true in schedules.yml")
    return chosen
