"""Metrics equal what one computes by hand, and unfit predictions are refused by name."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from g2d_pipeline.evaluation import collect_metrics, evaluate_predictions
from g2d_pipeline.evaluation.metrics import BINS, METRIC_COLUMNS


def frame(
    target: list[float], prediction: list[float], confidence: list[float] | None = None
) -> pd.DataFrame:
    confidence = [0.5] * len(target) if confidence is None else confidence
    return pd.DataFrame({"target": target, "prediction": prediction, "confidence": confidence})


def test_classification_by_hand():
    values = evaluate_predictions(
        frame([0, 0, 1, 2], [0, 1, 1, 1], [0.5, 0.25, 1.0, 0.125]), "classification"
    )
    # F1: class 0: P 1, R ½ → ⅔; class 1: P ⅓, R 1 → ½; class 2: never said → 0.
    assert values["accuracy"] == 0.5
    assert values["f1_macro"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert values["nll"] == pytest.approx((math.log(2) + math.log(4) + 0 + math.log(8)) / 4)


def test_regression_by_hand_in_original_units():
    values = evaluate_predictions(frame([10.0, 20.0, 30.0], [11.0, 18.0, 30.0]), "regression")
    assert values["mape"] == pytest.approx(100 * (0.1 + 0.1 + 0) / 3)
    assert values["r2"] == pytest.approx(1 - 5 / 200)
    assert values["rmse"] == pytest.approx(math.sqrt(5 / 3))
    assert values["mae"] == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=30),
    st.sampled_from([0.01, 10, 1000]),
)
def test_rmse_and_mae_carry_the_unit_and_mape_does_not(pairs: list[tuple[float, float]], scale: float):
    target, prediction = np.array(pairs).T
    plain = evaluate_predictions(frame(list(target), list(prediction)), "regression")
    scaled = evaluate_predictions(frame(list(scale * target), list(scale * prediction)), "regression")
    assert scaled["rmse"] == pytest.approx(scale * plain["rmse"])
    assert scaled["mae"] == pytest.approx(scale * plain["mae"])
    assert scaled["mape"] == pytest.approx(plain["mape"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40), st.randoms())
def test_classification_ignores_the_order_of_samples(pairs: list[tuple[int, int]], random):
    shuffled = random.sample(pairs, len(pairs))
    first, second = (
        evaluate_predictions(frame(*map(list, zip(*rows, strict=True))), "classification")
        for rows in (pairs, shuffled)
    )
    assert first == pytest.approx(second)
    assert 0 <= first["f1_macro"] <= 1
    assert first["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


@pytest.mark.parametrize(
    ("target", "undefined"),
    [
        ([0.0, 1.0], {"mape"}),
        ([1.0], {"r2"}),
        ([5.0] * 3, {"r2"}),
        ([0.0] * 3, {"r2", "mape"}),
        ([-1.0, 0.004, 1.0], {"mape"}),  # nearer to 0 than 1 % of the standard deviation
        ([-1.0, 0.02, 1.0], set()),
        ([100.0, 101.0], set()),
    ],
)
def test_numbers_without_a_meaning_are_nan(target: list[float], undefined: set[str]):
    values = evaluate_predictions(frame(target, [t + 0.1 for t in target]), "regression")
    assert {name for name, value in values.items() if math.isnan(value)} == undefined
    assert next(iter(values)) == "rmse"


def test_a_zero_confidence_keeps_the_likelihood_finite():
    assert math.isfinite(evaluate_predictions(frame([0], [1], [0.0]), "classification")["nll"])


@pytest.mark.parametrize(
    ("bad", "task", "message"),
    [
        (frame([], []), "regression", "empty"),
        (frame([1.0], [float("nan")]), "regression", "1 of 1 values in 'prediction' are NaN"),
        (frame([float("inf")], [1.0]), "regression", "'target'"),
        (frame([0], [0], [float("nan")]), "classification", "'confidence'"),
        (frame([0], [0], [1.5]), "classification", r"\[0, 1\]"),
        (frame([0], [0.5]), "classification", "class indices"),
        (frame([0], [0]).drop(columns="prediction"), "classification", "lack the column prediction"),
        (frame([0], [0]), "ranking", "expected one of classification, regression"),
    ],
)
def test_unfit_predictions_are_refused(bad: pd.DataFrame, task: str, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(bad, task)


def test_one_row_a_number_in_the_order_of_the_tables(make_study):
    study = make_study(("audio", "image", "text"), seeds=(3, 1))
    metrics = collect_metrics(study.runs[::-1], "d", "raw")
    assert tuple(metrics.columns) == METRIC_COLUMNS
    # (3 teachers × 1 part + 2 methods × 4 parts) × 2 seeds × 2 splits × 7 metrics
    assert len(metrics) == 11 * 2 * 2 * 7
    assert not metrics.duplicated(["method", "modality", "seed", "split", "part", "metric"]).any()
    rows = list(metrics[["method", "modality", "seed"]].drop_duplicates().itertuples(index=False, name=None))
    teachers = [("unimodal", m, s) for m in ("audio", "image", "text") for s in (1, 3)]
    assert rows == teachers + [
        (method, "", s) for method in ("g2d", "joint") for s in (1, 3)
    ]  # given in reverse
    student = metrics[(metrics["method"] == "g2d") & (metrics["split"] == "test")]
    assert list(dict.fromkeys(student["part"])) == ["multi", "audio", "image", "text"]
    assert set(metrics["selection"]) == {"val"}


def test_runs_that_do_not_fit_together_are_refused(make_study):
    runs = make_study().runs
    with pytest.raises(ValueError, match="no runs"):
        collect_metrics([], "d", "raw")
    with pytest.raises(ValueError, match="unimodal · audio, seed 0, is there twice"):
        collect_metrics([*runs, runs[0]], "d", "raw")
    with pytest.raises(ValueError, match="different tasks"):
        collect_metrics([*runs, *make_study(task="regression", methods=("umt",)).runs[-1:]], "d", "raw")
    with pytest.raises(ValueError, match="only a teacher"):
        collect_metrics([replace(runs[0], modality="")], "d", "raw")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.iloc[:0], "joint, seed 0: there are no predictions"),
        (lambda p: pd.concat([p, p.iloc[:1]]), "joint, seed 0: a sample has two predictions"),
        (lambda p: p.assign(part="smell"), "joint, seed 0: predictions of unknown part smell"),
        (lambda p: p.assign(prediction=float("nan")), "joint, seed 0, val, multi: .*NaN"),
    ],
)
def test_the_message_names_the_run(make_study, spoil, message: str):
    study = make_study(seeds=(0,), methods=("joint",))
    run = replace(study.runs[-1], predictions=spoil(study.runs[-1].predictions))
    with pytest.raises(ValueError, match=message):
        collect_metrics([*study.runs[:-1], run], "d", "raw")


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7))
def test_classification_equals_scikit_learn(seed: int, n: int, classes: int):
    """Random logits, with ties, and classes that may be absent from the target."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)).round(1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true, said, labels = rng.integers(0, classes, n), p.argmax(axis=1), range(classes)
    values = evaluate_predictions(frame(list(true), list(said), list(p[range(n), true])), "classification", p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of predicted classes that do not occur
        expected = {
            "accuracy": sk.accuracy_score(true, said),
            "balanced_accuracy": sk.balanced_accuracy_score(true, said),
            "f1_macro": sk.f1_score(true, said, average="macro", zero_division=0),
            "map": np.mean([sk.average_precision_score(true == c, p[:, c]) for c in set(true)]),
            "nll": sk.log_loss(true, p, labels=labels),
            "brier": sk.brier_score_loss(true, p, labels=labels, scale_by_half=False),
            "ece": expected_calibration_error(true, p),
        }
    assert values == pytest.approx(expected, abs=1e-9)


def expected_calibration_error(true: np.ndarray, p: np.ndarray) -> float:
    """Bin by bin: share of samples × |accuracy − mean confidence|."""
    top, right = p.max(axis=1), p.argmax(axis=1) == true
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    gaps = [
        (bins == b).mean() * abs(right[bins == b].mean() - top[bins == b].mean())
        for b in range(BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps))


@given(st.integers(0, 10**6), st.integers(2, 60))
def test_regression_equals_scikit_learn(seed: int, n: int):
    rng = np.random.default_rng(seed)
    target, prediction = rng.uniform(1, 5, n), rng.normal(3, 2, n)
    values = evaluate_predictions(frame(list(target), list(prediction)), "regression")
    assert values == pytest.approx(
        {
            "rmse": sk.root_mean_squared_error(target, prediction),
            "mae": sk.mean_absolute_error(target, prediction),
            "r2": sk.r2_score(target, prediction),
            "mape": 100 * sk.mean_absolute_percentage_error(target, prediction),
            "bias": prediction.mean() - target.mean(),
        }
    )


def test_a_well_calibrated_coin_has_no_calibration_error_and_a_boaster_has():
    p, boast = np.array([[0.8, 0.2]] * 10), np.array([[1.0, 0.0]] * 10)
    true = [0] * 8 + [1] * 2
    honest = evaluate_predictions(frame(true, [0] * 10), "classification", p)
    assert honest["ece"] == pytest.approx(0)
    assert honest["brier"] == pytest.approx(2 * (0.8 * 0.04 + 0.2 * 0.64))
    assert evaluate_predictions(frame(true, [0] * 10), "classification", boast)["ece"] == pytest.approx(0.2)


def test_what_needs_probabilities_is_left_out_where_no_logits_are_stored(make_study):
    run = make_study(seeds=(0,), methods=()).runs[0]
    with_logits, without = (
        set(collect_metrics([own], "d", "raw")["metric"]) for own in (run, replace(run, outputs={}))
    )
    assert with_logits - without == {"map", "brier", "ece"}
    other = run.samples.assign(sample_id=run.samples["sample_id"] + "x")
    with pytest.raises(ValueError, match="val, audio: the stored logits are of other samples"):
        collect_metrics([replace(run, samples=other)], "d", "raw")
