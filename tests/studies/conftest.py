"""A project of its own with a tiny table of two modalities, and methods that fail on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from g2d_pipeline.compute import Pool
from g2d_pipeline.studies.cells import Site
from g2d_pipeline.studies.study import run_study

REPOSITORY = Path(__file__).resolve().parents[2]
GRAPH = Path("data/02_intermediate/code_graph.json")  # what is known of the code: slow to find out
ROWS = {"train": 90, "val": 30, "test": 45}

# Methods that are no good, as a plug-in of the user's: `misbehaving.Fails`, …
MISBEHAVING = '''
import os, signal, time
from pathlib import Path
from g2d_pipeline.methods.base import Method

class Fails(Method):
    """Fails."""
    def on_fit_start(self, state):
        raise ValueError("no cluster is left")

class Slow(Method):
    """Takes 0.6 seconds an epoch."""
    def on_epoch_start(self, state):
        time.sleep(0.6)

class Kills(Method):
    """Kills its process."""
    def on_fit_start(self, state):
        os.kill(os.getpid(), signal.SIGKILL)

class KillsOnce(Method):
    """Kills the process that it is trained in first."""
    def on_fit_start(self, state):
        try:
            Path(os.environ["KILLED"]).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
'''


@dataclass
class Project:
    """A folder with settings; data set → how its two (or more) modalities tell the class."""

    path: Path
    files: dict[str, Any] = field(default_factory=dict)

    def add_dataset(self, name: str, signals: dict[str, float] | None = None, **changes: Any) -> None:
        """A table of 165 rows and three classes; `signals`: modality → how far apart its classes are."""
        strengths = {"loud": 2.0, "soft": 0.7} if signals is None else signals
        rng = np.random.default_rng(0)
        label = rng.integers(0, 3, sum(ROWS.values()))
        values = {}
        for m, strength in strengths.items():
            values[m] = rng.normal(size=(len(label), 3))
            values[m][np.arange(len(label)), label] += strength
        self.add_table(name, values, label, np.repeat(list(ROWS), list(ROWS.values())), **changes)

    def add_table(
        self,
        name: str,
        values: dict[str, np.ndarray],
        label: np.ndarray,
        split: np.ndarray,
        width: int = 8,
        **changes: Any,
    ) -> None:
        """A data set of tabular modalities, `values` m → `[N, columns]`, with its settings."""
        columns = {f"{m}_{i}": x[:, i] for m, x in values.items() for i in range(x.shape[1])}
        folder = self.path / "data" / "01_raw" / name
        folder.mkdir(parents=True)
        pd.DataFrame(columns | {"label": label, "split": split}).to_csv(folder / "table.csv", index=False)
        mlp = {"name": "mlp", "widths": [width], "dropout": [], "norm": "none"}
        settings: dict[str, Any] = {
            "raw": {
                "layout": "table",
                "raw_dir": f"data/01_raw/{name}",
                "table": "table.csv",
                "target": "label",
                "split": "split",
            },
            "task": "classification",
            "modalities": {m: {"kind": "tabular", "columns": [f"{m}_*"], "encoder": mlp} for m in values},
            "training": {"epochs": 4, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.05}},
        } | changes
        self.write(f"parameters_{name}.yml", {"datasets": {name: settings}})

    def add_study(self, name: str, **settings: Any) -> str:
        grid = (
            {}
            if "minutes" in settings
            else {"datasets": "tiny", "methods": ["joint", "g2d"], "seeds": [0, 1]}
        )
        declared = grid | settings
        self.write(f"studies/{name}.yml", {"studies": {name: declared}})
        return name

    def write(self, file: str, content: Any) -> None:
        target = self.path / "conf" / "base" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(content, sort_keys=False))

    @property
    def site(self) -> Site:
        return Site(str(self.path), str(self.path / "conf"))

    def run(self, study: str, **params: Any) -> Path:
        """Run a study; its folder (the newest)."""
        try:
            run_study(self.site, study, params)
        finally:
            folders = (self.path / "data" / "08_reporting" / "studies").glob(f"{study}-*/study.json")
            newest = max(folders, key=lambda file: file.stat().st_mtime_ns, default=self.path)
        return newest.parent

    def trained(self) -> dict[str, bytes]:
        """The weights of every trained model, by place."""
        files = sorted((self.path / "data" / "06_models").rglob("model.safetensors"))
        return {str(f.relative_to(self.path)): f.read_bytes() for f in files}


def new_project(path: Path) -> Project:
    shutil.copytree(REPOSITORY / "conf" / "base", path / "conf" / "base")
    (path / "misbehaving.py").write_text(MISBEHAVING)
    project = Project(path)
    project.add_dataset("tiny")
    for name in ("Fails", "Kills", "KillsOnce"):
        method = {"algorithm": f"misbehaving.{name}", "needs_teachers": False}
        project.write(f"methods/{name.lower()}.yml", {"methods": {name.lower(): method}})
    return project


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graph") / GRAPH.name


@pytest.fixture
def project(tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY / 'src'}")
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    project = new_project(tmp_path)
    if graph.exists():
        (tmp_path / GRAPH).parent.mkdir(parents=True)
        shutil.copy(graph, tmp_path / GRAPH)
    yield project
    if (tmp_path / GRAPH).exists():
        shutil.copy(tmp_path / GRAPH, graph)


@pytest.fixture(autouse=True)
def _forked(forked_workers: None) -> None:
    """Workers are forked; those of a script, and those of `test_compute`, are started as users' are."""


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes, whose start takes three seconds: for tests that ask nothing about them."""
    monkeypatch.setattr(
        Pool, "run", lambda self, function, tasks, stopped: ((task, function(task)) for task in tasks)
    )
