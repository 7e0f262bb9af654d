"""Intervals cover, equal methods are told apart no more often than stated, and all cases are defined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from g2d_pipeline.evaluation import (
    ENSEMBLE,
    Run,
    breakdown,
    collect_metrics,
    comparisons,
    ensemble_runs,
    intervals,
    resample,
)
from g2d_pipeline.evaluation.resampling import _counts
from g2d_pipeline.evaluation.statistics import Spread, half_width, holm, p_values, spread_of

DRAWS = 2000
CHANCE = 2 * math.sqrt(0.05 * 0.95 / DRAWS)  # by which a rate of 5 % may come out higher in so many draws


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, whichever run beside it."""
    global RNG
    RNG = np.random.default_rng(0)


def run_of(
    right: npt.NDArray[np.bool_],
    method: str = "g2d",
    seed: int = 0,
    *,
    fold: int = 0,
    modality: str = "",
    groups: Sequence[int] | None = None,
    errors: bool = False,
    splits: Sequence[str] = ("val", "test"),
) -> Run:
    """A run that predicts rightly where `right` `[n]`; with `errors`, a regression that errs by `right`."""
    n, parts = len(right), modality or "multi"
    target = np.arange(n) % 3 if not errors else 1 + np.arange(n) % 7
    samples = pd.DataFrame(
        {"sample_id": [f"{fold}-{i}" for i in range(n)], "split": "test", "target": target}
    )
    frame = samples.assign(part=parts, prediction=target + right if errors else np.where(right, target, 3))
    both = pd.concat([frame.assign(split=split) for split in splits]).assign(confidence=0.5)
    samples = samples if groups is None else samples.assign(group=groups)
    info = {
        "task": "regression" if errors else "classification",
        "modalities": [modality] if modality else ["a"],
    }
    return Run(method, modality, seed, pd.DataFrame(), both, info, fold, samples=samples)


def only(runs: Sequence[Run], **chosen: object) -> pd.DataFrame:
    """The comparisons of `runs` on test, of these."""
    table = comparisons(runs, resample([*runs, *ensemble_runs(runs)]))
    for name, value in ({"split": "test"} | chosen).items():
        table = table[table[name] == value]
    return table


def test_intervals_cover_the_truth_in_95_percent_of_500_draws():
    truth = 0.75
    independent = [run_of(RNG.random(150) < truth, seed=i, splits=["test"]) for i in range(500)]
    effects = RNG.beta(6, 2, (500, 15))  # 15 groups, whose accuracies have the mean ¾
    group = np.arange(150) // 10
    by_group = np.repeat(effects, 10, axis=1)
    grouped = [
        run_of(RNG.random(150) < p, seed=i, groups=group, splits=["test"]) for i, p in enumerate(by_group)
    ]
    errors = [run_of(RNG.normal(size=150), seed=i, errors=True, splits=["test"]) for i in range(500)]
    for runs, expected in (
        (independent, {"accuracy": truth}),
        (grouped, {"accuracy": truth}),
        (errors, {"rmse": 1.0, "bias": 0.0}),
    ):
        resampled = resample(runs)
        for metric, value in expected.items():
            own = intervals(pd.DataFrame(list(resampled)).assign(metric=metric), resampled)
            assert len(own) == 500
            covered = ((own["low"] <= value) & (value <= own["high"])).mean()
            assert abs(covered - 0.95) <= 0.03, (metric, covered)


