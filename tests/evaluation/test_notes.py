"""What is said of selected epochs, at cases made by hand on both sides of each rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.evaluation import Run
from g2d_pipeline.evaluation.notes import differs, selection_notes, split_gap, tied_epochs, val_unlike_test


def run(
    history: dict[str, list[float]] | None = None,
    val: tuple[int, int] = (80, 100),
    test: tuple[int, int] = (80, 100),
    **info: Any,
) -> Run:
    """A classification of 10 epochs, `val` and `test`: how many right, of how many."""
    columns = {"epoch": list(range(1, 11)), "val/multi": [i / 20 for i in range(10)], "val/loss": [1.0] * 10}
    frames = [
        pd.DataFrame(
            {"split": split, "part": "multi", "target": 0, "prediction": [0] * right + [1] * (n - right)}
        )
        for split, (right, n) in (("val", val), ("test", test))
    ]
    facts = {"task": "classification", "metric": "accuracy", "selection": "val", "selected_epoch": 7}
    table = pd.DataFrame(columns | (history or {}))
    return Run("g2d", "", 0, table, pd.concat(frames), facts | info)


@pytest.mark.parametrize(
    ("values", "info", "tied"),
    [
        ([0.1, 0.2, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8], {}, (3, 10)),
        ([0.9, 0.9, 0.9, 0.9, 0.1, 0.2, 0.3, 0.8, 0.8, 0.7], {"selection_epochs": [5, 10]}, (2, 6)),
        ([1.0] * 10, {"selection_epochs": [5, 10]}, (6, 6)),
        ([1.0] * 10, {"selection": "last"}, (0, 0)),
        ([1.0] * 10, {"selection_metric": "loss"}, (10, 10)),  # of a constant loss
    ],
)
def test_epochs_that_tie(values: list[float], info: dict[str, Any], tied: tuple[int, int]) -> None:
    one = run({"val/multi": values}, **info)
    assert tied_epochs(one)[:2] == tied
    assert any("Epochs tie" in line for line in selection_notes([one])) == (tied[0] >= 3)


def test_three_epochs_of_a_hundred_are_no_tie() -> None:
    values = [0.5] * 97 + [0.9] * 3
    long = run()
    history = pd.DataFrame({"epoch": range(1, 101), "val/multi": values, "val/loss": 1.0})
    assert tied_epochs(replace(long, history=history))[:2] == (3, 100)
    assert list(selection_notes([replace(long, history=history)])) == []


@pytest.mark.parametrize(
    ("val", "test", "warned"),
    [
        ((199, 200), (150, 200), True),  # 99.5 % and 75 %
        ((150, 200), (199, 200), True),  # whichever is the better one
        ((20, 20), (15, 20), False),  # the same difference of few samples is chance
        ((9000, 10000), (8600, 10000), False),  # beyond chance, but 4 points
        ((80, 100), (80, 100), False),
        ((100, 100), (100, 100), False),
    ],
)
def test_val_unlike_test(val: tuple[int, int], test: tuple[int, int], warned: bool) -> None:
    one = run(val=val, test=test)
    assert differs(split_gap(one), "classification") == warned
    lines = list(val_unlike_test([one]))
    assert (len(lines) == 1) == warned
    if warned and val[0] > test[0]:
        assert "g2d, seed 0 (99.5 and 75.0)" in lines[0]


def test_the_standard_error_is_that_of_two_shares_of_one_population() -> None:
    gap = split_gap(run(val=(90, 100), test=(150, 200)))
    share = 240 / 300
    assert gap.errors == pytest.approx(0.15 / np.sqrt(share * (1 - share) * (1 / 100 + 1 / 200)))


def test_errors_of_a_regression_are_compared_by_their_squares() -> None:
    rng = np.random.default_rng(0)
    for factor, warned in ((1.0, False), (3.0, True)):
        errors = np.concatenate([rng.normal(size=200), factor * rng.normal(size=200)])
        frame = pd.DataFrame({"split": ["val"] * 200 + ["test"] * 200, "part": "multi", "target": 0.0})
        facts = {"task": "regression", "metric": "rmse"}
        one = replace(run(**facts), predictions=frame.assign(prediction=errors))
        assert split_gap(one).test == pytest.approx(np.sqrt((errors[200:] ** 2).mean()))
        assert differs(split_gap(one), "regression") == warned


def test_a_model_of_an_unfinished_phase_and_how_many_more_there_are() -> None:
    early = run(selected_phase=[1, 3], selected_epoch=4)
    lines = list(selection_notes([replace(early, seed=seed) for seed in range(6)]))
    assert len(lines) == 1
    assert "g2d, seed 0 (epoch 4, phase 1 of 3)" in lines[0]
    assert "and 2 more" in lines[0]
    assert list(selection_notes([run(selected_phase=[3, 3])])) == []


def test_they_reach_the_table_of_the_console_the_report_and_the_json(make_study: Any) -> None:
    study = make_study(seeds=(0,), methods=("g2d",))
    study.runs[-1].info.update(selected_phase=[1, 2], selection_epochs=[16, 30])
    evaluation = study.evaluate()
    (line,) = evaluation.metrics_json["notes"]
    assert line in evaluation.table.splitlines()
    assert line in evaluation.report
    assert "30 of 16–30" in evaluation.report
    assert "best validation epoch of the last phase" in evaluation.report
