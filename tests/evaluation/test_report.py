"""The report: the same bytes twice, loud about samples and rankings, deaf to markup in data, sufficient in
itself."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from markupsafe import escape

from g2d_pipeline.config import SMPSettings
from g2d_pipeline.evaluation import (
    Failure,
    collect_metrics,
    evaluate,
    ranking_disagreements,
    summarise,
    table_text,
)
from g2d_pipeline.evaluation.report import CARDS_SHOWN, cards, comparison_rows, method_rows
from g2d_pipeline.evaluation.tables import Results, table_files

EVIL = "<script>alert('x')</script>"


def visible(html: str) -> str:
    """The page without its style sheet."""
    return re.sub(r"<style\b.*?</style>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_same_inputs_give_the_same_bytes(make_study, evaluated, task: str):
    assert make_study(task=task).evaluate().report.encode() == evaluated(task=task).report.encode()


def test_the_order_of_runs_is_not_seen_where_methods_keep_theirs(make_study):
    study = make_study()
    shuffled = [*study.runs[4:], *study.runs[:4][::-1]]  # students first, teachers backwards
    assert replace(study, runs=shuffled).page() == study.page()


@pytest.mark.parametrize("source", ["raw", "sample"])
def test_sample_is_said_iff_it_is_one(evaluated, source: str):
    evaluation = evaluated(source=source)
    assert ("SAMPLE" in visible(evaluation.report)) == (source == "sample")
    assert ("SAMPLE" in evaluation.table) == (source == "sample")


@pytest.mark.parametrize("code", ["check", "ignore"])
def test_a_report_of_artefacts_of_any_code_says_so(make_study, code: str):
    study = make_study()
    study.configuration["code"] = code
    assert ("Artefacts may come from another version of the code" in visible(study.page())) == (
        code == "ignore"
    )


def test_everything_from_data_is_escaped(make_study):
    study = make_study((EVIL, "image"), methods=("joint", EVIL + "2"), dataset=EVIL)
    study.meta["class_names"][0] = study.meta["target_name"] = EVIL
    study.meta["notes"] = [EVIL]
    study.meta["dropped"] = [{"file": EVIL, "reason": EVIL}]
    study.configuration[EVIL] = EVIL
    report = study.evaluate().report
    assert "<script>alert" not in report
    assert "<script" not in report.lower()
    assert "&lt;script&gt;alert" in visible(report)


@pytest.mark.parametrize("seeds", [(), (1,), (0, 2)])
def test_the_ranking_warning_is_there_iff_rankings_disagree(make_study, seeds: tuple[int, ...]):
    study = make_study(seeds=(0, 1, 2), methods=("g2d",), disagree=seeds)
    text = visible(study.page())
    assert ("ranking-warning" in text) == bool(seeds)
    assert ("confidence_on=val" in text) == bool(seeds)
    assert text.count("⚠ no") == len(seeds)
    assert ranking_disagreements(study.rankings) == list(seeds)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("val", "best validation epoch"),
        ("last", "last epoch"),
        ("test", "selection on test (published protocol)"),
    ],
)
def test_the_selection_is_stated_with_the_numbers(make_study, selection: str, words: str):
    study = make_study(selection=selection)
    text, table = (
        visible(study.page()),
        table_text(Results(summarise(collect_metrics(study.runs, "d", "raw")))),
    )
    assert words in text
    assert ("Protocol:" in text) == (selection != "val")
    assert ("optimistic" in text) == (selection == "test")
    assert (words in table) == (selection != "val")


def test_nothing_is_loaded_and_every_section_is_there(evaluated):
    report = evaluated(("audio", "image", "text")).report
    text = visible(report)
    assert not re.search(r"<(link|img|iframe|script)\b|@import|url\((?!#)|href=\"(?!#)", report)
    assert "default-src 'none'" in text
    assert len(report) < 1_000_000
    for words in (
        "clip_0031.wav",
        "file is empty",
        "row 17",
        "target is blank",
        "Speakers never cross splits.",
        "800",
    ):
        assert words in text
    for name in ("results", "metric_curves", "loss_curves", "confidence_curves", "kappa_curves"):
        assert f'id="figure-{name}"' in text
    assert "alpha = 1, beta = 1" in text
    assert "tau = 15" in text


def test_the_verdict_and_the_headline_come_first_and_settings_are_folded(evaluated):
    evaluation = evaluated()
    text = visible(evaluation.report)
    places = [
        text.index(f'id="{name}"') for name in ("verdict", "results", "comparisons", "ranking", "figures")
    ]
    assert places == sorted(places)
    for sentence in evaluation.verdict:
        assert str(escape(sentence.text)) in text
    assert "<details><summary>Methods and their settings" in text
    headline = text[text.index('<table class="headline">') :].split("</table>")[0]
    summary = evaluation.summary.set_index(["method", "modality", "part", "metric"])["mean"]
    for method, m, part in (("unimodal", "image", "image"), ("g2d", "", "multi")):
        assert f"{100 * summary[method, m, part, 'accuracy']:.1f}" in headline
    assert headline.count("<tr") == 1 + 4


def test_comparisons_are_listed_with_their_result(evaluated):
    evaluation = evaluated()
    own = evaluation.comparisons
    own = own[(own["metric"] == "accuracy") & (own["split"] == "test") & (own["part"] == "multi")]
    rows = comparison_rows(Results(evaluation.summary, evaluation.comparisons))["rows"]
    assert [row["result"] for row in rows] == list(own["result"])
    assert rows[0]["difference"] == f"{100 * own['difference'].iloc[0]:+.1f}".replace("-", "−")
    table = visible(evaluation.report).split('id="comparisons"')[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + len(own)


def test_the_table_as_files(make_study):
    study = make_study(("a|b", "image"), methods=("joint", "g2d_&"))
    summary = summarise(collect_metrics(study.runs, "made_up", "raw"))
    files = table_files(Results(summary))
    markdown, latex = files["md"].splitlines(), files["tex"]
    assert markdown[0] == "made_up · test · mean ± std over 2 seeds"
    assert {line.replace(r"\|", "").count("|") for line in markdown[2:]} == {8}
    assert r"unimodal · a\|b" in files["md"]
    assert r"g2d\_\&" in latex
    assert r"\toprule" in latex
    assert latex.count(r"\begin") == latex.count(r"\end")
    read = pd.read_csv(io.StringIO(files["csv"]), keep_default_na=False, na_values={"std": ""})
    assert list(read["mean"]) == pytest.approx(list(summary["mean"]))


def test_one_modality_one_seed_no_student(evaluated):
    evaluation = evaluated(("image",), seeds=(5,), methods=())
    assert "best teacher · image" in visible(evaluation.report)
    assert "without a spread" in visible(evaluation.report)
    assert "±" not in evaluation.table


def test_many_dropped_rows_are_counted_not_listed(make_study):
    study = make_study(seeds=(0,))
    study.meta["dropped"] = [{"row": i, "reason": "blank"} for i in range(100)]
    text = visible(study.page())
    assert "… and 60 more, 100 in all" in text
    assert "row 39" in text
    assert "row 40" not in text


def test_no_ranking_is_said(make_study):
    study = make_study(seeds=(0,))
    assert "No ranking was made." in replace(study, rankings=study.rankings.iloc[:0]).page()


def test_metrics_json_is_json_and_holds_every_number(make_study):
    study = make_study(task="regression", seeds=(0,))
    evaluation = study.evaluate()
    record = json.loads(json.dumps(evaluation.metrics_json, allow_nan=False))
    assert len(record["runs"]) == 4
    g2d = record["runs"][-1]
    assert (g2d["method"], g2d["modality"], g2d["seed"], g2d["selected_epoch"]) == ("g2d", "", 0, 30)
    table = evaluation.metrics.set_index(["method", "modality", "seed", "split", "part", "metric"])["value"]
    assert g2d["metrics"]["test"]["multi"]["rmse"] == table["g2d", "", 0, "test", "multi", "rmse"]
    assert record["summary"][0]["std"] is None  # one seed
    assert record["summary"][0]["mean"] == pytest.approx(evaluation.summary["mean"].iloc[0])
    assert [item["modality"] for item in record["rankings"][0]["val"]] == ["audio", "image"]
    assert record["dropped"] == 2


def test_a_percentage_without_a_meaning_leaves_the_rest_standing(make_study):
    study = make_study(task="regression")
    for run in study.runs:
        run.predictions.loc[run.predictions["sample_id"].str.endswith("-0"), "target"] = 0.0
    evaluation = study.evaluate()
    assert evaluation.summary.loc[evaluation.summary["metric"] == "mape", "mean"].isna().all()
    assert evaluation.figures["results"].axes["multi"].get_xlabel() == "RMSE (m³/m³)"
    assert all(row["mean"] is None for row in evaluation.metrics_json["summary"] if row["metric"] == "mape")


def test_metrics_survive_parquet(evaluated, tmp_path):
    metrics = evaluated().metrics
    metrics.to_parquet(tmp_path / "metrics.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "metrics.parquet"), metrics)


def test_an_unknown_source_is_refused(make_study):
    study = make_study(seeds=(0,), source="simulated")
    with pytest.raises(ValueError, match="expected 'raw' or 'sample'"):
        study.evaluate()


def test_failed_runs_and_notes_are_in_report_table_and_json(make_study):
    study = make_study(methods=("joint",), seeds=(0,))
    failures = [Failure("g2d", "", 0, f"loss {EVIL}"), Failure("unimodal", "audio", 1, "no memory")]
    for run in study.runs:
        run.info["training"] = {"batch_size": 900, "accumulation": 1}
    evaluation = evaluate(
        study.runs, study.meta, study.rankings, study.configuration | {"method": "g2d"}, None, failures
    )
    page = visible(evaluation.report)
    for text in (page, evaluation.table):
        assert "g2d (0 of 1 seeds)" in text
        assert "unimodal · audio (1 of 2 seeds)" in text
        assert "One step an epoch: a step of 900 samples holds all 800 of train (all runs)" in text
    assert "failed-runs" in page
    assert EVIL not in page
    assert "Failed: unimodal · audio, seed 1: no memory" in evaluation.table
    assert evaluation.metrics_json["failed"][1] == {
        "method": "unimodal",
        "modality": "audio",
        "seed": 1,
        "reason": "no memory",
    }
    assert len(evaluation.metrics_json["notes"]) == 1
    assert [card["value"] for card in cards(Results(evaluation.summary, failures=failures), "g2d")][
        -1
    ] == "failed"


@pytest.mark.parametrize("own", ["m0", "m8"])
def test_the_runs_own_method_has_a_card(make_study, own: str):
    study = make_study(methods=[f"m{i}" for i in range(9)], seeds=(0,))
    shown = cards(Results(summarise(collect_metrics(study.runs, "d", "raw"))), own)
    assert len(shown) == CARDS_SHOWN
    labels = [card["label"] for card in shown]
    assert own in labels
    assert labels[0].startswith("best teacher")
    assert labels[1:5] == [m for m in ("m0", "m1", "m2", "m3", "m4") if m != own or own == "m0"][:4]


def test_the_raw_folder_is_named(make_study):
    study = make_study()
    study.meta["raw_dir"] = "data/01_raw/birds"
    assert "Raw data, from <code>data/01_raw/birds</code>." in study.page()


def test_defaults_and_what_is_not_used_are_not_listed(make_study):
    study = make_study(methods=("g2d",))
    smp = SMPSettings(tau=[8, 22], suppressed_norm="batch").model_dump(mode="json")
    for run in study.runs:
        run.info["parameters_changed"] = {"beta": 0.5}
        run.info["smp"] = run.info["smp"] and smp | {"phases": [8, 22]}
    (row,) = method_rows(study.runs)
    assert row["parameters"] == "beta = 0.5"
    assert row["smp"] == "tau = 8/22, confidence_on = train, suppressed_norm = batch, phases = 8/22"


def test_a_bounded_output_says_which_targets_it_can_not_reach(make_study):
    study = make_study(task="regression", seeds=(0,))
    for run in study.runs:
        run.info["architecture"] = {"task": {"output": "sigmoid", "offset": 0.1, "scale": 0.2}}
    own = study.runs[0].predictions.query("split == 'test'")["target"]
    beyond = int(((own < 0.1) | (own > 0.3)).sum())
    (note,) = study.evaluate().metrics_json["notes"]
    assert f"0.1 to 0.3: {beyond} of 200 test targets lie outside" in note