def draw(
    runs: int, seeds: float, gain: float = 0.0, n: int = 150, groups: int = 0
) -> npt.NDArray[np.float64]:
    """Per-sample differences `[DRAWS, runs, n]` of the correctness of two methods, equal but for `gain` (of
    log-odds): `seeds` is the standard deviation of the log-odds between seeds, samples differ in difficulty,
    and some suit one of the methods better."""
    difficulty = RNG.normal(1.3, 1.5, (DRAWS, 1, 1, n))
    if groups:
        difficulty = difficulty + np.repeat(RNG.normal(size=(DRAWS, 2, 1, groups)), n // groups, axis=-1)
    odds = difficulty + RNG.normal(0, 0.5, (DRAWS, 2, 1, n)) + RNG.normal(0, seeds, (DRAWS, 2, runs, 1))
    odds[:, 0] += gain
    right = RNG.random((DRAWS, 2, runs, n)) < 1 / (1 + np.exp(-odds))
    return right[:, 0].astype(float) - right[:, 1]


def rejected(differences: npt.NDArray[np.float64], folds: Sequence[int] = (), groups: int = 0) -> float:
    """How often p < 0.05."""
    if groups:
        differences = differences.reshape(*differences.shape[:2], groups, -1).mean(axis=-1)
    runs, units = differences.shape[1:]
    _, counts = _counts(units)
    replicates = differences @ (counts[:, :200] / units)
    fold = np.array(folds or [0] * runs)
    per_fold = {int(f): units for f in fold}
    spreads = [
        spread_of(d.mean(axis=-1), r, fold, per_fold) for d, r in zip(differences, replicates, strict=True)
    ]
    columns = Spread(*np.array(spreads).T)
    return float((p_values(differences.mean(axis=(1, 2)), columns) < 0.05).mean())


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("seeds", [0.0, 0.2, 0.8], ids=["seeds are equal", "seeds differ", "seeds rule"])
def test_equal_methods_are_told_apart_in_5_percent_at_most(runs: int, seeds: float):
    assert rejected(draw(runs, seeds)) <= 0.05 + CHANCE


def test_equal_methods_on_groups_folds_and_one_run():
    assert rejected(draw(3, 0.2, groups=15), groups=15) <= 0.05 + CHANCE
    assert rejected(draw(1, 0.0)) <= 0.05 + CHANCE
    fold_wise = draw(5, 0.2).reshape(DRAWS, 5, -1)
    assert rejected(fold_wise, folds=[1, 2, 3, 4, 5]) <= 0.05


def test_a_real_difference_is_seen_the_better_the_more_seeds():
    power = [rejected(draw(runs, 0.1, gain=1.0)) for runs in (2, 3, 5)]
    assert power == sorted(power)
    assert power[1] > 0.5  # 13 points, 3 seeds, 150 samples
    assert power[2] > 0.9


def test_the_interval_ends_at_0_where_p_is_5_percent():
    spread = Spread(*(np.array([x]) for x in (2e-4, 1e-4, 1e-4, 2, 199)))
    half = half_width(spread, 0.05)
    assert p_values(half, spread)[0] == pytest.approx(0.05, rel=1e-6)
    assert p_values(np.zeros(1), spread)[0] == 1
    only_runs = Spread(*(np.array([x]) for x in (2e-4, 0, 0, 4, 199)))
    expected = 2 * stats.t.sf(0.03 / math.sqrt(2e-4), 4)
    assert p_values(np.array([0.03]), only_runs)[0] == pytest.approx(expected, rel=1e-6)


def test_one_run_is_tested_by_mcnemar():
    one, other = RNG.random(80) < 0.8, RNG.random(80) < 0.6
    row = only([run_of(other, "joint"), run_of(one)], metric="accuracy").iloc[0]
    won, lost = int((one & ~other).sum()), int((other & ~one).sum())
    assert row["p"] == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert row["difference"] == pytest.approx((won - lost) / 80)
    assert (row["runs"], row["samples"], row["units"]) == (1, 80, 80)
    grouped = [run_of(x, m, groups=np.arange(80) // 8) for x, m in ((other, "joint"), (one, "g2d"))]
    row = only(grouped, metric="accuracy").iloc[0]
    assert row["units"] == 10
    assert row["p"] >= 2.0**-9  # ten groups on one side


def test_holm_by_hand():
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.5, np.nan, 0.6])) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert len(holm(np.zeros(0))) == 0


def test_a_metric_of_which_less_is_better_is_oriented():
    errors = RNG.normal(size=(2, 200))
    runs = [run_of(2 * errors[1], "joint", errors=True), run_of(errors[0], errors=True)]
    row = only(runs, metric="rmse").iloc[0]
    assert row["value"] < row["reference"]
    assert (row["difference"] > 0, row["low"] > 0, row["result"]) == (True, True, "better")
    assert row["wins"] == 1


