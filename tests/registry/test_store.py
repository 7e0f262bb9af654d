"""Versions, aliases, rollback, retention, and registrations that fail on their way."""

from __future__ import annotations

import errno
import pickletools
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.serving.registered import Version


def register(registry: Registry, folder: Path, **changes: Any) -> Version:
    about: dict[str, Any] = {"parameters": {"training": {"epochs": 2}}, "metrics": {"accuracy": 0.5}}
    return registry.register("digits", folder, **about | changes)


def aliases(registry: Registry) -> dict[str, int]:
    return {alias: v.number for v in registry.versions("digits") for alias in v.aliases}


@pytest.fixture(params=["sqlite", "sqlite+pysqlite"])
def either(request: pytest.FixtureRequest, registry: Registry) -> Registry:
    """A registry that is read directly, and one that is read through MLflow's client, as a server is."""
    uri = registry.uri.replace("sqlite", request.param)
    settings = registry.settings.model_copy(update={"uri": uri, "artifacts": "versions"})
    return Registry(settings, registry.project)


def test_a_version_is_the_challenger_then_champion_then_previous(either: Registry, small: Path) -> None:
    registry = either
    assert registry.versions("digits") == []
    assert registry.get("digits", "champion") is None
    first = register(registry, small, tags={"method": "g2d", "seed": "0"})
    assert (first.number, first.aliases, first.tags) == (1, ("challenger",), {"method": "g2d", "seed": "0"})
    assert first.created.endswith("+00:00")
    assert (first.folder() / "number.txt").read_text() == "0"
    assert first.folder().is_relative_to(registry.project / "versions" / "digits")
    assert registry.datasets() == ["digits"]
    registry.promote("digits", 1)
    assert aliases(registry) == {"champion": 1}
    register(registry, small)
    assert aliases(registry) == {"champion": 1, "challenger": 2}
    for _ in range(2):  # the same again changes nothing
        registry.promote("digits", 2)
        assert aliases(registry) == {"champion": 2, "previous": 1}
    assert [v.number for v in registry.versions("digits")] == [2, 1]
    assert registry.get("digits", 1) == registry.get("digits", "previous")
    with pytest.raises(DataError, match=r"digits has no version 7 in sqlite.*Known: 2 @champion; 1 @prev"):
        registry.promote("digits", 7)


def test_rollback_exchanges_champion_and_previous(registry: Registry, small: Path) -> None:
    register(registry, small)
    registry.promote("digits", 1)
    with pytest.raises(DataError, match="digits has no previous version to go back to"):
        registry.rollback("digits")
    register(registry, small)
    registry.promote("digits", 2)
    assert registry.rollback("digits").number == 1
    assert aliases(registry) == {"champion": 1, "previous": 2}
    assert registry.rollback("digits").number == 2
    assert aliases(registry) == {"champion": 2, "previous": 1}


def test_runs_have_parameters_metrics_and_files(registry: Registry, small: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    parameters = {"training": {"epochs": 2, "tau": [1, 2]}, "ume": None, "wide": "x" * 7000}
    parameters |= {f"parameter {i}": i for i in range(200)}
    metrics = {"accuracy": 0.5, "accuracy/low": 0.4, "F1 (macro, %)": 0.6}
    version = register(
        registry, small, parameters=parameters, metrics=metrics, artifacts=[tmp_path / "report.html"]
    )
    assert registry.metrics(version) == {"accuracy": 0.5, "accuracy/low": 0.4, "F1 _macro_ __": 0.6}
    from mlflow import MlflowClient

    client = MlflowClient(registry.uri, registry.uri)
    run = client.get_run(version.run)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.tau"] == "[1, 2]"
    assert len(run.data.params) == 204
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert {f.path for f in client.list_artifacts(version.run)} == {"model", "report.html"}


def test_no_file_of_a_version_is_a_pickle(registry: Registry, trained_folder: Path) -> None:
    outer = register(registry, trained_folder).outer()
    files = [f for f in outer.rglob("*") if f.is_file()]
    assert {"MLmodel", "pyfunc.py", "model.safetensors", "model.json", "inputs.json"} <= {
        f.name for f in files
    }
    endings = {"", ".py", ".txt", ".yaml", ".json", ".safetensors", ".parquet", ".npy"}
    assert {f.suffix for f in files} <= endings
    for file in files:
        with pytest.raises(ValueError, match=r".*"):
            list(pickletools.genops(file.read_bytes()))


@pytest.mark.parametrize("fails", ["log_artifacts", "log_batch", "create_model_version", "alias", "report"])
def test_a_registration_that_fails_leaves_nothing(
    registry: Registry, small: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    from mlflow import MlflowClient

    register(registry, small)
    registry.promote("digits", 1)
    before = registry.versions("digits")
    kept = sorted(registry.project.rglob("*"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    report = [] if fails != "report" else [registry.project / "report.html"]  # which is not there
    with monkeypatch.context() as patch:
        if not report:
            patch.setattr(MlflowClient, {"alias": "set_registered_model_alias"}.get(fails, fails), full)
        with pytest.raises((OSError, DataError), match=r"No space left|report\.html"):
            register(registry, small, artifacts=report)
    assert registry.versions("digits") == before
    assert sorted(registry.project.rglob("*")) == kept
    assert register(registry, small).aliases == ("challenger",)
    assert aliases(registry)["champion"] == 1


def test_retention_keeps_every_alias_and_the_newest(registry: Registry, small: Path) -> None:
    for number in range(1, 8):
        register(registry, small)
        if number in (1, 3):
            registry.promote("digits", number)
    from mlflow import MlflowClient

    client = MlflowClient(registry.uri, registry.uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    killed, going = (client.create_run(experiment, start_time=start).info.run_id for start in (1, None))
    folders = {v.number: v.outer() for v in registry.versions("digits")}
    assert [v.number for v in registry.prune("digits")] == [4, 2]
    assert [v.number for v in registry.versions("digits")] == [7, 6, 5, 3, 1]
    assert aliases(registry) == {"challenger": 7, "champion": 3, "previous": 1}
    assert {n for n, folder in folders.items() if folder.exists()} == {7, 6, 5, 3, 1}
    assert registry.prune("digits") == []
    states = {run.info.run_id for run in client.search_runs([experiment])}
    assert going in states
    assert killed not in states


def test_files_that_are_gone_are_named(registry: Registry, small: Path) -> None:
    version = register(registry, small)
    shutil.rmtree(version.outer())
    with pytest.raises(DataError, match=r"Version 1 of digits: its folder .* is gone"):
        version.folder()


def test_a_registry_of_another_version_and_mlflow_missing(
    registry: Registry, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = registry.project / "data/09_registry/mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE registered_model_aliases")
    with pytest.raises(
        DataError, match=r"mlflow.db can not be read \(no such table.*mlflow db upgrade sqlite"
    ):
        registry.versions("digits")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    other = Registry(registry.settings, registry.project)
    words = r"registry http://\*\*\*@127.0.0.1:1 needs MLflow: pip install 'g2d-pipeline\[retrain\]'"
    with pytest.raises(ConfigError, match=words):
        other.versions("digits")
