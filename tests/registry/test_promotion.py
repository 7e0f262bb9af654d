"""The promotion rule: hand-made cases for each of its parts, and how often it errs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from g2d_pipeline.config.retrain import PROMOTED_BY, Guards, PromoteSettings
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.evaluation.metrics import TASK_METRICS
from g2d_pipeline.evaluation.records import Run
from g2d_pipeline.models.task import task_from_json
from g2d_pipeline.registry.evidence import (
    HEADER,
    TABLE,
    Header,
    evaluation_set_hash,
    read_evidence,
    write_evidence,
)
from g2d_pipeline.registry.promotion import COMPARED, Decision, best_on_validation, decide
from tests.evaluation.test_robustness import trained

NO_GUARDS = Guards(per_modality=None, per_group=None, missing_modality=None, calibration=None)
SCALING = {"name": "regression", "offset": 0.0, "scale": 1.0, "spread": 1.0, "output": "identity"}
NAMES = ("a", "b", "c")
Wrong = int | list[int] | np.ndarray


def version(
    folder: Path,
    parts: dict[str, np.ndarray],
    target: np.ndarray,
    groups: Any = None,
    ids: Any = None,
    **header: Any,
) -> Path:
    """A version's folder with this evidence: part → logits `[n, C]`."""
    ids = [f"s{i:04d}" for i in range(len(target))] if ids is None else ids
    table = pd.DataFrame({"sample_id": ids, "target": target})
    if groups is not None:
        table["group"] = groups
    classes = target.dtype.kind == "i"
    about = {"task": "classification" if classes else "regression", "class_names": NAMES if classes else ()}
    about |= {"scaling": {} if classes else SCALING, "method": "joint", "seed": 0, "samples": len(table)}
    alone = [p for p in parts if p != "multi" and not p.startswith("without ")]
    about |= {"modalities": alone or ["audio"]} | header
    hashed = evaluation_set_hash(table, about["class_names"])
    for part, logits in parts.items():
        table[part] = list(np.asarray(logits, np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / TABLE)
    (folder / HEADER).write_text(Header(**about, evaluation_set=hashed).model_dump_json())
    return folder


def logits_of(target: np.ndarray, wrong: Wrong, size: float = 3.0) -> np.ndarray:
    """Logits that name the right class but for the first `wrong` samples, or those at `wrong`."""
    predicted = target.copy()
    at = np.arange(wrong) if isinstance(wrong, int) else np.asarray(wrong, int)
    predicted[at] = (predicted[at] + 1) % 3
    return size * np.eye(3)[predicted]


def classifier(
    folder: Path,
    multi: Wrong = 40,
    audio: Wrong = 78,
    image: Wrong = 80,
    *,
    n: int = 200,
    size: float = 3.0,
    without: dict[str, Wrong] | None = None,
    **further: Any,
) -> Path:
    """Two modalities, `n` samples, and how many of each part are wrong; without one it says what the other
    does."""
    target = further.pop("target", np.arange(n) % 3)
    wrong = {"multi": multi, "audio": audio, "image": image, "without audio": image, "without image": audio}
    wrong |= without or {}
    parts = {part: logits_of(target, at, size if part == "multi" else 3.0) for part, at in wrong.items()}
    return version(folder, parts, target, **further)


TENS = np.arange(200) // 20  # ten groups of twenty
GROUPS = {"groups": [f"g{g}" for g in TENS]}
EIGHT = np.flatnonzero(np.arange(200) % 20 < 8)  # wrong: eight of each group
IN_G3 = np.flatnonzero(TENS == 3)
FEW = {"groups": [f"g{g}" for g in np.where(np.arange(200) == 60, 9, TENS)]}  # g3 has nineteen
BETTER_BY_20 = {"multi": 20}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], bool, str]] = {
    "better": ({}, BETTER_BY_20, {}, True,
        "promoted: accuracy 0.9 against 0.8, better than the champion: improvement 0.1, at least 0.0"),
    "worse": ({}, {"multi": 60}, {}, False, "refused: accuracy 0.7 against 0.8, worse than the champion"),
    "a little better": ({}, {"multi": 39}, {}, False, "accuracy 0.805 against 0.8, not told apart: "),
    "as good, otherwise wrong": ({}, {"multi": np.arange(160, 200)}, {}, False, "not told apart"),
    "a little better, by value": ({}, {"multi": 39}, {"test": "value"}, True, "by value, improvement 0.005"),
    "worse, by value": ({}, {"multi": 41}, {"test": "value"}, False, "worse than the champion: by value"),
    "not better enough": ({}, BETTER_BY_20, {"min_improvement": 0.15}, False,
        "better than the champion|not told apart.*more than 0.15 wanted"),
    "at most a little worse": ({}, {"multi": 41}, {"min_improvement": -0.03}, True,
        "promoted: accuracy 0.795 against 0.8, not told apart: .*more than −0.03 wanted"),
    "a fall by the guard itself": ({"audio": 60}, BETTER_BY_20 | {"audio": 70}, {}, True, "promoted"),
    "by another metric": ({}, BETTER_BY_20, {"metric": "nll"}, True, "promoted: negative log-likelihood 0"),
    "by one that is not resampled": ({}, BETTER_BY_20, {"metric": "map", "test": "value"}, True, "mAP"),
    "audio collapses": ({}, BETTER_BY_20 | {"audio": 130}, {"guard": Guards(missing_modality=None)}, False,
        r"^refused: audio alone: accuracy falls from 0.61 to 0.35 \(guard per_modality 0.05\)$"),
    "audio collapses, unguarded": ({}, BETTER_BY_20 | {"audio": 130}, {"guard": NO_GUARDS}, True, "promoted"),
    "audio falls within the guard": ({}, BETTER_BY_20 | {"audio": 87}, {}, True, "promoted"),
    "no longer without image": ({}, BETTER_BY_20 | {"without": {"without image": 130}}, {}, False,
        r"^refused: without image: accuracy falls from 0.61 to 0.35 \(guard missing_modality 0.05\)$"),
    "unsure": ({}, BETTER_BY_20 | {"size": 0.1}, {}, False,
        r"^refused: calibration: ECE rises from 0.\d+ to 0.544 \(guard calibration 0.05\)$"),
    "unsure, unguarded": ({}, BETTER_BY_20 | {"size": 0.1}, {"guard": Guards(calibration=None)}, True, ""),
    "a group falls": ({"multi": EIGHT} | GROUPS, {"multi": IN_G3} | GROUPS, {}, False,
        r"^refused: group g3 \(20 samples\): accuracy falls from 0.6 to 0 \(guard per_group 0.1\)$"),
    "a group falls, unguarded": ({"multi": EIGHT} | GROUPS, {"multi": IN_G3} | GROUPS,
        {"guard": Guards(per_group=None)}, True, r"paired bootstrap over 10 groups"),
    "a group of few falls": ({"multi": EIGHT} | FEW, {"multi": IN_G3} | FEW, {}, True, "promoted"),
    "a group falls by chance": ({"multi": EIGHT} | GROUPS, {"multi": [60, 61, 62, *range(63, 71)]} | GROUPS,
        {}, True, "promoted"),
    "four groups": ({"groups": list("wxyz") * 50}, {"multi": 0, "groups": list("wxyz") * 50}, {}, False,
        r"not told apart: too few for a test at confidence 0.95 \(4 groups\)"),
    "one sample": ({"n": 1, "multi": 1, "audio": 0, "image": 0}, {"n": 1, "multi": 0, "audio": 0, "image": 0},
        {}, False, r"too few for a test at confidence 0.95 \(1 samples\)"),
    "one sample, by value": ({"n": 1, "multi": 1, "audio": 0, "image": 0}, {"n": 1, "multi": 0, "audio": 0,
        "image": 0}, {"test": "value"}, True, "improvement 1"),
    "equal": ({}, {}, {}, False, "^refused: it predicts exactly what the champion predicts$"),
    "equal, a loss allowed": ({}, {}, {"min_improvement": -0.1}, False, "exactly what the champion predicts"),
    "other samples": ({}, {"ids": [f"s{i:04d}" for i in range(1, 201)]}, {}, False,
        r"evaluation set is not the champion’s: only the champion has 1 \(s0000\); only the challenger has 1 "
        r"\(s0200\); another target have 199 \(s0001, s0002, s0003, …"),
    "other targets": ({}, {"target": np.r_[1, np.arange(1, 200) % 3]}, {}, False,
        r"champion’s: another target have 1 \(s0000\): `kedro models promote`"),
    "other classes": ({}, {"class_names": ("a", "b", "d")}, {}, False,
        "^refused: the classes are not the champion’s: without c, with d: `kedro models promote`"),
    "another order": ({}, {"class_names": ("b", "a", "c")}, {}, False, "the champion’s: in another order"),
    "a new class": ({}, {"class_names": ("a", "c", "b", "x")}, {}, False, "with x"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_part_of_the_rule(tmp_path: Path, case: str) -> None:
    champion, challenger, options, promoted, said = CASES[case]
    if case == "a new class":
        wide = np.pad(logits_of(np.arange(200) % 3, 0), ((0, 0), (0, 1)))
        second = version(tmp_path / "b", {"multi": wide}, np.arange(200) % 3, **challenger)
    else:
        second = classifier(tmp_path / "b", **challenger)
    decision = decide(classifier(tmp_path / "a", **champion), second, PromoteSettings(**options))
    assert decision.promote is promoted
    text = "\n".join(decision.reasons)
    assert pd.Series([text]).str.contains(said, regex=True).all(), text
    assert list(decision.comparisons) == list(COMPARED)
    written = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert written["promote"] is promoted
    assert len(written["comparisons"]) == len(decision.comparisons)
    assert all(reason.startswith("refused: ") != promoted for reason in decision.reasons[:1])


def row(decision: Decision, what: str) -> dict[str, Any]:
    (one,) = decision.comparisons[decision.comparisons["what"] == what].to_dict(orient="records")
    return one


def test_the_order_of_the_samples_is_of_no_account(tmp_path: Path) -> None:
    old, new = classifier(tmp_path / "a", **GROUPS), classifier(tmp_path / "b", 20, **GROUPS)
    first = decide(old, new, PromoteSettings())
    table = pd.read_parquet(old / TABLE)
    table.sample(frac=1, random_state=0).drop(columns="group").to_parquet(old / TABLE)
    second = decide(old, new, PromoteSettings())
    assert first.to_json() == second.to_json()
    table.to_parquet(old / TABLE)
    assert decide(new, new, PromoteSettings()).promote is False


def test_without_a_champion_the_first_model_is_promoted_unless_it_predicts_nothing(tmp_path: Path) -> None:
    first = classifier(tmp_path / "a")
    assert decide(None, first, PromoteSettings()).reasons == ["promoted: it is the first model"]
    broken = logits_of(np.arange(200) % 3, 0)
    broken[[3, 7], 1] = np.nan, np.inf
    bad = version(tmp_path / "bad", {"multi": broken}, np.arange(200) % 3)
    for champion in (None, first):
        decision = decide(champion, bad, PromoteSettings())
        said = "refused: the challenger’s logits of 2 of 200 samples are NaN or infinite (s0003, s0007)"
        assert (decision.promote, decision.reasons) == (False, [said])
    assert decide(bad, first, PromoteSettings()).reasons == [said.replace("challenger", "champion")]


def test_a_modality_whose_logits_are_not_finite_or_that_has_gone_is_refused_by_name(tmp_path: Path) -> None:
    target = np.arange(200) % 3
    good = {
        part: logits_of(target, 60) for part in ("multi", "audio", "image", "without audio", "without image")
    }
    old = version(tmp_path / "a", good, target)
    broken = good | {"multi": logits_of(target, 10), "audio": np.full((200, 3), np.nan)}
    decision = decide(old, version(tmp_path / "b", broken, target), PromoteSettings())
    assert decision.reasons == [
        "refused: audio alone: accuracy was 0.7, the challenger’s logits of 200 of 200 samples are NaN or "
        "infinite (s0000, s0001, s0002, … (200 in all)) (guard per_modality 0.05)"
    ]
    image = version(tmp_path / "c", {"multi": logits_of(target, 10)}, target, modalities=["image"])
    decision = decide(old, image, PromoteSettings())
    assert decision.reasons == [
        "refused: audio alone: accuracy was 0.7, the challenger has nothing to predict from "
        "(guard per_modality 0.05)",
        "refused: without image: accuracy was 0.7, the challenger has nothing to predict from "
        "(guard missing_modality 0.05)",
    ]
    assert row(decision, "without audio")["challenger"] == 0.95  # it never used audio
    assert row(decision, "image alone")["challenger"] == 0.95
    with_new = decide(image, version(tmp_path / "d", good, target), PromoteSettings())
    assert row(with_new, "audio alone")["verdict"] == "not measured"


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_values_are_those_of_scikit_learn_for_any_number_of_modalities(
    tmp_path: Path, k: int, task: str
) -> None:
    rng = np.random.default_rng(k)
    target = rng.integers(0, 3, 90) if task == "classification" else rng.normal(5, 2, 90)
    names = [f"m{i}" for i in range(k)] if k > 1 else []
    parts = ["multi", *names, *(f"without {m}" for m in names)]

    def some() -> dict[str, np.ndarray]:
        if task == "classification":
            return {part: np.eye(3)[target] + rng.normal(size=(90, 3)) for part in parts}
        return {part: (target + rng.normal(size=90))[:, None] for part in parts}

    ours, theirs = some(), some()
    groups = np.r_[np.repeat([0, 1], 30), np.arange(30) % 4 + 2] if k == 5 else None
    old = version(tmp_path / "a", theirs, target, groups)
    new = version(tmp_path / "b", ours, target, groups)
    known = {
        "accuracy": lambda y, x: sk.accuracy_score(y, x.argmax(1)),
        "balanced_accuracy": lambda y, x: sk.balanced_accuracy_score(y, x.argmax(1)),
        "f1_macro": lambda y, x: sk.f1_score(y, x.argmax(1), average="macro"),
        "nll": lambda y, x: sk.log_loss(y, np.exp(x) / np.exp(x).sum(1, keepdims=True)),
        "rmse": lambda y, x: sk.root_mean_squared_error(y, x[:, 0]),
        "mae": lambda y, x: sk.mean_absolute_error(y, x[:, 0]),
        "r2": lambda y, x: sk.r2_score(y, x[:, 0]),
    }
    for metric in set(known) & set(PROMOTED_BY[task]):
        decision = decide(old, new, PromoteSettings(metric=metric))
        where = {"multi": "all modalities", **{m: f"{m} alone" for m in names}}
        for part in parts:
            one = row(decision, where.get(part, part))
            for who, logits in (("champion", theirs), ("challenger", ours)):
                expected = known[metric](target, logits[part].astype(np.float32).astype(float))
                assert one[who] == pytest.approx(expected, abs=1e-6)
            better = metric in ("rmse", "mae", "nll")
            sign = -1 if better else 1
            assert one["difference"] == pytest.approx(sign * (one["challenger"] - one["champion"]))
            assert one["low"] < one["difference"] < one["high"]
        groups_named = decision.comparisons["what"].str.startswith("group ").sum()
        assert groups_named == (2 if k == 5 else 0)


def test_a_regression_is_guarded_in_standard_deviations_of_its_target(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    target = 100 * rng.normal(size=300)
    noise = rng.normal(size=(4, 300))

    def model(name: str, error: float, audio: float, shift: float = 0.0, unit: str = "kg") -> Path:
        parts = {"multi": target + shift + error * noise[0]}
        parts |= {"audio": target + audio * noise[1], "image": target + 60 * noise[2]}
        parts |= {"without audio": parts["image"], "without image": parts["audio"]}
        return version(tmp_path / name, {p: x[:, None] for p, x in parts.items()}, target, unit=unit)

    old = model("old", 50, 60)
    assert decide(old, model("better", 30, 60), PromoteSettings()).promote
    assert not decide(model("better", 30, 60), old, PromoteSettings()).promote
    assert decide(old, model("slightly", 30, 62), PromoteSettings()).promote  # 2 of about 100
    fell = decide(old, model("fell", 30, 90), PromoteSettings())
    spread = np.std(target)
    said = r"^refused: audio alone: RMSE rises from \S+ to \S+ kg "
    said += rf"\(guard per_modality {0.05 * spread:.3g} kg\)$"
    assert pd.Series(fell.reasons[:1]).str.contains(said).all(), fell.reasons
    assert row(fell, "audio alone")["guard"] == pytest.approx(0.05 * spread)
    biased = decide(old, model("biased", 30, 60, shift=-20), PromoteSettings())
    assert biased.reasons[0].startswith("refused: calibration: mean bias, whatever its sign, rises from ")
    assert row(biased, "calibration")["challenger"] == pytest.approx(20, abs=5)
    other = decide(old, model("grams", 30, 60, unit="g"), PromoteSettings())
    assert other.reasons[0].startswith("refused: the target’s unit is g, the champion’s kg")
    task = decide(classifier(tmp_path / "classes"), old, PromoteSettings())
    assert task.reasons[0].startswith("refused: the task is regression, the champion’s classification")


@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    options=st.fixed_dictionaries({
        "test": st.sampled_from(["paired_bootstrap", "value"]),
        "metric": st.sampled_from(["accuracy", "f1_macro", "balanced_accuracy", "nll", "brier"]),
        "min_improvement": st.floats(0, 0.2),
        "confidence": st.floats(0.5, 0.99),
    }),
    grouped=st.booleans(),
)  # fmt: skip
@hypothesis_settings(max_examples=20)
def test_whose_headline_value_is_not_higher_is_never_promoted(
    n: int, seed: int, options: dict[str, Any], grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    groups = rng.integers(0, 8, n) if grouped else None
    with TemporaryDirectory() as name:
        folders = []
        for who in "ab":
            logits = rng.uniform(0.2, 3) * np.eye(3)[target] + rng.normal(size=(n, 3))
            folders.append(version(Path(name) / who, {"multi": logits}, target, groups))
        settings = PromoteSettings(**options, guard=NO_GUARDS)
        one, other = decide(*folders, settings), decide(*reversed(folders), settings)
        assert not (one.promote and other.promote)
        for decision in (one, other):
            better = row(decision, "all modalities")["difference"] > options["min_improvement"]
            assert better or not decision.promote
        assert not decide(folders[0], folders[0], settings).promote


@pytest.mark.parametrize("groups", [0, 10])
def test_equal_models_are_promoted_no_more_often_than_the_confidence_says(
    tmp_path: Path, groups: int
) -> None:
    """Two models with the same expected accuracy, in all and in each group."""
    rng, runs, promoted = np.random.default_rng(0), 60, 0
    for _ in range(runs):
        target = rng.integers(0, 3, 60)
        of_group = np.arange(60) % max(groups, 1)
        folders = []
        for who in "ab":
            share = rng.uniform(0.4, 1.0, 10)[of_group] if groups else 0.7
            wrong = np.flatnonzero(rng.random(60) > share)
            named = of_group if groups else None
            folders.append(version(tmp_path / who, {"multi": logits_of(target, wrong)}, target, named))
        promoted += decide(*folders, PromoteSettings(guard=NO_GUARDS)).promote
    assert promoted <= 0.05 * runs + 2 * math.sqrt(0.05 * 0.95 * runs)


def test_a_champion_without_evidence_stays_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    old, new = classifier(tmp_path / "a"), classifier(tmp_path / "b", 20)
    for damage, said in (
        (lambda: (old / TABLE).write_bytes(b"PAR1"), "can not be read"),
        (lambda: (old / HEADER).write_text("{}"), "can not be read"),
        (lambda: (old / HEADER).write_text("[" * 10_000), "can not be read"),
        (lambda: (old / TABLE).unlink(), "(?:can not be read|is missing)"),
        (lambda: (old / HEADER).unlink(), "is missing"),
    ):
        damage()
        decision = decide(old, new, PromoteSettings())
        assert not decision.promote
        assert (
            pd.Series(decision.reasons).str.contains(f"the champion can not be compared with: .*{said}").all()
        )
        with pytest.raises(DataError, match=said):
            decide(new, old, PromoteSettings())
        classifier(tmp_path / "a")
    table = pd.read_parquet(old / TABLE)
    table.assign(target=0).to_parquet(old / TABLE)
    with pytest.raises(DataError, match=r"evidence.parquet has other samples than evidence.json says"):
        read_evidence(old)
    table.assign(audio=table["audio"].map(lambda x: x[:2])).to_parquet(old / TABLE)
    with pytest.raises(DataError, match="has other logits of audio than"):
        read_evidence(old)


def test_metrics_are_checked_against_the_task(tmp_path: Path) -> None:
    for task, names in TASK_METRICS.items():
        assert set(PROMOTED_BY[task]) == set(names) - {"bias"}
    with pytest.raises(ConfigError, match=r"promote.metric = rmse: no metric of a classification"):
        decide(None, classifier(tmp_path / "a"), PromoteSettings(metric="rmse"))
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        PromoteSettings(metric="acuracy")
    with pytest.raises(ValueError, match="it needs test = value"):
        PromoteSettings(metric="ece")


@pytest.mark.parametrize(
    ("k", "task", "fusion"),
    [(2, "classification", "concat"), (5, "regression", "film"), (3, "regression", "sum")],
)
def test_evidence_of_a_trained_model_is_what_its_fusion_says(
    tmp_path: Path, k: int, task: str, fusion: str
) -> None:
    (run, saved, _), (teacher, of_teacher, _) = trained(tmp_path, k, task, fusion=fusion)
    samples = run.samples.assign(group="one")
    test = samples[samples["split"] == "test"]
    ids = list(test["sample_id"].iloc[[9, 2, 5]])
    write_evidence(tmp_path, run, saved, samples, ids)
    evidence = read_evidence(tmp_path)
    at = sorted([9, 2, 5])
    assert evidence.table["sample_id"].tolist() == test["sample_id"].iloc[at].tolist()
    names = evidence.header.modalities
    assert (len(names), evidence.header.samples, evidence.header.groups) == (k, 3, 1)
    assert evidence.table["target"].tolist() == test["target"].iloc[at].tolist()
    for part in ("multi", *names):
        np.testing.assert_array_equal(evidence.logits(part), run.output(f"logits/{part}", "test")[at])
    import torch

    features = {m: torch.from_numpy(run.output(f"feature/{m}", "test")[at]) for m in names}
    with torch.no_grad():
        for m in names:
            expected = saved.model().fusion.logits_without(features, {m}).numpy()
            np.testing.assert_allclose(evidence.logits(f"without {m}"), expected, atol=1e-6)
    assert evidence.task == task_from_json(run.info["architecture"]["task"])

    write_evidence(tmp_path, teacher, of_teacher, samples)
    whole = read_evidence(tmp_path)
    assert (whole.header.samples, whole.header.modality) == (len(test), "a")
    np.testing.assert_array_equal(whole.logits("multi"), whole.logits("a"))
    with pytest.raises(
        DataError, match=r"^2 of 3 samples of the evaluation set are not in the test split of "
    ):
        write_evidence(tmp_path, run, saved, samples, [ids[0], "gone", "lost"])


def test_evidence_needs_the_features_where_encoders_exchange_theirs(tmp_path: Path) -> None:
    (run, saved, store), _ = trained(tmp_path, kind="image", method="greedy")
    with pytest.raises(DataError, match="the feature store is needed"):
        write_evidence(tmp_path, run, saved, run.samples)
    write_evidence(tmp_path, run, saved, run.samples, store=store)
    assert np.isfinite(read_evidence(tmp_path).logits("without a")).all()


def test_the_seed_that_validation_chooses_and_the_spread() -> None:
    def run(seed: int, right: int, task: str = "classification") -> Run:
        own = pd.DataFrame({"sample_id": list("abcd"), "split": "val", "part": "multi", "target": 1})
        own["prediction"] = ([1] * right + [0] * 4)[:4]
        own["confidence"] = math.nan if right < 0 else 0.5
        return Run("g2d", "", seed, pd.DataFrame(), own, {"task": task, "modalities": ["a"]})

    best, spread = best_on_validation([run(2, 3), run(0, 1), run(1, 3), run(3, -1)])
    assert best.seed == 1  # of equal ones the first
    assert spread["runs"] == [
        {"seed": 0, "value": 0.25},
        {"seed": 1, "value": 0.75},
        {"seed": 2, "value": 0.75},
    ]
    assert spread["mean"] == pytest.approx(7 / 12)
    assert spread["std"] == pytest.approx(np.std([0.25, 0.75, 0.75], ddof=1))
    best, spread = best_on_validation([run(0, 1, "regression"), run(1, 3, "regression")])
    assert (best.seed, spread["metric"]) == (1, "rmse")
    assert best_on_validation([run(0, 1)])[1]["std"] is None
    with pytest.raises(DataError, match="None of 1 runs has a value of its metric on validation"):
        best_on_validation([run(0, -1)])
