"""Registered models, to be read: which versions there are, and the folder that `load_model` takes.

An SQLite registry is read directly, in milliseconds and without MLflow; any other one through its client,
which takes seconds to import."""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import yaml

from g2d_pipeline.errors import ConfigError, DataError, did_you_mean
from g2d_pipeline.files import atomic_folder, content_hash, fingerprint

HOME = Path("data/09_registry")
DATABASE = HOME / "mlflow.db"
CODE = Path(__file__).parents[1] / "registry" / "pyfunc.py"
EARLIER: frozenset[str] = frozenset()  # the hashes of that file in earlier releases
LOADER, SQLITE = "mlflow.pyfunc.loaders.code_model", "sqlite:///"
ADDRESS = re.compile(r"models:/+(?P<dataset>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")
BUSY = 60.0  # seconds that a reader of SQLite waits for a writer
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
VERSIONS = """
WITH a AS (SELECT version, json_group_array(alias) AS aliases
           FROM registered_model_aliases WHERE name = ?1 GROUP BY version),
     t AS (SELECT version, json_group_object(key, value) AS tags
           FROM model_version_tags WHERE name = ?1 GROUP BY version)
SELECT version, aliases, creation_time, tags, coalesce(nullif(storage_location, ''), source), run_id
FROM model_versions LEFT JOIN a USING (version) LEFT JOIN t USING (version)
WHERE name = ?1 AND current_stage != 'Deleted_Internal' ORDER BY version DESC
"""


@dataclass(frozen=True)
class Version:
    """A version of the model of a data set. `created`: ISO, UTC; `source`: where MLflow keeps its files;
    `run`: the run that logged it; `uri`: of the registry."""

    dataset: str
    number: int
    aliases: tuple[str, ...]
    created: str
    tags: dict[str, str]
    source: str
    run: str = ""
    uri: str = field(default="", repr=False)

    def folder(self) -> Path:
        """The folder that `load_model` reads: on this machine, downloaded if it lies elsewhere. Raises
        DataError if it is gone, or holds other code than ours."""
        return verify(self.outer())

    def outer(self) -> Path:
        """The folder around it that MLflow loads, unchecked."""
        if (local := local_path(self.source)) is not None:
            if not local.is_dir():
                gone = f"Version {self.number} of {self.dataset}: its folder {local} is gone."
                raise DataError(f"{gone} Copy it back, or train it again.")
            return local
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "g2d_pipeline" / "models"
        path = cache / f"{self.dataset}-{self.number}-{fingerprint([self.uri, self.source])}"
        if not path.is_dir():
            with using_mlflow(self.uri), atomic_folder(path) as new:
                from mlflow.artifacts import download_artifacts

                download_artifacts(artifact_uri=self.source, dst_path=str(new), tracking_uri=self.uri)
        return next((file.parent for file in path.glob("**/MLmodel")), path)


