"""Registered models, to be read: which versions there are, and the folder that `load_model` takes.

An SQLite registry is read directly, in milliseconds and without MLflow; any other one through its client,
which takes seconds to import."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
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
LOADER, DELETED, SQLITE = "mlflow.pyfunc.loaders.code_model", "Deleted_Internal", "sqlite:///"
ADDRESS = re.compile(r"models:/+(?P<dataset>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")
BUSY = 60.0  # seconds that a reader of SQLite waits for a writer
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
}


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
        """The folder that `load_model` reads: on this machine, downloaded where it lies elsewhere. Raises
        DataError where it is gone, or holds other code than ours."""
        return verify(self.outer())

    def outer(self) -> Path:
        """The folder around it that MLflow loads, unchecked."""
        address = urlsplit(self.source)
        if address.scheme == "file" or len(address.scheme) <= 1:
            path = Path(url2pathname(address.path) if address.scheme else self.source)
            if not path.is_dir():
                raise DataError(
                    f"Version {self.number} of {self.dataset}: its folder {path} is gone. Copy it back, "
                    "or train it again."
                )
            return path
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "g2d_pipeline" / "models"
        path = cache / f"{self.dataset}-{self.number}-{fingerprint([self.uri, self.source])}"
        if not path.is_dir():
            with using_mlflow(self.uri), atomic_folder(path) as new:
                import mlflow

                mlflow.artifacts.download_artifacts(
                    artifact_uri=self.source, dst_path=str(new), tracking_uri=self.uri
                )
        return next((file.parent for file in path.glob("**/MLmodel")), path)


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


def registered_folder(address: str) -> Path:
    """The folder of `models:/<dataset>@<alias>` or `models:/<dataset>/<number>`. Raises ConfigError for
    another form, DataError where there is no such version."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(f"{address}: allowed are models:/<dataset>@champion and models:/<dataset>/<number>")
    uri, dataset = registry_uri(), match["dataset"]
    versions = read_versions(uri, dataset)
    if version := pick(versions, match["alias"] or int(match["number"])):
        return version.folder()
    if not versions:
        names = sorted(read_datasets(uri))
        known = f"Known: {', '.join(names)}." if names else "It is empty."
        raise DataError(
            f"{address}: the registry {shown(uri)} has no model {dataset!r}."
            f"{did_you_mean(dataset, names)} {known}"
        )
    aliases = sorted({alias for v in versions for alias in v.aliases})
    numbers = ", ".join(str(v.number) for v in versions[:5]) + (", …" if len(versions) > 5 else "")
    raise DataError(
        f"{address}: there is no such version. Aliases: {', '.join(aliases) or 'none'}; versions: {numbers}."
    )


def pick(versions: list[Version], wanted: str | int) -> Version | None:
    """The version of an alias or a number."""
    if isinstance(wanted, int) or wanted.isdigit():
        return next((v for v in versions if v.number == int(wanted)), None)
    return next((v for v in versions if wanted in v.aliases), None)


def read_versions(uri: str, dataset: str) -> list[Version]:
    """All versions of a data set's model, the newest first; one moment's, in SQLite."""
    if (database := _database(uri)) is None:
        return _ask_versions(uri, dataset)
    source = "FROM {} WHERE name = ?"
    queries = {
        "versions": f"SELECT version, creation_time, source, storage_location, run_id "
        f"{source.format('model_versions')} AND current_stage != '{DELETED}' ORDER BY version DESC",
        "aliases": f"SELECT version, alias {source.format('registered_model_aliases')} ORDER BY alias",
        "tags": f"SELECT version, key, value {source.format('model_version_tags')}",
    }
    rows = {name: [] for name in queries} if not database.is_file() else _query(database, queries, dataset)
    aliases, tags = dict[int, list[str]](), dict[int, dict[str, str]]()
    for number, alias in rows["aliases"]:
        aliases.setdefault(int(number), []).append(alias)
    for number, key, value in rows["tags"]:
        tags.setdefault(int(number), {})[key] = value
    return [
        Version(
            dataset, int(n), tuple(aliases.get(int(n), ())), _iso(created), tags.get(int(n), {}),
            location or source, run or "", uri,
        )
        for n, created, source, location, run in rows["versions"]
    ]  # fmt: skip


