"""MLflow's registry: a model a data set, its versions, and the aliases champion, challenger and previous."""

import logging
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from g2d_pipeline import __version__
from g2d_pipeline.config.retrain import RegistrySettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import locked
from g2d_pipeline.serving import registered
from g2d_pipeline.serving.registered import CODE, HOME, SQLITE, RegistryReader, Version

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
MODEL = "model"  # the folder of a run's artifacts that holds the version's files
LONGEST = 6000  # characters of a parameter, MLflow's limit
BATCH = 100  # parameters in one request, MLflow's limit
ABANDONED = 86400.0  # seconds after which a run that still registers counts as killed


class Registry(RegistryReader):
    """The registry of a project; MLflow is imported when something is written, or another registry than
    SQLite is read. What fails in MLflow is a DataError of one line."""

    def __init__(self, settings: RegistrySettings, project: Path) -> None:
        super().__init__(registered.registry_uri(settings.uri, project))
        self.settings, self.project = settings, project

    def require(self, dataset: str, version: str | int) -> Version:
        """The version with an alias or a number; DataError if there is none."""
        if (registered_version := self.get(dataset, version)) is not None:
            return registered_version
        versions = self.versions(dataset)
        known = "; ".join(f"{v.number}{''.join(f' @{a}' for a in v.aliases)}" for v in versions[:5])
        raise DataError(
            f"{dataset} has no version {version} in {registered.redacted(self.uri)}. Known: "
            f"{known or 'none'}{' …' if len(versions) > 5 else ''}."
        )

    def metrics(self, version: Version) -> dict[str, float]:
        """The metrics that were logged with a version."""
        with registered.using_mlflow(self.uri) as client:
            return dict(client.get_run(version.run).data.metrics) if version.run else {}

    # ----------------------------------------------------------------------------------------------- writing
    def register(
        self,
        dataset: str,
        folder: Path,
        *,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float],
        artifacts: Sequence[Path] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Log a run and register a model's `folder` as a new version, the `challenger`.

        `parameters`: a tree, of which each value is logged under its dotted path; `artifacts`: files that the
        run shows beside the model. The version appears when all its files are there, the alias is set last;
        when anything fails before, neither stays. Raises DataError and OSError."""
        tags = {str(key): str(value) for key, value in (tags or {}).items()}
        with self._writing(dataset) as client:
            experiment = self._experiment(client, dataset)
            run = client.create_run(experiment, run_name=str(tags.get("method", dataset)), tags=tags).info
            number = None
            try:
                _log_model(client, run.run_id, folder)
                for path in artifacts:
                    client.log_artifact(run.run_id, str(path))
                _log_values(client, run.run_id, parameters, metrics)
                client.set_terminated(run.run_id)
                source = f"{run.artifact_uri.rstrip('/')}/{MODEL}"
                version = client.create_model_version(dataset, source, run_id=run.run_id, tags=tags)
                number = int(version.version)
                client.set_registered_model_alias(dataset, CHALLENGER, str(number))
            except BaseException:
                _discard(client, dataset, number, run.run_id)
                raise
        return self.require(dataset, number)

    def promote(self, dataset: str, number: int) -> None:
        """Make a version the champion; the champion so far becomes `previous`, and the alias challenger goes.
        Idempotent: a promotion that was killed on its way may be repeated."""
        self.require(dataset, number)
        with self._writing(dataset) as client:
            champion = self.get(dataset, CHAMPION)
            if champion is None or champion.number != number:
                if champion is not None:
                    client.set_registered_model_alias(dataset, PREVIOUS, str(champion.number))
                client.set_registered_model_alias(dataset, CHAMPION, str(number))
            if self.get(dataset, CHALLENGER) is not None:
                client.delete_registered_model_alias(dataset, CHALLENGER)

    def rollback(self, dataset: str) -> Version:
        """Exchange champion and previous, and return the new champion: a second rollback undoes the first.
        Raises DataError if there is no previous version."""
        with self._writing(dataset) as client:
            champion, previous = self.get(dataset, CHAMPION), self.get(dataset, PREVIOUS)
            if previous is None or champion is None or previous.number == champion.number:
                raise DataError(
                    f"{dataset} has no previous version to go back to. `kedro models history --dataset "
                    f"{dataset}` shows all; `kedro models promote <version>` takes any."
                )
            client.set_registered_model_alias(dataset, CHAMPION, str(previous.number))
            client.set_registered_model_alias(dataset, PREVIOUS, str(champion.number))
        return self.require(dataset, CHAMPION)

    def tag(self, dataset: str, number: int, **tags: str) -> None:
        """Set tags of a version, such as `outcome`."""
        with self._writing(dataset) as client:
            for key, value in tags.items():
                client.set_model_version_tag(dataset, str(number), key, str(value))

    def prune(self, dataset: str) -> list[Version]:
        """Delete the versions without an alias beyond the newest `keep_last`, with their files and runs, and
        the leftovers of killed registrations; returns the deleted versions."""
        if self.settings.keep_last is None:
            return []
        with self._writing(dataset) as client:
            old = [v for v in self.versions(dataset) if not v.aliases][self.settings.keep_last :]
            for version in old:
                _discard(client, dataset, version.number, version.run)
            experiment = client.get_experiment_by_name(dataset)
            running = "attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], running) if experiment else ():
                if time.time() - run.info.start_time / 1000 > ABANDONED:
                    _discard(client, dataset, None, run.info.run_id)
        return old

    @contextmanager
    def _writing(self, dataset: str) -> Iterator[Any]:
        """MLflow's client; in this project, one writer a data set at a time."""
        (self.project / HOME).mkdir(parents=True, exist_ok=True)
        with (
            registered.using_mlflow(self.uri) as client,
            locked(self.project / HOME / dataset, wait=True),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield client

    def _experiment(self, client: Any, dataset: str) -> str:
        """The id of the data set's experiment; it and the registered model are made if they are missing."""
        if not client.search_registered_models(f"name = '{dataset}'"):
            client.create_registered_model(dataset)
        if (experiment := client.get_experiment_by_name(dataset)) is not None:
            if experiment.lifecycle_stage != "active":
                client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        location = self.settings.artifacts
        if location is None and self.uri.startswith(SQLITE):
            location = str(Path(self.uri.removeprefix(SQLITE)).parent / "artifacts")
        if location is not None and "://" not in location:
            location = (self.project / Path(location).expanduser()).resolve().as_uri()
        return str(client.create_experiment(dataset, location and f"{location.rstrip('/')}/{dataset}"))


def _log_model(client: Any, run: str, folder: Path) -> None:
    """Log a model's folder in the form that MLflow loads, verified as it is when it is read."""
    import mlflow

    with tempfile.TemporaryDirectory(prefix="g2d-version-") as scratch:
        saved = Path(scratch) / MODEL
        requirements = [f"g2d-pipeline=={__version__}"]
        artifacts = {"model": str(folder)}
        mlflow.pyfunc.save_model(
            saved, python_model=str(CODE), artifacts=artifacts, pip_requirements=requirements
        )
        registered.verify(saved)
        client.log_artifacts(run, str(saved), MODEL)


def _log_values(client: Any, run: str, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    import pandas as pd
    from mlflow.entities import Metric, Param

    def key(name: str) -> str:
        """A name with the characters that MLflow allows."""
        return re.sub(r"[^\w\-. /:]", "_", name)[:250]

    timestamp = int(time.time() * 1000)
    flat = pd.json_normalize(dict(parameters)).to_dict("records")[0] if parameters else {}
    params = [Param(key(str(name)), str(value)[:LONGEST]) for name, value in flat.items()]
    values = [Metric(key(name), float(value), timestamp, 0) for name, value in metrics.items()]
    for start in range(0, max(len(params), len(values)), BATCH):
        part = slice(start, start + BATCH)
        client.log_batch(run, metrics=values[part], params=params[part])


def _discard(client: Any, dataset: str, number: int | None, run: str) -> None:
    """Delete a version (None: it was not created) and its run with all files."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if number is not None:
        client.delete_model_version(dataset, str(number))
    if not run:
        return
    uri = client.get_run(run).info.artifact_uri.removesuffix("/artifacts")
    client.delete_run(run)
    try:
        get_artifact_repository(uri).delete_artifacts()  # type: ignore[no-untyped-call]
    except NotImplementedError:
        logger.warning("%s can not be deleted through MLflow: delete it by hand.", registered.redacted(uri))
