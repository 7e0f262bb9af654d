"""`kedro models`: registered versions, which one is deployed, and what lies on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import CONTEXT_SETTINGS

from g2d_pipeline.errors import G2DError

if TYPE_CHECKING:
    from g2d_pipeline.registry.disk import References
    from g2d_pipeline.registry.store import Registry
    from g2d_pipeline.serving.registered import Version


class Models(click.Group):
    """A group whose commands show users' mistakes in one line."""

    def invoke(self, context: click.Context) -> Any:
        from g2d_pipeline.hooks import Mistake

        try:
            return super().invoke(context)
        except G2DError as error:
            raise Mistake(error) from None
        except OSError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Models, context_settings=CONTEXT_SETTINGS)
def models() -> None:
    """Registered versions of the models: history, what is deployed, promotion, rollback, disk use."""


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    dataset = click.option("--dataset", "-d", help="The data set; left out: that of parameters.yml.")
    environment = click.option("--env", "-e", help="The environment of the settings, as of kedro run.")
    return dataset(environment(command))


def _loader(env: str | None, **params: Any) -> Any:
    """The configuration of the project that the working directory is in."""
    from g2d_pipeline.studies.cells import Site

    return Site.here(env).loader(params)


def _open(dataset: str | None, env: str | None) -> tuple[Registry, str]:
    from g2d_pipeline.registry.store import Registry

    loader = _loader(env)
    run = loader.configuration.run
    return Registry(run.retrain.registry, loader.project), dataset or run.dataset


