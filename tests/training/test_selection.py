"""Which epoch is kept: of the last phase, by which metric, how ties are broken."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.methods import build
from g2d_pipeline.training import train_student
from g2d_pipeline.training.scoring import EarlyStopping, ModelSelector
from tests.conftest import TINY, make_data, recipe
from tests.training.test_equalities import plain_model, teachers_of


def selected(epochs: int, k: int = 2, **settings: Any) -> Trained:
    """A student of k modalities that is selected on val, `training` changed."""
    data = make_data(k)
    changes = {"selection": "val", **settings.pop("training", {})}
    training = TrainingSettings(**(recipe(epochs).model_dump() | changes))
    teachers = teachers_of(data) if settings.get("smp") else {}
    return train_student(
        data, dict.fromkeys(data.modalities, TINY), teachers, training=training, progress=False, **settings
    )


def best(history: pd.DataFrame, first: int = 1) -> int:
    """The epoch, from `first` on, of the best accuracy, of the lowest loss among those, of the earliest."""
    rows = history[history["epoch"] >= first]
    keys = [(-a, b, e) for a, b, e in zip(rows["val/multi"], rows["val/loss"], rows["epoch"], strict=True)]
    return min(keys)[2]


def test_g2d_is_selected_in_the_joint_phase_or_on_request_in_all() -> None:
    """The rate is far too high, so that the best epoch of all is an early one."""
    high = {"optimizer": {"name": "sgd", "lr": 1.0}}
    settings: Any = {"k": 3, "smp": {"tau": [2, 2]}, "seed": 1}
    last = selected(7, **settings, training=high)
    everything = selected(7, **settings, training=high | {"select_in": "all"})
    assert last.history.equals(everything.history)
    assert last.info["selected_epoch"] == best(last.history, 5) >= 5
    assert (last.info["selected_phase"], last.info["selection_epochs"]) == ([3, 3], [5, 7])
    early = everything.info["selected_epoch"]
    assert early == best(everything.history) < 5
    assert everything.info["selected_phase"] == [int(everything.history["phase"][early - 1]), 3]
    assert everything.info["selection_epochs"] == [1, 7]


def test_without_a_joint_phase_the_last_phase_there_is_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "g2d_pipeline")
    trained = selected(6, k=3, smp={"tau": [3, 3, 0]})
    assert f"epoch {trained.info['selected_epoch']} selected of 4 to 6, phase 2 of 2" in caplog.text
    assert trained.info["selected_epoch"] == best(trained.history, 4)
    assert (trained.info["selected_phase"], trained.info["selection_epochs"]) == ([2, 2], [4, 6])


STAGED = [
    (
        "reconboost",
        {"stage_epochs": 2, "rectification_epochs": 1},
        5,
    ),  # m 1: 1-2, all: 3, m 2: 4-5, all: 6, …
    ("relearning", {"reinit_epoch": 2, "reinit_num": 2}, 5),  # after epochs 2 and 4
    ("modality_valuation", {"start_epoch": 3}, 3),
    ("joint", {}, 1),
]


@pytest.mark.parametrize(("method", "parameters", "first"), STAGED)
def test_a_method_with_stages_is_selected_once_it_is_finished(
    method: str, parameters: dict[str, Any], first: int
) -> None:
    fusion: Any = {"name": "shared", "combine": "sum"} if method == "reconboost" else "late"
    settings: Any = {"method": method, "parameters": parameters, "fusion": fusion}
    trained = selected(8, **settings)
    assert trained.info["selection_epochs"] == [first, 8]
    assert trained.info["selected_epoch"] == best(trained.history, first)
    phase, last = trained.info["selected_phase"]
    assert phase == last
    stopped = selected(
        8, **settings, training={"early_stopping": 1, "optimizer": {"name": "sgd", "lr": 1e-12}}
    )
    assert len(stopped.history) >= first + 1  # one to compare with, one without a better score


def test_a_finished_stage_of_every_modality_is_what_reconboost_needs() -> None:
    method = build("reconboost", {"stage_epochs": 4, "rectification_epochs": 2})
    state: Any = type("State", (), {"model": plain_model(make_data(3))})
    phases = [method.phase(epoch, state) for epoch in range(1, 31)]
    assert [phases.index(phase) + 1 for phase in (1, 2, 3, 4)] == [1, 4, 10, 16]  # 3 × 4 + 2 × 2
    assert phases == sorted(phases)
    assert phases[-1] == 4


@pytest.mark.parametrize(
    ("metric", "values", "epoch"),
    [
        (None, [(0.5, 0.9), (0.8, 0.7), (0.8, 0.5), (0.8, 0.5), (0.7, 0.1)], 3),  # the loss, then the earlier
        ("accuracy", [(0.5, 0.9), (0.8, 0.7), (0.8, 0.5), (0.8, 0.5), (0.7, 0.1)], 3),
        ("loss", [(0.5, 0.9), (0.8, 0.7), (0.8, 0.5), (0.8, 0.5), (0.7, 0.1)], 5),
        ("loss", [(0.5, 0.2), (0.8, 0.2)], 1),
    ],
)
def test_the_selection_metric_and_its_ties(
    metric: Any, values: list[tuple[float, float]], epoch: int
) -> None:
    data = make_data()
    training = TrainingSettings(selection_metric=metric, early_stopping=2)
    selector, stopping = ModelSelector(data.task, training), EarlyStopping(data.task, training)
    model, method = plain_model(data), build("joint")
    reached = []
    for number, (accuracy, loss) in enumerate(values, 1):
        scores = {"val": {"multi": accuracy, "a": 0.0, "loss": loss}}
        selector.update(number, 1, scores, model, method)
        stopping.update(scores["val"], counts=True)
        reached.append(stopping.reached)
    assert selector.epoch == epoch
    assert reached == [number - epoch >= 2 for number in range(1, len(values) + 1)]


def test_a_metric_of_the_other_task_is_refused() -> None:
    with pytest.raises(ValueError, match="a classification is selected by accuracy or loss"):
        selected(2, method="joint", training={"selection_metric": "rmse"})