def test_replicates_are_of_the_metrics_that_scikit_learn_computes(make_study):
    for task in ("classification", "regression"):
        runs = make_study(task=task, seeds=(0,)).runs
        resampled = resample(runs)
        metrics = collect_metrics(runs, "d", "raw")
        stored = {(*key, name): x for key, one in resampled.items() for name, x in one.values.items()}
        checked = 0
        for row in metrics.itertuples():
            key = (row.method, row.modality, 0, row.seed, row.split, row.part, row.metric)
            checked += key in stored
            assert stored.get(key, row.value) == pytest.approx(row.value)
        assert checked == len(stored)
        again = resample(runs)
        assert all(
            (x == again[k].replicates[m]).all() for k, o in resampled.items() for m, x in o.replicates.items()
        )


def test_the_ensemble_is_the_mean_softmax_or_the_mean_prediction(make_study):
    study = make_study(("a", "b", "c"), seeds=(0, 1))
    first, _ = ensembles = ensemble_runs(study.runs)
    assert [run.method for run in ensembles] == [ENSEMBLE, ENSEMBLE]
    teachers = [run for run in study.runs if run.is_teacher and run.seed == 0]
    logits = np.stack([run.output(f"logits/{run.modality}", "test") for run in teachers]).astype(float)
    p = (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).mean(axis=0)
    own = first.predictions[first.predictions["split"] == "test"]
    assert (own["prediction"] == p.argmax(axis=1)).all()
    assert own["confidence"].to_numpy() == pytest.approx(p[np.arange(len(p)), own["target"]])
    assert np.exp(first.output("logits/multi", "test")) == pytest.approx(p)
    assert len(ensemble_runs([run for run in study.runs if run.modality != "b" or run.seed])) == 1
    regression = [run for run in make_study(task="regression", seeds=(0,)).runs if run.is_teacher]
    mean = np.mean([run.predictions["prediction"] for run in regression], axis=0)
    assert ensemble_runs(regression)[0].predictions["prediction"].to_numpy() == pytest.approx(mean)


def test_opponents_and_the_teacher_that_validation_chooses(make_study):
    study = make_study(("a", "b", "c"), seeds=(0, 1), methods=("joint", "g2d"))
    table = only(study.runs, metric="accuracy")
    pairs = set(zip(table["method"], table["against"], table["part"], strict=True))
    whole = {("g2d", "joint", "multi")} | {
        (m, against, "multi") for m in ("joint", "g2d") for against in ("unimodal · c", ENSEMBLE)
    }
    assert pairs == whole | {(m, f"unimodal · {x}", x) for m in ("joint", "g2d") for x in "abc"}
    for run in study.runs:  # the best on val is now a, whatever test says
        if run.modality == "a":
            at = run.predictions["split"] == "val"
            run.predictions.loc[at, "prediction"] = run.predictions.loc[at, "target"]
    assert "unimodal · a" in set(only(study.runs, part="multi")["against"])


def test_folds_have_samples_of_their_own():
    runs = [
        run_of(RNG.random(60) < p, method, fold=fold)
        for fold in (1, 2, 3, 4)
        for method, p in (("joint", 0.5), ("g2d", 0.95))
    ]
    row = only(runs, metric="accuracy").iloc[0]
    assert (row["runs"], row["samples"], row["result"]) == (4, 240, "better")
    differences = [
        a.predictions["prediction"].eq(a.predictions["target"]).mean()
        - b.predictions["prediction"].eq(b.predictions["target"]).mean()
        for b, a in zip(runs[::2], runs[1::2], strict=True)
    ]
    half = stats.t.isf(0.025, 3) * np.std(differences, ddof=1) * math.sqrt(1 / 4 + 1 / 3)  # Nadeau and Bengio
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert row["high"] - row["low"] >= 2 * half - 1e-9


def test_runs_on_other_samples_are_refused():
    with pytest.raises(ValueError, match="g2d, seed 0: its samples of val are not those of joint, seed 0"):
        resample([run_of(np.ones(5, bool), "joint"), run_of(np.ones(6, bool), "g2d")])