def read_datasets(uri: str) -> list[str]:
    """The data sets that have a registered model."""
    if (database := _database(uri)) is None:
        with using_mlflow(uri) as client:
            return [model.name for model in _pages(client.search_registered_models)]
    if not database.is_file():
        return []
    return [
        name for (name,) in _query(database, {"": "SELECT name FROM registered_models ORDER BY name"})[""]
    ]


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _query(database: Path, queries: Mapping[str, str], *values: str) -> dict[str, list[Any]]:
    """The rows of each query, of one moment. Raises DataError for a file that is no registry of MLflow's."""
    file = f"file:{quote(str(database.absolute()))}?mode=rw"  # what a killed writer left is rolled back
    try:
        with closing(sqlite3.connect(file, BUSY, isolation_level=None, uri=True)) as connection:
            connection.execute("BEGIN")
            return {name: connection.execute(query, values).fetchall() for name, query in queries.items()}
    except sqlite3.Error as error:
        raise DataError(
            f"The registry {database} can not be read ({error}). If another version of MLflow made it: "
            f"mlflow db upgrade {SQLITE}{database}"
        ) from error


def _ask_versions(uri: str, dataset: str) -> list[Version]:
    with using_mlflow(uri) as client:
        names = client.search_registered_models(f"name = '{dataset}'") if "'" not in dataset else []
        if not names:
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in names[0].aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        versions = [
            Version(
                dataset, int(v.version), tuple(sorted(aliases.get(str(v.version), ()))),
                _iso(v.creation_timestamp), dict(v.tags),
                client.get_model_version_download_uri(dataset, v.version), v.run_id or "", uri,
            )
            for v in _pages(client.search_model_versions, filter_string=f"name = '{dataset}'")
        ]  # fmt: skip
        return sorted(versions, key=lambda v: -v.number)


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        if not (token := page.token):
            return


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


@contextmanager
def using_mlflow(uri: str) -> Iterator[Any]:
    """A client of MLflow, without its chatter and telemetry; what MLflow raises becomes a DataError in one
    line. Raises ConfigError where MLflow is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise ConfigError(
            f"The registry {shown(uri)} needs MLflow: pip install 'g2d-pipeline[retrain]'"
        ) from None
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        words = shown(" ".join(str(error).partition("[SQL")[0].split()))[:400]
        raise DataError(f"The registry {shown(uri)}: {words}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def shown(text: str) -> str:
    """A text without the passwords of addresses in it."""
    return re.sub(r"://[^/\s@]*@", "://***@", text)


# ----------------------------------------------------------------------------------------- a version's folder
def verify(outer: Path) -> Path:
    """The model's folder in what MLflow saved. Raises DataError unless MLflow, too, would execute nothing
    but our own `pyfunc.py`, and read nothing outside."""
    file = outer / "MLmodel"
    try:
        about = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"]["python_function"]
        inside = [str(part["path"]) for part in about["artifacts"].values()]
        code = os.path.basename(about["model_code_path"])  # noqa: PTH119 - as MLflow reads it
        loaded = {"loader_module": about["loader_module"], "code": about.get("code")}
        expected = "python_model" not in about and list(about["artifacts"]) == ["model"]
    except FileNotFoundError:
        raise DataError(f"{file} is missing. Copy the whole folder, or train again.") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as e:
        words = " ".join(str(e).split())[:200]
        raise DataError(
            f"{file} is damaged ({type(e).__name__}: {words}). Copy the whole folder, or train again."
        ) from None
    folder = outer / inside[0] if inside else outer
    if not expected or loaded != {"loader_module": LOADER, "code": None} or code != CODE.name:
        raise DataError(f"{file} loads other code than {CODE.name} of this package: it is refused.")
    if outer.resolve() not in folder.resolve().parents or not folder.is_dir():
        raise DataError(f"{file}: {inside[0]!r} is no folder in {outer}: it is refused.")
    if content_hash(outer / code) not in {content_hash(CODE), *EARLIER}:
        raise DataError(f"{outer / code} is not that of this package: it is refused, and not executed.")
    return folder
