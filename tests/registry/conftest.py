"""A model to register, and projects with an empty registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from g2d_pipeline.config import RegistrySettings
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.serving.registered import DATABASE, using_mlflow
from tests.serving.conftest import Served, serve

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'g2d-pipeline[retrain]'")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A student of pictures, texts and a table, and the raw data that it was trained on."""
    modalities = ["image", "text", "table"]
    return serve(tmp_path_factory.mktemp("trained"), modalities=modalities, teachers=False)


@pytest.fixture(scope="session")
def trained_folder(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder: that of a trained student, without `outputs`."""
    folder = tmp_path_factory.mktemp("version") / "student"
    shutil.copytree(served.runs["joint/seed0"], folder, ignore=shutil.ignore_patterns("outputs"))
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty registry: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    with using_mlflow(f"sqlite:///{file}") as client:
        client.search_registered_models()
    return file


@pytest.fixture
def registry(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of a project in `tmp_path`, which is the working directory."""
    (tmp_path / DATABASE).parent.mkdir(parents=True)
    shutil.copy(database, tmp_path / DATABASE)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Registry(RegistrySettings(keep_last=2), tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder that is no model, for what looks at no model."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "number.txt").write_text("0")
    return folder