def _show(rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    with pd.option_context("display.max_colwidth", None):
        click.echo(pd.DataFrame(rows).to_string(index=False))


def _row(registry: Registry, version: Version) -> dict[str, Any]:
    """A line of a table. The metric is that of the tag `metric`, else one with an interval, multimodal if
    possible."""
    metrics, tags = registry.metrics(version), version.tags
    names = sorted(metrics, key=lambda m: (f"{m}/low" not in metrics, "multi" not in m.split("/"), m))
    name = tags.get("metric") or next(iter(names), "")
    value = f"{name} {metrics[name]:.4f}" if name in metrics else ""
    if f"{name}/low" in metrics and f"{name}/high" in metrics:
        value += f" [{metrics[f'{name}/low']:.4f}, {metrics[f'{name}/high']:.4f}]"
    row = {"version": version.number, "aliases": " ".join(version.aliases), "created": version.created}
    return row | {"metric": value} | {key: tags.get(key, "") for key in ("method", "seed", "outcome")}


@models.command()
@_with_options
def history(dataset: str | None, env: str | None) -> None:
    """List the versions of a data set's model, the newest first."""
    registry, name = _open(dataset, env)
    versions = registry.versions(name)
    if not versions:
        known = ", ".join(registry.datasets())
        click.echo(f"{name} has no registered version. {f'Data sets that have: {known}' if known else ''}")
        return
    _show([_row(registry, version) for version in versions])


@models.command()
@_with_options
def deployed(dataset: str | None, env: str | None) -> None:
    """List the champion of every data set (or of one), and how it is loaded."""
    registry, _ = _open(dataset, env)
    rows = []
    for name in [dataset] if dataset else registry.datasets():
        champion = registry.get(name, "champion")
        row = _row(registry, champion) if champion else {"version": "none"}
        row.pop("aliases", None)
        rows.append({"dataset": name} | row | {"address": f"models:/{name}@champion" if champion else ""})
    if rows:
        _show(rows)
    else:
        click.echo("No model is registered.")


@models.command()
@click.argument("version", type=int)
@_with_options
def promote(version: int, dataset: str | None, env: str | None) -> None:
    """Make VERSION the champion, whatever the promotion rule says; the champion so far becomes previous."""
    registry, name = _open(dataset, env)
    registry.promote(name, version)
    click.echo(f"{name}: version {version} is the champion.")


@models.command()
@_with_options
def rollback(dataset: str | None, env: str | None) -> None:
    """Exchange champion and previous: the same again undoes it."""
    registry, name = _open(dataset, env)
    champion = registry.rollback(name)
    click.echo(f"{name}: version {champion.number} of {champion.created} is the champion again.")


@models.command()
@_with_options
def disk(dataset: str | None, env: str | None) -> None:
    """Show what takes how much room: the layers of data/, and the registry's versions."""
    from rich.filesize import decimal

    from g2d_pipeline.registry.disk import size_of, usage

    registry, _ = _open(dataset, env)
    rows = [("data/" + layer, name, size) for layer, name, size in usage(registry.project / "data")]
    for name in registry.datasets():
        for version in registry.versions(name):
            if version.source.startswith("file:"):
                place = " ".join(["registry: version", str(version.number), *version.aliases])
                rows.append((place, name, size_of(version.outer())))
    rows = [row for row in rows if dataset in (None, row[1])]
    _show([{"where": place, "dataset": name, "size": decimal(size)} for place, name, size in rows])
    total = sum(size for place, _, size in rows if not place.startswith("registry"))
    click.echo(f"{decimal(total)} under data/")


@models.command()
@click.option("--yes", is_flag=True, help="Delete; left out, what would go is only listed.")
@_with_options
def clean(yes: bool, dataset: str | None, env: str | None) -> None:
    """List, and with --yes delete, artefacts under data/ that no version with an alias, no present
    configuration, no study and no pin (a file `keep` in the folder) refers to, and old leftovers."""
    from rich.filesize import decimal

    from g2d_pipeline.registry.disk import is_busy, remove, stored

    registry, _ = _open(None, env)
    references, studies = _references(registry, dataset, env)
    data = registry.project / "data"
    artefacts = [(a, a.folder.relative_to(data).parts) for a in stored(data, references, studies)]
    artefacts = [(a, parts) for a, parts in artefacts if dataset is None or dataset in parts]
    counts = Counter(a.reason for a, _ in artefacts)
    for reason in sorted({*references.unknown.values()} & {*counts}):
        click.echo(f"{counts[reason]} folders are kept, since it can not be told what is in use: {reason}")
    unused = [(a, parts[1]) for a, parts in artefacts if not a.reason]
    busy = {name for _, name in unused if yes and is_busy(data, name)}
    for a, name in unused:
        state = ""
        if yes:
            state = "in use   " if name in busy or not remove(a) else "deleted  "
        click.echo(f"{state}{decimal(a.size):>10}  {a.folder.relative_to(registry.project)}")
    total = decimal(sum(a.size for a, _ in unused))
    hint = "" if yes or not unused else " Nothing is deleted yet: `kedro models clean --yes` does it."
    click.echo(f"{len(unused)} folders, {total}: nothing refers to them.{hint}")


def _references(registry: Registry, only: str | None, env: str | None) -> tuple[References, list[str]]:
    """What versions with an alias and the configuration of every data set (or of `only` one) use, and the
    names of the studies."""
    from g2d_pipeline.registry.disk import References
    from g2d_pipeline.stages import STAGES, PendingInputError

    references, loader, graph = References(), _loader(env), None
    for dataset in registry.datasets():
        for version in (v for v in registry.versions(dataset) if v.aliases):
            name = f"version {version.number} ({', '.join(version.aliases)}) of {dataset}"
            try:
                references.add_version(dataset, name, version.folder())
            except G2DError as error:
                references.unknown[dataset, ""] = str(error)
    for dataset in (name for name in loader.datasets if only in (None, name)):
        try:
            of_dataset = _loader(env, dataset=dataset)
            _ = of_dataset["catalog"]
        except G2DError as error:
            references.unknown[dataset, ""] = " ".join(str(error).split())
            continue
        plan = of_dataset.plan
        graph = plan.graph = graph or plan.graph
        for stage in STAGES:
            for run in plan.runs(stage):
                try:
                    references.folders[plan.folder(stage, run)] = f"the configuration of {dataset}"
                except PendingInputError as error:
                    references.unknown[dataset, stage] = str(error)
    return references, list(loader.studies())