def test_a_split_of_its_own_for_each_seed_counts_as_a_fold_does():
    rng = np.random.default_rng(5)
    sizes = {seed: 50 + seed for seed in range(4)}  # other samples, so that seeds share none
    skill = (("joint", 0.6), ("g2d", 0.7))
    runs = [run_of(rng.random(n) < p, m, seed) for seed, n in sizes.items() for m, p in skill]
    row = only(runs, metric="accuracy").iloc[0]
    assert (row["runs"], row["samples"]) == (4, sum(sizes.values()))
    as_folds = [replace(run, fold=run.seed + 1, seed=0) for run in runs]
    again = only(as_folds, metric="accuracy").iloc[0]
    for column in ("difference", "low", "high", "p"):
        assert row[column] == pytest.approx(again[column])


@pytest.mark.parametrize("groups", [None, [0] * 6], ids=["independent", "one group"])
@pytest.mark.parametrize("right", [[True] * 6, [False] * 6, [True] * 3 + [False] * 3])
def test_identical_and_constant_predictors_are_not_told_apart(right: list[bool], groups: list[int] | None):
    own = np.array(right)
    runs = [run_of(own, m, seed, groups=groups) for m in ("joint", "g2d") for seed in (0, 1, 2)]
    table = only(runs)
    assert set(table["result"]) == {"not told apart"}
    assert (table["difference"] == 0).all()
    assert table["p"].isna().all() if groups else (table["p"] == 1).all()


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_samples_tell_nothing(n: int):
    runs = [run_of(np.full(n, m == "g2d"), m) for m in ("joint", "g2d")]
    assert set(only(runs)["result"]) == {"not told apart"}
    metrics = intervals(collect_metrics(runs, "d", "raw"), resample(runs))
    assert metrics["low"].isna().all() == (n == 1)
    errors = [run_of(np.array([float(m == "joint")] * n), m, errors=True) for m in ("joint", "g2d")]
    assert set(only(errors)["result"]) == {"not told apart"}


def test_nan_predictions_are_refused_as_before():
    run = run_of(np.ones(5, bool))
    bad = replace(run, predictions=run.predictions.assign(prediction=math.nan))
    with pytest.raises(ValueError, match=r"g2d, seed 0, val, multi: .*NaN"):
        collect_metrics([bad], "d", "raw")


def test_five_modalities_one_seed_and_a_class_that_test_lacks(make_study):
    study = make_study(tuple("abcde"), seeds=(0,), samples=60)
    for run in study.runs:
        run.predictions.loc[run.predictions["target"] == 5, "target"] = 4
    evaluation = study.evaluate()
    assert evaluation.comparisons["p"].between(0, 1).all()
    assert evaluation.metrics.loc[evaluation.metrics["metric"] == "map", "value"].between(0, 1).all()
    assert set(evaluation.comparisons["part"]) == {"multi", *"abcde"}
    absent = evaluation.breakdown.per_class.query("split == 'test' and `class` == 5")
    assert (absent["samples"] == 0).all()


def test_by_class_confusion_and_group(make_study):
    study = make_study(seeds=(0,), methods=("joint",))
    per_class, confusion, per_group = breakdown(study.runs)
    run = study.runs[-1]
    own = run.predictions.query("split == 'test' and part == 'multi'")
    chosen = "method == 'joint' and split == 'test' and part == 'multi'"
    matrix = confusion.query(chosen).pivot_table(
        index="target", columns="prediction", values="samples", fill_value=0
    )
    assert matrix.to_numpy().sum() == len(own)
    rows = per_class.query(chosen).set_index("class")
    for c in range(6):
        true, said = own["target"] == c, own["prediction"] == c
        assert matrix.loc[c, c] == (true & said).sum()
        assert rows.loc[c, "samples"] == true.sum()
        assert rows.loc[c, "recall"] == pytest.approx((true & said).sum() / true.sum())
        assert rows.loc[c, "precision"] == pytest.approx((true & said).sum() / said.sum())
    group = run.samples.set_index("sample_id").loc[own["sample_id"], "group"].to_numpy()
    expected = (own["target"] == own["prediction"]).groupby(group).mean()
    values = per_group.query(f"{chosen} and metric == 'accuracy'").set_index("group")["value"]
    assert values.to_dict() == pytest.approx(expected.to_dict())
    regression = breakdown(make_study(task="regression", seeds=(0,)).runs)
    assert regression.per_class.empty
    assert set(regression.per_group["metric"]) == {"rmse", "mae", "bias"}
