"""The sentences, at cases made by hand: what is said, and what is not."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from g2d_pipeline.evaluation import Sentence, verdict

TEACHER = "unimodal · image"
ENSEMBLE = "ensemble of teachers"


def summary(metric: str = "accuracy", n: int = 3, **means: float) -> pd.DataFrame:
    """Multimodal means of methods; a teacher of each of two modalities is always there."""
    rows: list[dict[str, Any]] = [
        {"method": "unimodal", "modality": m, "part": m, "mean": 0.4} for m in ("audio", "image")
    ]
    rows += [{"method": m, "modality": "", "part": "multi", "mean": value} for m, value in means.items()]
    shared = {"dataset": "d", "source": "raw", "split": "test", "metric": metric, "std": 0.01, "n": n}
    return pd.DataFrame(rows).assign(**shared, selection="val")


def row(method: str, against: str, difference: float, result: str, **more: Any) -> dict[str, Any]:
    value = more.pop("value", 0.8)
    facts = {"split": "test", "part": "multi", "metric": "accuracy", "runs": 3, "p_holm": 0.01}
    ends = {"low": difference - 0.02, "high": difference + 0.02}
    numbers = {"value": value, "reference": value - difference, "difference": difference}
    return {"method": method, "against": against, "result": result} | facts | numbers | ends | more


def said(table: pd.DataFrame, *rows: dict[str, Any], **more: Any) -> dict[str, Sentence]:
    """Topic → the sentence; two of one topic are joined by their texts."""
    columns = row("", "", 0.0, "")
    comparisons = pd.DataFrame(list(rows), columns=list(columns))
    result: dict[str, Sentence] = {}
    for one in verdict(table, comparisons, **more):
        text = f"{result[one.topic].text} {one.text}" if one.topic in result else one.text
        result[one.topic] = Sentence(one.topic, text, one.command)
    return result


BEST = summary(joint=0.75, g2d=0.80, ogm=0.70)


def test_the_best_method_and_whether_it_is_told_apart():
    clear = said(BEST, row("g2d", "joint", 0.05, "better"), row("ogm", "joint", -0.05, "worse", value=0.7))
    assert clear["best method"].text == (
        "g2d has the best accuracy on test, 80.0 ± 1.0 %: better than joint training by 5.0 points "
        "(95 % interval 3.0 to 7.0, p = 0.01)."
    )
    assert clear["other methods"].text == "Also worse than joint training: ogm."
    assert clear["next"] == Sentence("next", "Use g2d.", "kedro run --params dataset=d,method=g2d")
    assert "one run" not in clear
    open_ = said(BEST, row("g2d", "joint", 0.005, "not told apart", p_holm=0.4))
    assert "not told apart from joint training (difference 0.5 points, 95 % interval −1.5 to 2.5" in (
        open_["best method"].text
    )
    assert open_["next"].command == "kedro run --params dataset=d,method=g2d,compare=joint,seeds=0/1/2/3/4"


def test_joint_training_may_be_as_good_as_anything():
    table = summary(n=5, joint=0.80, g2d=0.75)
    sentences = said(table, row("g2d", "joint", -0.05, "worse", runs=5, value=0.75))
    assert (
        sentences["best method"].text == "No method is above joint training on test, 80.0 ± 1.0 % accuracy."
    )
    assert "study=advise,dataset=d" in sentences["next"].command
    enough = said(summary(n=5, joint=0.75, g2d=0.80), row("g2d", "joint", 0.05, "not told apart", runs=5))
    assert "study=advise" in enough["next"].command  # five seeds: more of them are not the remedy


def test_one_run_and_no_method():
    assert "another seed" in said(BEST, row("g2d", "joint", 0.05, "better", runs=1))["one run"].text
    assert said(summary()) == {}
    assert said(summary(g2d=0.8))["best method"].text == "g2d reaches 80.0 ± 1.0 % accuracy on test."


def test_of_a_method_of_which_runs_failed_nothing_is_made():
    table = BEST.assign(n=[3, 3, 3, 2, 3])
    assert "joint" in said(table)["best method"].text


@pytest.mark.parametrize(
    ("result", "difference", "words"),
    [
        ("better", 0.1, "Multimodality pays: g2d is better than the best teacher, unimodal · image by 10.0"),
        ("not told apart", 0.01, "It is not shown that multimodality pays: g2d is not told apart from"),
        ("worse", -0.1, "Multimodality does not pay: g2d is worse than the best teacher"),
    ],
)
def test_whether_multimodality_pays(result: str, difference: float, words: str):
    sentences = said(BEST, row("g2d", TEACHER, difference, result), row("g2d", "joint", 0.05, "better"))
    assert sentences["multimodality"].text.startswith(words)
    assert (sentences["next"].command == "kedro run --params dataset=d,method=unimodal") == (
        result == "worse"
    )


def test_the_ensemble_of_the_teachers():
    worse = said(BEST, row("g2d", ENSEMBLE, -0.05, "worse"))
    assert "reaches 85.0 %: g2d is worse than it by 5.0 points" in worse["ensemble of teachers"].text
    assert worse["next"].command == "kedro run --params dataset=d,method=ume"
    with_ume = said(summary(joint=0.7, g2d=0.8, ume=0.75), row("g2d", ENSEMBLE, -0.05, "worse"))
    assert "ume" not in with_ume["next"].command


def test_an_under_used_modality_with_its_shapley_value_and_its_probe():
    inside = row("joint", "unimodal · audio", -0.2, "worse", part="audio", value=0.3)
    shapley = pd.DataFrame({"method": "joint", "seed": 0, "part": ["audio", "image"], "value": [0.06, 0.54]})
    plain = said(BEST, inside, row("joint", TEACHER, 0.0, "not told apart", part="image"))
    assert plain["under-used modality"].text == (
        "joint under-uses audio: from it alone the model reaches 30.0 %, its teacher 50.0 %."
    )
    for probe, words in ((0.49, "the encoder knows as much"), (0.35, "what the encoder learnt is less")):
        probes = pd.DataFrame(
            {"method": ["joint", "unimodal"], "seed": 0, "modality": "audio", "metric": "accuracy"}
        ).assign(split="test", value=[probe, 0.5])
        text = said(BEST, inside, shapley=shapley, probes=probes)["under-used modality"].text
        assert "its Shapley value is 10 % of the whole" in text
        assert f"{100 * probe:.1f} % on its features, 50.0 % on the teacher's: {words}." in text
    assert "under-used modality" not in said(BEST, inside | {"method": "ogm"})  # neither best nor joint
    assert "under-used modality" not in said(BEST, inside | {"result": "not told apart"})
    for nothing in (shapley.iloc[:0], shapley.assign(value=-shapley["value"])):  # no share of a loss
        assert "Shapley" not in said(BEST, inside, shapley=nothing)["under-used modality"].text


def test_rankings_that_disagree():
    columns = ["seed", "confidence_on", "modality", "confidence"]
    rows = [(0, "train", "a", 0.9), (0, "train", "b", 0.5), (0, "val", "a", 0.4), (0, "val", "b", 0.5)]
    rankings = pd.DataFrame(rows, columns=columns)
    sentences = said(BEST, rankings=rankings)
    assert "rank differently on train and on validation data (seed 0)" in sentences["ranking"].text
    assert sentences["next"].command == "kedro run --params dataset=d,method=g2d_val,compare=joint"
    assert "ranking" not in said(BEST, rankings=rankings[rankings["confidence_on"] == "val"])
    assert "g2d_val" not in said(summary(joint=0.7, ogm=0.8), rankings=rankings)["next"].command


def test_validation_that_would_have_chosen_another_method():
    val = row("g2d", "joint", -0.1, "worse", split="val", value=0.7)
    text = said(BEST, val, row("g2d", "joint", 0.05, "better"), apart=["Val is unlike test."])["val and test"]
    assert text.text == ("Validation would have chosen joint, 80.0 % there, g2d 70.0 %. Val is unlike test.")
    same = row("g2d", "joint", 0.1, "better", split="val")
    assert "val and test" not in said(BEST, same, row("g2d", "joint", 0.05, "better"))


def test_a_regression_is_told_in_its_unit():
    table = summary("rmse", joint=2.0, g2d=1.5)
    sentences = said(table, row("g2d", "joint", 0.5, "better", metric="rmse", value=1.5), unit="kg")
    assert sentences["best method"].text.startswith(
        "g2d has the best RMSE on test, 1.50 ± 0.01 kg: better than joint training by 0.500 kg (95 %"
    )


def test_it_reaches_terminal_report_and_json_once(make_study):
    study = make_study(seeds=(0, 1, 2), disagree=(1,))
    for run in study.runs:  # val unlike test
        at = run.predictions["split"] == "val"
        run.predictions.loc[at, "prediction"] = run.predictions.loc[at, "target"]
    evaluation = study.evaluate()
    record = evaluation.metrics_json
    assert [one["text"] for one in record["verdict"]] == [one.text for one in evaluation.verdict]
    topics = {one["topic"] for one in record["verdict"]}
    assert {
        "best method",
        "multimodality",
        "ensemble of teachers",
        "ranking",
        "val and test",
        "next",
    } <= topics
    assert evaluation.verdict[-1].command in evaluation.report
    for sentence in evaluation.verdict:
        assert evaluation.table.count(sentence.text) == 1
        assert not any(sentence.text in note for note in record["notes"])
    assert set(record["comparisons"][0]) >= {"difference", "low", "high", "p_holm", "effect", "result"}
    run = record["runs"][-1]
    low, high = run["intervals"]["test"]["multi"]["accuracy"]
    assert low <= run["metrics"]["test"]["multi"]["accuracy"] <= high
    assert {one["class"] for one in record["per_class"]} == set(range(6))
    assert {one["metric"] for one in record["per_group"]} == {"accuracy", "nll"}
    assert study.evaluate().table == evaluation.table