class RegistryReader:
    """The registry at the address `uri`. Raises DataError if it can not be read."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def datasets(self) -> list[str]:
        """The data sets that have a registered model."""
        if self.uri.startswith(SQLITE):
            return [name for (name,) in self._query("SELECT name FROM registered_models ORDER BY name")]
        with using_mlflow(self.uri) as client:
            return [model.name for model in _pages(client.search_registered_models)]

    def versions(self, dataset: str) -> list[Version]:
        """All versions of a data set's model, the newest first; in SQLite from one snapshot."""
        if self.uri.startswith(SQLITE):
            rows = [
                (n, json.loads(aliases or "[]"), created, json.loads(tags or "{}"), source, run)
                for n, aliases, created, tags, source, run in self._query(VERSIONS, dataset)
            ]
        elif "'" in dataset:
            return []
        else:
            rows = self._ask_versions(dataset)
        return [
            Version(
                dataset, int(n), tuple(sorted(aliases)),
                datetime.fromtimestamp(created / 1000, UTC).isoformat(timespec="seconds"), tags, source,
                run or "", self.uri,
            )
            for n, aliases, created, tags, source, run in rows
        ]  # fmt: skip

    def get(self, dataset: str, version: str | int) -> Version | None:
        """The version with an alias or a number; None if there is none."""
        return next((v for v in self.versions(dataset) if str(version) in (str(v.number), *v.aliases)), None)

    def _query(self, query: str, *values: str) -> list[Any]:
        database = Path(self.uri.removeprefix(SQLITE))
        if not database.is_file():
            return []
        address = f"file:{quote(str(database.absolute()))}?mode=rw"  # rw: rolls a killed writer back
        try:
            with closing(sqlite3.connect(address, BUSY, uri=True)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DataError(
                f"The registry {database} can not be read ({error}). If another version of MLflow made it: "
                f"mlflow db upgrade {SQLITE}{database}"
            ) from error

    def _ask_versions(self, dataset: str) -> list[Any]:
        query = f"name = '{dataset}'"
        with using_mlflow(self.uri) as client:
            aliases = [pair for m in client.search_registered_models(query) for pair in m.aliases.items()]
            rows = [
                (
                    int(v.version), [alias for alias, n in aliases if int(n) == int(v.version)],
                    v.creation_timestamp, dict(v.tags),
                    client.get_model_version_download_uri(dataset, v.version), v.run_id,
                )
                for v in _pages(client.search_model_versions, filter_string=query)
            ]  # fmt: skip
        return sorted(rows, key=lambda row: -row[0])


def registry_uri(configured: str | None = None, project: Path | None = None) -> str:
    """`configured`, else `MLFLOW_TRACKING_URI`, else SQLite in `project`; without one: in the working
    directory, or the nearest folder above it that has one (DataError: none has). A relative path that is
    configured starts at the project."""
    if configured and project and configured.startswith(SQLITE):
        return f"{SQLITE}{(project / configured.removeprefix(SQLITE)).as_posix()}"
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if project is None:
        here = Path.cwd()
        project = next((folder for folder in (here, *here.parents) if (folder / DATABASE).is_file()), None)
        if project is None:
            raise DataError(
                f"There is no registry {DATABASE} in {here} or a folder above it. Go to the project's "
                "folder, or set MLFLOW_TRACKING_URI."
            )
    return f"{SQLITE}{(project / DATABASE).resolve().as_posix()}"


def local_path(address: str) -> Path | None:
    """The path of a `file:` address or a plain path; None for another scheme."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(address) if len(parts.scheme) <= 1 else None  # one letter is a drive of Windows


def registered_folder(address: str) -> Path:
    """The folder of `models:/<dataset>@<alias>` or `models:/<dataset>/<number>`. Raises ConfigError for
    another form, DataError if there is no such version."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(f"{address}: allowed are models:/<dataset>@champion and models:/<dataset>/<number>")
    registry, dataset = RegistryReader(registry_uri()), match["dataset"]
    if version := registry.get(dataset, match["alias"] or int(match["number"])):
        return version.folder()
    if not (versions := registry.versions(dataset)):
        names = sorted(registry.datasets())
        known = f"Known: {', '.join(names)}." if names else "It is empty."
        raise DataError(
            f"{address}: the registry {redacted(registry.uri)} has no model {dataset!r}."
            f"{did_you_mean(dataset, names)} {known}"
        )
    aliases = ", ".join(sorted({alias for v in versions for alias in v.aliases})) or "none"
    numbers = ", ".join(str(v.number) for v in versions[:5]) + (", …" if len(versions) > 5 else "")
    raise DataError(f"{address}: there is no such version. Aliases: {aliases}; versions: {numbers}.")


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """All results of a search of MLflow's client."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        if not (token := page.token):
            return


@contextmanager
def using_mlflow(uri: str) -> Iterator[Any]:
    """A client of MLflow, without its log and telemetry; MLflow's exceptions become a DataError of one line.
    Raises ConfigError if MLflow is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        remedy = "pip install 'g2d-pipeline[retrain]'"
        raise ConfigError(f"The registry {redacted(uri)} needs MLflow: {remedy}") from None
    levels = {logger: logger.level for logger in map(logging.getLogger, ("alembic", "mlflow"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        message = redacted(" ".join(str(error).partition("[SQL")[0].split()))[:400]
        raise DataError(f"The registry {redacted(uri)}: {message}") from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def redacted(text: str) -> str:
    """A text without the passwords of addresses in it."""
    return re.sub(r"://[^/\s@]*@", "://***@", text)


def verify(outer: Path) -> Path:
    """The model's folder in what MLflow saved. Raises DataError unless MLflow, too, would execute nothing
    but our own `pyfunc.py`, and read nothing outside."""
    file = outer / "MLmodel"
    try:
        about = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"]["python_function"]
        paths = {name: str(artifact["path"]) for name, artifact in about["artifacts"].items()}
        code = os.path.basename(about["model_code_path"])  # noqa: PTH119 - as MLflow reads it
        loaded = [about["loader_module"], about.get("code"), "python_model" in about, code, list(paths)]
    except FileNotFoundError:
        raise DataError(f"{file} is missing. Copy the whole folder, or train again.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as e:
        reason = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
        raise DataError(f"{file} is damaged ({reason}). Copy the whole folder, or train again.") from None
    if loaded != [LOADER, None, False, CODE.name, ["model"]]:
        raise DataError(f"{file} loads other code than {CODE.name} of this package: it is refused.")
    folder = outer / paths["model"]
    if outer.resolve() not in folder.resolve().parents or not folder.is_dir():
        raise DataError(f"{file}: {paths['model']!r} is no folder in {outer}: it is refused.")
    if content_hash(outer / code) not in {content_hash(CODE), *EARLIER}:
        raise DataError(f"{outer / code} is not that of this package: it is refused, and not executed.")
    return folder
