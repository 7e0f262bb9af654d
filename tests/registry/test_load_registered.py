"""`models:/…` by load_model and by MLflow; nothing in a version's folder is executed but our code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from g2d_pipeline import load_model
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.registry.store import Registry
from g2d_pipeline.serving.registered import verify
from tests.conftest import REPOSITORY
from tests.registry.test_store import register
from tests.serving.conftest import Served

BY_MLFLOW = """
import pathlib, sys, mlflow, pandas
assert not any(name.startswith("kedro") for name in sys.modules)
from g2d_pipeline.serving.registered import verify
verify(pathlib.Path(mlflow.artifacts.download_artifacts("models:/digits@champion")))
table = pandas.read_csv(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion")
model.predict(table).to_parquet(sys.argv[2])
"""


@pytest.fixture
def raw(served: Served) -> pd.DataFrame:
    """Rows with absolute paths, that any working directory finds."""
    table = served.table.copy()
    table["image"] = [str(served.raw / path) for path in table["image"]]
    return table


def test_by_alias_by_number_and_by_mlflow_elsewhere(
    registry: Registry, trained_folder: Path, raw: pd.DataFrame, tmp_path: Path
) -> None:
    expected = load_model(trained_folder).predict(raw)
    register(registry, trained_folder)
    registry.promote("digits", 1)
    below = tmp_path / "notebooks"
    below.mkdir()
    os.chdir(below)
    for address in ("models:/digits@champion", "models:/digits/1"):
        pd.testing.assert_frame_equal(load_model(address).predict(raw), expected)
    raw.to_csv(tmp_path / "new.csv", index=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"MLFLOW_TRACKING_URI": registry.uri, "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-c", BY_MLFLOW, str(tmp_path / "new.csv"), str(tmp_path / "out.parquet")]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), expected)


MISTAKES: dict[str, tuple[type[Exception], str]] = {
    "models:/digit@champion": (DataError, r"no model 'digit'. Did you mean 'digits'\? Known: digits"),
    "models:/digits@previous": (DataError, "no such version. Aliases: challenger; versions: 1"),
    "models:/digits/2": (DataError, "no such version. Aliases: challenger; versions: 1"),
    "models:/digits": (ConfigError, r"allowed are models:/<dataset>@champion and models:/<dataset>/<number>"),
    "s3://bucket/digits": (ConfigError, r"s3: is no address of a model. Allowed: a folder, file:///…, mod"),
}


def test_mistakes_in_an_address(registry: Registry, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(registry, small)
    for address, (kind, words) in MISTAKES.items():
        with pytest.raises(kind, match=words):
            load_model(address)
    monkeypatch.chdir("/")
    with pytest.raises(DataError, match=r"There is no registry data/09_registry/mlflow.db in / or a folder"):
        load_model("models:/digits@champion")


def _yaml(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(outer: Path) -> None:
        about = yaml.safe_load((outer / "MLmodel").read_text())
        change(about["flavors"]["python_function"])
        (outer / "MLmodel").write_text(yaml.safe_dump(about))

    return apply


def _other_code(outer: Path) -> None:
    (outer / "pyfunc.py").write_text((outer / "pyfunc.py").read_text() + "\nprint('here')\n")


ATTACKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (_other_code, "pyfunc.py is not that of this package"),
    "no code": (lambda outer: (outer / "pyfunc.py").unlink(), "pyfunc.py can not be read"),
    "loader": (_yaml(lambda a: a.update(loader_module="evil")), "loads other code"),
    "code path": (_yaml(lambda a: a.update(code="code")), "loads other code"),
    "other file": (_yaml(lambda a: a.update(model_code_path="evil.py")), "loads other code"),
    "backslash": (_yaml(lambda a: a.update(model_code_path="x\\pyfunc.py")), "loads other code"),
    "pickle": (_yaml(lambda a: a.update(python_model="python_model.pkl")), "loads other code"),
    "above": (_yaml(lambda a: a["artifacts"]["model"].update(path="../../..")), "is no folder in"),
    "absolute": (_yaml(lambda a: a["artifacts"]["model"].update(path="/tmp")), "is no folder in"),
    "no artifacts": (_yaml(lambda a: a.pop("artifacts")), "MLmodel is damaged"),
    "object": (lambda o: (o / "MLmodel").write_text("!!python/object/apply:os.getcwd []"), "is damaged"),
    "gone": (lambda outer: (outer / "MLmodel").unlink(), "MLmodel is missing"),
}


def test_a_version_that_would_execute_other_code_is_refused(
    registry: Registry, small: Path, tmp_path: Path
) -> None:
    version = register(registry, small)
    outer = version.outer()
    assert verify(outer) == version.folder()
    saved = shutil.copytree(outer, tmp_path / "saved")
    for attack, words in ATTACKS.values():
        shutil.rmtree(outer)
        shutil.copytree(saved, outer)
        attack(outer)
        for read in (version.folder, lambda: load_model("models:/digits/1")):
            with pytest.raises(DataError, match=words):
                read()


def test_code_in_a_models_folder_is_refused(trained_folder: Path, tmp_path: Path) -> None:
    """A plug-in's name in model.json could lead to it, where Python was started in the folder."""
    folder = shutil.copytree(trained_folder, tmp_path / "student")
    (folder / "layers.py").write_text("raise SystemExit")
    with pytest.raises(DataError, match=r"layers.py is code: a model's folder has none"):
        load_model(folder)
