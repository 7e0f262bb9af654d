"""advise: the right thing on data whose answer is known, within the time, whatever is not defined."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.evaluation.statistics import COMPARISON_COLUMNS
from g2d_pipeline.studies.racing import Costs, Score, advise, fitting, makespan, scaled, shortened, survivors
from tests.studies.conftest import Project
from tests.test_resolve import configure

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*register_new_resolver"),
    pytest.mark.usefixtures("in_this_process"),
]
ROWS = {"train": 400, "val": 200, "test": 1500}
QUICK = {"minutes": 10, "methods": ["mses"], "rungs": [0.5], "finalists": 1, "compute": {"workers": 1}}


def add_constructed(project: Project, kind: str, seed: int) -> str:
    """Four classes: told by one modality, the other being noise; by both alike; or by both together, one half
    by each, of which one is seen more easily."""
    rng, n = np.random.default_rng(seed), sum(ROWS.values())
    label = rng.integers(0, 4, n)

    def modality(classes: np.ndarray, strength: float) -> np.ndarray:
        x = rng.normal(size=(n, 6))
        x[np.arange(n), classes] += strength
        return x

    if kind == "noise":
        values = {"signal": modality(label, 2.5), "noise": modality(label, 0.0)}
    elif kind == "redundant":
        one = modality(label, 2.5)
        values = {"one": one, "two": one + 0.05 * rng.normal(size=one.shape)}
    else:
        values = {"loud": modality(label // 2, 3.5), "soft": modality(label % 2, 2.0)}
    split = np.repeat(list(ROWS), list(ROWS.values()))
    training = {"epochs": 12, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.2}}
    project.add_table(kind, values, label, split, width=32, training=training)
    return kind


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["noise", "redundant", "complementary"])
def test_it_says_the_right_thing_where_the_answer_is_known(project, kind, seed):
    project.add_study("race", dataset=add_constructed(project, kind, seed), seeds=[seed], **QUICK)
    about = json.loads((project.run("race") / "study.json").read_text())
    words = " ".join(about["notes"])
    if kind == "complementary":
        assert about["recommended"] != "unimodal"
        assert "Multimodality pays: " in words
    else:
        assert about["recommended"] == "unimodal"
        assert "Use one modality: " in words
        assert about["modality"] == "signal" or kind == "redundant"
        assert "Joint training is as good as anything here" in words
    assert f"dataset={kind},method={about['recommended']}" in about["command"]


def test_the_time_is_kept_what_is_dropped_is_said_and_a_second_call_goes_on(project):
    """Slow methods sleep: 0.6 s an epoch."""
    copies = {f"slow{i}": {"algorithm": "misbehaving.Slow", "needs_teachers": False} for i in range(8)}
    project.write("methods/slow.yml", {"methods": copies})
    settings = {
        "dataset": "tiny",
        "methods": ["fails", "greedy", *copies],
        "compute": {"workers": 1},
        "seeds": [0, 1],
    }
    settings |= {"options": {"epochs": 8}, "rungs": [0.5], "finalists": 1}
    project.add_study("race", minutes=0.4, **settings)
    start = time.monotonic()
    folder = project.run("race")
    assert time.monotonic() - start < 1.1 * 24
    about = json.loads((folder / "study.json").read_text())
    assert about["dropped"]["greedy"].startswith("not defined here: greedy exchanges maps")
    assert "failed: ValueError: no cluster is left" in about["dropped"]["fails"]
    late = [m for m, why in about["dropped"].items() if "no time was left" in why or "time ran out" in why]
    assert late
    assert about["recommended"] in ("joint", "unimodal", *copies)
    rounds = [row["round"] for row in about["rounds"]]
    assert any(name.startswith("last round") for name in rounds)  # time is left for it
    made = project.trained()
    project.add_study("race", minutes=0.2, **settings)
    project.run("race")
    assert made.items() < project.trained().items()


def test_the_same_finished_cells_give_the_same_verdict(project):
    project.add_study("race", dataset="tiny", **QUICK | {"methods": ["mses", "ogm"], "seeds": [0, 1]})
    first, second = project.run("race"), project.run("race")
    assert first == second
    abouts = [json.loads((folder / "study.json").read_text()) for folder in (first, second)]
    same = ("recommended", "winner", "command", "dropped", "rounds", "comparisons", "seeds")
    assert [[about[key] for key in same] for about in abouts[1:]] == [[abouts[0][key] for key in same]]
    assert (first / "rounds.csv").is_file()


BAD = [
    ({"minutes": 0.001}, r"minutes = 0.001 is too little .* take about .* here: say minutes=1, or fewer"),
    ({"minutes": 0}, "studies/race.yml: minutes = 0: it should be greater than 0"),
    ({"dataset": "tinny"}, "study race: unknown dataset 'tinny'. Did you mean 'tiny'"),
    ({"methods": ["g2dd"]}, "study race: unknown method 'g2dd'. Did you mean 'g2d'"),
    ({"rungs": [0.5, 0.5]}, "rungs = 0.5/0.5: shares of the epochs rise"),
    ({"options": {"use_modalities": "loud"}}, "tiny has one modality: there is nothing to balance"),
    ({"options": {"alhpa": 1}}, "unknown key 'alhpa'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_mistakes_end_in_a_line(project, changes, message):
    project.add_study("race", **{"dataset": "tiny", **QUICK, **changes})
    with pytest.raises(ConfigError, match=message):
        project.run("race")
    assert not (project.path / "data" / "08_reporting").exists()


def test_a_race_needs_a_data_set(project):
    project.add_study("race", **QUICK)
    with pytest.raises(ConfigError, match=r"race.yml: 'dataset' is missing: say --params study=race,dataset"):
        project.run("race")


def test_schedules_are_shortened_with_the_epochs_and_teachers_are_not():
    change = {
        "datasets.av_digits.training.lr_schedule": {"name": "multistep", "milestones": [10, 30], "warmup": 4}
    }
    change |= {"datasets.av_digits.training.early_stopping": 8}
    run = {"method": "reconboost", "compare": ["g2d", "relearning", "joint"], "epochs": 40, "tau": [12, 28]}
    whole = configure(change, **run)
    short = configure(change, **shortened(run, whole, 0.25))
    assert short.teachers() == whole.teachers()
    training = short.methods["joint"].training
    assert (training.epochs, training.early_stopping) == (10, 2)
    assert (training.lr_schedule.milestones, training.lr_schedule.warmup) == ([2, 8], 1)
    assert short.methods["g2d"].smp.phases(2, 10) == [3, 7]
    assert short.methods["reconboost"].parameters["stage_epochs"] == 1
    assert short.methods["relearning"].parameters["reinit_epoch"] == 4
    assert short.methods["g2d"].parameters == whole.methods["g2d"].parameters
    assert shortened(run, whole, 1.0) == run
    assert shortened({"smp": {"tau": [12, 28]}}, whole, 0.25) == scaled(whole, 0.25)


def row(method: str, against: str, interval: tuple[float, float, float], reference: float = 0.8) -> dict:
    labels = {"method": method, "against": against, "split": "test", "part": "multi", "metric": "accuracy"}
    values = dict(zip(("difference", "low", "high"), interval, strict=True))
    return dict.fromkeys(COMPARISON_COLUMNS, 0) | labels | values | {"reference": reference}


CLEAR, NONE, OVER = (0.05, 0.02, 0.08), (0.0, -0.01, 0.01), (0.2, 0.1, 0.3)
# The gain over joint training, that over the best teacher, what is recommended, and words of it.
DECISIONS = {
    "a clear gain": (CLEAR, OVER, "mses", "is better than joint training on test: +5.0"),
    "none": (NONE, OVER, "joint", "Joint training is as good as anything here: mses"),
    "clear, and too small": ((0.01, 0.005, 0.015), OVER, "joint", "does not gain"),
    "worse on test": ((-0.05, -0.08, -0.02), OVER, "joint", "does not gain on test: −5.0 points"),
    "cannot be told": ((0.03, -0.01, 0.07), OVER, "joint", "is not told apart from joint"),
    "one modality": (CLEAR, (-0.01, -0.03, 0.01), "unimodal", "Use one modality: image alone"),
    "one may do": (CLEAR, (0.01, -0.03, 0.05), "mses", "worth more than image alone is not told"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_what_is_advised_follows_from_the_intervals(case):
    gain, over_teacher, method, words = DECISIONS[case]
    rows = [row("mses", "joint", gain)]
    rows += [row(name, "unimodal · image", over_teacher) for name in ("mses", "joint")]
    advice = advise(pd.DataFrame(rows), "mses", "image", "accuracy", 0.02)
    assert (advice.method, advice.modality) == (method, "image" if method == "unimodal" else "")
    assert words in " ".join(advice.sentences)


def test_of_an_error_the_margin_is_a_share():
    rows = [row("mses", "joint", (0.3, 0.1, 0.9), reference=50.0) | {"metric": "rmse"}]
    assert advise(pd.DataFrame(rows), "mses", "", "rmse", 0.02).method == "joint"  # less than 1 of 50
    assert advise(pd.DataFrame(rows), "mses", "", "rmse", 0.01).method == "mses"


def test_who_goes_on_and_what_fits_into_the_time():
    scores = {"a": Score(0.5, -1), "b": Score(0.7, -2), "c": Score(0.7, -1), "d": Score(float("nan"), 0)}
    assert survivors(scores, 0.25) == ["c", "b"]
    assert survivors(scores, 0.75, 1) == ["c", "b", "a"]
    assert makespan([4.0, 2.0], 2) == 3 + 2
    assert makespan([4.0, 2.0], 1) == 6
    assert fitting([("a", [1.0]), ("b", [5.0]), ("c", [0.1])], 1, 4.0) == ["a"]
    costs = Costs()
    costs.add("joint", 2, 3.0)
    costs.add("joint", 10, 70.0)
    costs.add("joint", 10, 10.0)  # the longest one says most, and of equals the last one
    costs.add("joint", 4, 100.0)
    assert (costs.estimate("joint", 20), costs.estimate("joint", 5), costs.estimate("other", 5)) == (
        20,
        5,
        10,
    )
