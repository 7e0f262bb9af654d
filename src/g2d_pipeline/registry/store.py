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
from g2d_pipeline.serving.registered import CODE, HOME, SQLITE, Version, read_versions, registry_uri

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
MODEL = "model"  # where a run keeps the version's files
LONGEST = 6000  # characters of a parameter, MLflow's limit
BATCH = 100  # parameters in one request, MLflow's limit
ABANDONED = 86400.0  # seconds after which a run that still registers was killed


class Registry:
    """The registry of a project; MLflow is imported when something is written, or another one than SQLite is
    read. What fails in MLflow is a DataError of one line."""

    def __init__(self, settings: RegistrySettings, project: Path) -> None:
        self.settings, self.project = settings, project
        self.uri = registry_uri(settings.uri, project)

    # ----------------------------------------------------------------------------------------------- reading
    def datasets(self) -> list[str]:
        """Those that have a model."""
        return registered.read_datasets(self.uri)

    def versions(self, dataset: str) -> list[Version]:
        """All versions, the newest first."""
        return read_versions(self.uri, dataset)

    def get(self, dataset: str, version: str | int) -> Version | None:
        """The version of an alias or a number; None where there is none."""
        return registered.pick(self.versions(dataset), version)

    def require(self, dataset: str, version: str | int) -> Version:
        """The same; DataError where there is none."""
        versions = self.versions(dataset)
        if (one := registered.pick(versions, version)) is not None:
            return one
        known = "; ".join(f"{v.number}{''.join(f' @{a}' for a in v.aliases)}" for v in versions[:5])
        raise DataError(
            f"{dataset} has no version {version} in {registered.shown(self.uri)}. Known: {known or 'none'}"
            f"{' …' if len(versions) > 5 else ''}."
        )

    def metrics(self, version: Version) -> dict[str, float]:
        """What was logged when it was registered."""
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

        `parameters`: a tree, of which each value is logged under its dotted path; `artifacts`: files and
        folders that the run shows beside the model. The version appears when all its files are there, the
        alias is set last; when anything fails before, neither stays. Raises DataError and OSError."""
        tags = {str(key): str(value) for key, value in (tags or {}).items()}
        with self._writing(dataset) as client:
            experiment = self._experiment(client, dataset)
            run = client.create_run(experiment, run_name=str(tags.get("method", dataset)), tags=tags)
            number = None
            try:
                with self._saved(folder) as saved:
                    client.log_artifacts(run.info.run_id, str(saved), MODEL)
                for path in artifacts:
                    log = client.log_artifacts if path.is_dir() else client.log_artifact
                    log(run.info.run_id, str(path), path.name if path.is_dir() else None)
                _log_values(client, run.info.run_id, parameters, metrics)
                client.set_terminated(run.info.run_id)
                source = f"{run.info.artifact_uri.rstrip('/')}/{MODEL}"
                made = client.create_model_version(dataset, source, run_id=run.info.run_id, tags=tags)
                number = int(made.version)
                client.set_registered_model_alias(dataset, CHALLENGER, str(number))
            except BaseException:
                self._discard(client, dataset, number, run.info.run_id)
                raise
        return self.require(dataset, number)

    def promote(self, dataset: str, number: int) -> None:
        """Make a version the champion; the champion so far is `previous`, and the alias challenger goes. The
        same again changes nothing more: a promotion that was killed on its way may be repeated."""
        self.require(dataset, number)
        with self._writing(dataset) as client:
            versions = self.versions(dataset)
            champion = registered.pick(versions, CHAMPION)
            if champion is None or champion.number != number:
                if champion is not None:
                    client.set_registered_model_alias(dataset, PREVIOUS, str(champion.number))
                client.set_registered_model_alias(dataset, CHAMPION, str(number))
            if registered.pick(versions, CHALLENGER) is not None:
                client.delete_registered_model_alias(dataset, CHALLENGER)

    def rollback(self, dataset: str) -> Version:
        """Exchange champion and previous, and return the new champion: a second rollback undoes the first.
        Raises DataError where there is no previous version."""
        self._champion_and_previous(dataset)
        with self._writing(dataset) as client:
            champion, previous = self._champion_and_previous(dataset)
            client.set_registered_model_alias(dataset, CHAMPION, str(previous.number))
            client.set_registered_model_alias(dataset, PREVIOUS, str(champion.number))
        return self.require(dataset, CHAMPION)

    def _champion_and_previous(self, dataset: str) -> tuple[Version, Version]:
        versions = self.versions(dataset)
        champion, previous = (registered.pick(versions, alias) for alias in (CHAMPION, PREVIOUS))
        if previous is None or champion is None or previous.number == champion.number:
            raise DataError(
                f"{dataset} has no previous version to go back to. `kedro models history --dataset "
                f"{dataset}` shows all; `kedro models promote <version>` takes any."
            )
        return champion, previous

    def tag(self, dataset: str, number: int, **tags: str) -> None:
        """Set tags of a version, such as `outcome`."""
        with self._writing(dataset) as client:
            for key, value in tags.items():
                client.set_model_version_tag(dataset, str(number), key, str(value))

    def prune(self, dataset: str) -> list[Version]:
        """Delete the versions of no alias beyond the newest `keep_last`, with their files and runs, and what
        killed registrations left; returns those deleted."""
        if self.settings.keep_last is None:
            return []
        with self._writing(dataset) as client:
            old = [v for v in self.versions(dataset) if not v.aliases][self.settings.keep_last :]
            for version in old:
                self._discard(client, dataset, version.number, version.run)
            experiment = client.get_experiment_by_name(dataset)
            running = "attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], running) if experiment else ():
                if time.time() - run.info.start_time / 1000 > ABANDONED:
                    self._discard(client, dataset, None, run.info.run_id)
        return old

    # --------------------------------------------------------------------------------------------------------
    @contextmanager
    def _writing(self, dataset: str) -> Iterator[Any]:
        """MLflow's client; of this project, one writer a data set at a time."""
        (self.project / HOME).mkdir(parents=True, exist_ok=True)
        with (
            registered.using_mlflow(self.uri) as client,
            locked(self.project / HOME / dataset, wait=True),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield client

    def _experiment(self, client: Any, dataset: str) -> str:
        """The experiment of the data set, and its registered model, made where they are missing."""
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

    @contextmanager
    def _saved(self, folder: Path) -> Iterator[Path]:
        """A model's folder as MLflow loads it, checked as readers check it."""
        import mlflow

        with tempfile.TemporaryDirectory(prefix="g2d-version-") as scratch:
            saved = Path(scratch) / MODEL
            mlflow.pyfunc.save_model(
                saved,
                python_model=str(CODE),
                artifacts={"model": str(folder)},
                pip_requirements=[f"g2d-pipeline=={__version__}"],
            )
            registered.verify(saved)
            yield saved

    def _discard(self, client: Any, dataset: str, number: int | None, run: str) -> None:
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
            logger.warning("%s can not be deleted through MLflow: delete it by hand.", registered.shown(uri))


def _log_values(client: Any, run: str, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    import pandas as pd
    from mlflow.entities import Metric, Param

    timestamp = int(time.time() * 1000)
    flat = pd.json_normalize(dict(parameters)).to_dict("records")[0] if parameters else {}
    params = [Param(_key(str(name)), str(value)[:LONGEST]) for name, value in flat.items()]
    values = [Metric(_key(name), float(value), timestamp, 0) for name, value in metrics.items()]
    for start in range(0, max(len(params), len(values)), BATCH):
        part = slice(start, start + BATCH)
        client.log_batch(run, metrics=values[part], params=params[part])


def _key(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
