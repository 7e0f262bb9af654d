"""Half a year of retraining on growing data: the champion never gets worse, and nothing torn is ever seen."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import soundfile

from g2d_pipeline import load_model
from g2d_pipeline.config import RegistrySettings
from g2d_pipeline.files import evaluation_set_file
from g2d_pipeline.registry.store import Registry
from tests.e2e.project import Result
from tests.retraining.deliveries import NAME, Deliveries, new_project, small_files

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'g2d-pipeline[retrain]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass
class History:
    """What each retraining ended with, and what the champion was worth then."""

    project: Deliveries
    rows: list[dict[str, Any]] = field(default_factory=list)
    accuracies: dict[str, float] = field(default_factory=dict)  # by version, which has the weights' hash

    @property
    def registry(self) -> Registry:
        return Registry(RegistrySettings(), self.project.path)

    def accuracy(self) -> float:
        """Of the champion, loaded as a user does, on the fixed evaluation set."""
        champion = self.registry.get(NAME, "champion")
        assert champion is not None
        model, columns = load_model(champion.folder()), ["id", "audio", "image"]
        if model.version in self.accuracies:
            return self.accuracies[model.version]
        fixed = json.loads(evaluation_set_file(self.project.path, NAME).read_text())
        months = sorted(self.project.raw.glob("months/*.csv"))
        table = pd.concat([pd.read_csv(file) for file in months]).drop_duplicates("id").set_index("id")
        rows = table.loc[fixed["sample_ids"]].reset_index()
        predicted = model.predict(rows[columns], root=self.project.raw)["prediction"].astype(int)
        self.accuracies[model.version] = float((predicted == rows["digit"]).mean())
        return self.accuracies[model.version]

    def outcome(self) -> dict[str, Any]:
        file = self.project.path / "data/08_reporting" / NAME / "retrain.json"
        return dict(json.loads(file.read_text()))

    def retrain(self, what: str, status: int, outcome: tuple[str, ...], *params: str) -> dict[str, Any]:
        """Retrain; the exit status, what `retrain.json` says, and that the champion is no worse."""
        before = self.rows[-1]["accuracy"] if self.rows else 0.0
        begin = time.monotonic()
        result = self.project.run(*self.project.retrain(*params))
        return self.note(what, result, status, outcome, before, time.monotonic() - begin)

    def note(
        self, what: str, result: Result, status: int, outcome: tuple[str, ...], before: float, seconds: float
    ) -> dict[str, Any]:
        assert result.status == status, result.output
        assert "Traceback" not in result.output
        end, accuracy = self.outcome(), self.accuracy()
        assert end["outcome"] in outcome, end
        assert end["reason"]
        assert accuracy >= before - 1e-9, f"{what}: {accuracy} after {before}"
        row = {"what": what, "outcome": end["outcome"], "accuracy": accuracy, "seconds": seconds}
        self.rows.append(row | {"reason": end["reason"]})
        return end


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return History(new_project(tmp_path_factory.mktemp("half_year")))


DECIDED = ("promoted", "kept")


def test_half_a_year(history: History, tmp_path: Path) -> None:
    """Twelve retrainings, and what goes wrong in a year."""
    project = history.project
    project.deliver(1, project.rows(0, 270, test=200))
    assert history.retrain("the first delivery", 0, ("promoted",))["version"] == 1
    project.deliver(2, project.rows(270, 150))
    history.retrain("more of the same", 0, DECIDED)

    _refused_deliveries(history)

    project.deliver(6, project.rows(710, 150))
    _killed_in_training(history)
    history.retrain("the same after kill -9", 0, DECIDED)

    project.deliver(7, project.rows(860, 100))
    _full_disk(history)
    _two_at_once(history, "the same with room on the disk, two at once")

    unchanged = history.retrain("nothing new", 0, ("kept",))
    assert "nothing is new" in unchanged["reason"]

    project.deliver(8, project.rows(960, 200))
    history.retrain("more of the same, from the champion's weights", 0, DECIDED, "retrain.init_from=champion")
    _rebuilt(history)
    _predicts(history)
    _rollback(history)
    table = pd.DataFrame(history.rows)
    assert len(table) >= 12
    assert (table["outcome"] == "promoted").sum() >= 2
    (tmp_path / "half_year.txt").write_text(table.drop(columns="reason").to_string(index=False))


def _refused_deliveries(history: History) -> None:
    project = history.project
    damaged = project.rows(500, 60)
    project.deliver(3, damaged)
    for name in damaged["image"][:30]:
        (project.raw / name).write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    assert "can not be used" in history.retrain("half of the images are damaged", 3, ("refused",))["reason"]
    project.deliver(3, project.rows(500, 60))

    flipped = project.rows(560, 60)
    project.deliver(4, flipped.assign(digit=(flipped["digit"] + 1) % 10))
    assert "label" in history.retrain("labels are shifted by one", 3, ("refused",))["reason"]
    project.deliver(4, flipped)

    silent = project.deliver(5, project.rows(620, 90))
    for name in pd.read_csv(silent)["audio"]:
        wave, rate = soundfile.read(project.raw / name)
        soundfile.write(project.raw / name, 0 * wave, rate)
    assert "audio" in history.retrain("a silent modality", 3, ("refused",))["reason"]
    project.deliver(5, project.rows(620, 90))
    history.retrain("the same three, mended", 0, DECIDED)

    file = project.deliver(6, project.rows(710, 150).rename(columns={"image": "picture"}))
    history.retrain("a column is called otherwise", 3, ("refused",))
    file.unlink()


def _killed_in_training(history: History) -> None:
    """`kill -9` once a student has a checkpoint."""
    project = history.project
    process = project.fork(*project.retrain("checkpoint_minutes=0"))
    models = project.path / "data" / "06_models" / NAME
    while process.poll() is None and not list(models.glob("students/*/*.partial/checkpoints/*")):
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert history.accuracy() == history.rows[-1]["accuracy"]


def _full_disk(history: History) -> None:
    project, before = history.project, history.rows[-1]["accuracy"]
    done = project.fork(*project.retrain(), prepare=small_files).wait()
    history.note("a full disk", done, 1, ("failed",), before, float("nan"))
    assert "too large" in done.output
    assert not list(project.path.glob("data/**/.unfinished-*"))


def _two_at_once(history: History, what: str) -> None:
    """One works, the other one says so."""
    project, before = history.project, history.rows[-1]["accuracy"]
    begin = time.monotonic()
    processes = [project.fork(*project.retrain()) for _ in range(2)]
    done, refused = sorted((process.wait() for process in processes), key=lambda result: result.status)
    assert (done.status, refused.status) == (0, 1), (done, refused)
    assert "Another run" in refused.output
    history.note(what, done, 0, DECIDED, before, time.monotonic() - begin)


def _rebuilt(history: History) -> None:
    """The first version is trained again after all the others: every bit is the same."""
    project = history.project
    result = project.run("run", "--params", f"dataset={NAME},reproduce=1")
    assert result.status == 0, result.output
    assert "every weight has the same bits" in result.output
    image = project.raw / "image" / "0.png"
    kept = image.read_bytes()
    image.write_bytes(kept + b" ")
    result = project.run("run", "--params", f"dataset={NAME},reproduce=1")
    image.write_bytes(kept)
    assert result.status == 1
    assert f"image/{image.name} has changed" in result.output


def _predicts(history: History) -> None:
    """The champion predicts by its alias, in Kedro and without."""
    project = history.project
    table = project.raw / "new.csv"
    project.rows(0, 20).drop(columns=["digit", "part"]).to_csv(table, index=False)
    source = table.relative_to(project.path)
    params = f"dataset={NAME},input={source},model=champion"
    result = project.run("run", "--pipeline", "predict", "--params", params)
    assert result.status == 0, result.output
    (file,) = project.path.glob(f"data/07_model_output/{NAME}/champion-*/*/predictions.parquet")
    champion = history.registry.get(NAME, "champion")
    assert champion is not None
    expected = load_model(champion.folder()).predict(table)
    pd.testing.assert_frame_equal(pd.read_parquet(file), expected, check_dtype=False)


def _rollback(history: History) -> None:
    """The champion before comes back, and the same data do not bring back what was rolled back."""
    registry = history.registry
    champion, previous = (registry.get(NAME, alias) for alias in ("champion", "previous"))
    assert champion is not None
    assert previous is not None
    result = history.project.run("models", "rollback", "--dataset", NAME)
    assert result.status == 0, result.output
    back = registry.get(NAME, "champion")
    assert back is not None
    assert back.number == previous.number
    history.project.run(*history.project.retrain("retrain.init_from=champion"))
    again = registry.get(NAME, "champion")
    assert again is not None
    assert again.number == previous.number
