"""Mean and spread over seeds, the order of rows, how numbers are written, what is told apart from joint."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.evaluation import (
    Failure,
    collect_metrics,
    render_table,
    seed_table,
    summarise,
    summary_table,
    table_text,
)
from g2d_pipeline.evaluation.tables import ABSENT, FAILED, MARKS, Results, format_value, table_title


def metrics_of(values: dict[str, list[float]], metric: str = "accuracy", **columns: object) -> pd.DataFrame:
    """Multimodal test values of some methods, a value a seed."""
    rows = [
        {"method": method, "modality": "", "seed": seed, "value": value}
        for method, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    shared = {
        "dataset": "d",
        "source": "raw",
        "split": "test",
        "part": "multi",
        "metric": metric,
        "selection": "val",
    }
    return pd.DataFrame(rows).assign(**(shared | {"selected_epoch": 1} | columns))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_mean_and_sample_standard_deviation(values: list[float]):
    row = summarise(metrics_of({"joint": values})).iloc[0]
    assert row["mean"] == pytest.approx(statistics.fmean(values))
    assert row["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert row["n"] == len(values)


def test_one_seed_has_no_spread():
    summary = summarise(metrics_of({"joint": [0.713]}))
    assert math.isnan(summary["std"].iloc[0])
    assert summary_table(Results(summary)).loc[("joint", ""), ("accuracy", "multi")] == "71.3"
    assert "±" not in table_text(Results(summary))
    assert "1 seed" in table_text(Results(summary))


def test_teachers_in_configuration_order_then_methods_by_appearance(make_study):
    study = make_study(("text", "audio", "image"), methods=("zeta", "alpha"))
    wide = summary_table(Results(summarise(collect_metrics(study.runs, "d", "raw"))))
    assert list(wide.index) == [
        ("unimodal", "text"),
        ("unimodal", "audio"),
        ("unimodal", "image"),
        ("zeta", ""),
        ("alpha", ""),
    ]
    parts = ["multi", "text", "audio", "image"]
    assert list(wide.columns) == [(metric, part) for metric in ("accuracy", "f1_macro") for part in parts]
    assert wide.loc[("unimodal", "text"), ("accuracy", "multi")] == ABSENT
    assert "±" in wide.loc[("alpha", ""), ("accuracy", "image")]


def test_a_run_without_the_split_is_named(make_study):
    metrics = collect_metrics(make_study().runs, "d", "raw")
    lacking = metrics[~((metrics["method"] == "g2d") & (metrics["seed"] == 1) & (metrics["split"] == "test"))]
    with pytest.raises(ValueError, match="no predictions on the test split: g2d, seed 1"):
        summarise(lacking)


@pytest.mark.parametrize(
    ("metric", "mean", "std", "written"),
    [
        ("accuracy", 0.7134, 0.0123, "71.3 ± 1.2"),
        ("accuracy", 0.7134, math.nan, "71.3"),
        ("mape", 12.345, 1.0, "12.35 ± 1.00"),
        ("r2", -0.1239, 0.01, "-0.124 ± 0.010"),
        ("rmse", 1234.5, 12.3, "1234 ± 12"),
        ("rmse", 0.01234, 0.001, "0.0123 ± 0.0010"),
        ("nll", math.nan, math.nan, ABSENT),
    ],
)
def test_how_a_number_is_written(metric: str, mean: float, std: float, written: str):
    assert format_value(metric, mean, std) == written


def compared(results: dict[str, str], metric: str = "accuracy", runs: int = 3) -> pd.DataFrame:
    """Comparisons with joint training, and others that mark nothing."""
    rows = [
        {"method": method, "against": against, "part": part, "split": split, "result": result, "runs": runs}
        for method, outcome in results.items()
        for against, part, split, result in (
            ("joint", "multi", "test", outcome),
            ("joint", "multi", "val", "worse"),
            ("unimodal · a", "multi", "test", "worse"),
            ("unimodal · a", "a", "test", "worse"),
        )
    ]
    return pd.DataFrame(rows).assign(metric=metric)


def test_a_multimodal_value_is_marked_by_its_comparison_with_joint_and_not_by_its_size():
    results = {"ogm": "not told apart", "g2d": "better", "umt": "worse"}
    values = {"joint": [0.5, 0.5], "ogm": [0.9, 0.9], "g2d": [0.6, 0.7], "umt": [0.4, 0.4]}
    summary, comparisons = summarise(metrics_of(values)), compared(results)
    wide = summary_table(Results(summary, comparisons), ["accuracy"])["accuracy", "multi"]
    assert wide.tolist() == ["50.0 ± 0.0", "≈ 90.0 ± 0.0", "▲ 65.0 ± 7.1", "▼ 40.0 ± 0.0"]
    text = table_text(Results(summary, comparisons), ["accuracy"])
    rows = {line.split()[0]: line for line in text.splitlines() if "±" in line and "·" not in line}
    assert {name for name, row in rows.items() if any(mark in row for mark in MARKS.values())} == set(results)
    assert "Against joint: ▲ better, ▼ worse, ≈ not told apart (p < 0.05)" in text.splitlines()
    single = table_text(Results(summary, compared({"g2d": "better"}, runs=1)), ["accuracy"])
    assert "Against joint: ▲ better (p < 0.05, one run of each)" in single.splitlines()


def test_without_joint_training_nothing_is_marked():
    alone = summarise(metrics_of({"a": [0.5], "b": [0.6]}))
    for comparisons in (None, compared({}).reindex(columns=compared({"a": "better"}).columns)):
        text = table_text(Results(alone, comparisons))
        assert not any(mark in text for mark in MARKS.values())
        assert "joint" not in text


def test_the_title_says_sample_and_selection():
    raw = summarise(metrics_of({"a": [0.5, 0.6]}))
    assert table_title(raw) == "d · test · mean ± std over 2 seeds"
    other = summarise(metrics_of({"a": [0.5, 0.6]}, source="sample", selection="test"))
    assert (
        table_title(other)
        == "SAMPLE · d · test · mean ± std over 2 seeds\nselection on test (published protocol)"
    )
    assert "last epoch" in table_title(summarise(metrics_of({"a": [0.5]}, selection="last")))


def test_the_terminal_table_fits_80_characters_with_three_modalities(make_study):
    summary = summarise(collect_metrics(make_study(("audio", "image", "text")).runs, "d", "raw"))
    marked = compared({"joint": "worse", "g2d": "not told apart"}, runs=1)
    text = table_text(Results(summary, marked))
    assert max(map(len, text.splitlines())) <= 80
    assert "▼" in text
    assert render_table(Results(summary)).row_count == 2 * (1 + 5)


def test_the_unit_is_in_the_heading(make_study):
    summary = summarise(collect_metrics(make_study(task="regression").runs, "d", "raw"))
    assert "RMSE (m³/m³)" in table_text(Results(summary, unit="m³/m³"), ["rmse"])
    assert "MAPE (%)" in table_text(Results(summary, unit="m³/m³"))


def test_markup_in_a_name_is_shown_as_it_is():
    assert "[bold]x[/bold]" in table_text(Results(summarise(metrics_of({"[bold]x[/bold]": [0.5]}))))


def test_folds_are_an_axis_beside_the_seeds(make_study):
    runs = [
        replace(run, fold=fold) for fold in (1, 2, 3) for run in make_study(seeds=(0, fold), disagree=()).runs
    ]
    first = [run for run in runs if run.seed == 0]
    for own, words in ((first, "3 folds"), (runs, "3 folds × 2 seeds")):
        metrics = collect_metrics(own, "d", "raw")
        summary = summarise(metrics)
        assert table_title(summary) == f"d · test · mean ± std over {words}"
        assert set(summary["n"]) == {len(own) // len({(r.method, r.modality) for r in own})}
    assert list(metrics.columns[4:6]) == ["fold", "seed"]
    wide = seed_table(metrics)
    assert wide.index.names == ["method", "modality", "fold", "seed", "selected_epoch"]
    assert [i[2:4] for i in wide.index if i[0] == "g2d"] == [(f, s) for f in (1, 2, 3) for s in (0, f)]
    values = metrics[metrics["split"].eq("test") & metrics["method"].eq("g2d") & metrics["part"].eq("multi")]
    values = values.loc[values["metric"] == "accuracy", "value"]
    row = summary.query("method == 'g2d' and part == 'multi' and metric == 'accuracy'").iloc[0]
    assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std(ddof=1)))
    with pytest.raises(ValueError, match="unimodal · audio, fold 1, seed 0, is there twice"):
        collect_metrics([*runs, runs[0]], "d", "raw")


def test_seed_by_seed(make_study):
    metrics = collect_metrics(make_study(seeds=(0, 7)).runs, "d", "raw")
    wide = seed_table(metrics)
    assert len(wide) == 4 * 2
    assert ("g2d", "", 7, 23) in wide.index  # the made-up selected epoch is 30 − seed
    assert "±" not in "".join(wide.to_numpy().ravel())


LOST = [Failure("g2d", "", 2, "it diverged"), Failure("umt", "", 0, "no memory"), Failure("umt", "", 1, "x")]


def test_failed_runs_are_in_the_table_below_the_verdict():
    summary = summarise(metrics_of({"joint": [0.5, 0.5, 0.5], "ogm": [0.6, 0.6, 0.6], "g2d": [0.9, 0.9]}))
    wide = summary_table(Results(summary, failures=LOST), ["accuracy"])
    assert wide["accuracy", "multi"].tolist() == ["50.0 ± 0.0", "60.0 ± 0.0", "90.0 ± 0.0", FAILED]
    text = table_text(Results(summary, failures=LOST), ["accuracy"], ["A note."], ["A finding."])
    rows = {line.strip().split("  ")[0] for line in text.splitlines()}
    assert {"joint", "ogm", "g2d (2 of 3 seeds)", "umt (0 of 2 seeds)"} <= rows
    assert text.splitlines()[-6:] == [
        "A finding.",
        "",
        "Failed: g2d, seed 2: it diverged",
        "Failed: umt, seed 0: no memory",
        "Failed: umt, seed 1: x",
        "A note.",
    ]


def test_rmse_leads_and_mape_is_shown_where_it_is_defined(make_study):
    study = make_study(task="regression")
    summary = summarise(collect_metrics(study.runs, "d", "raw"))
    assert list(summary_table(Results(summary)).columns.unique("metric")) == ["rmse", "r2", "mape"]
    summary.loc[summary["metric"] == "mape", "mean"] = math.nan
    assert list(summary_table(Results(summary)).columns.unique("metric")) == ["rmse", "r2"]
