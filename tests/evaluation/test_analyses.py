"""The paper's analyses equal independent computations, for any k, and leave out what is not stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from g2d_pipeline.evaluation import FRAMES, Run, analysis_frames, evaluate

VAL = [0, 1, 0, 1, 1, 0, 0, 1]
TEST = [0, 1, 1, 0]
ROWS = 4 + len(VAL) + len(TEST)  # with four of train


def made_run(method: str, arrays: dict[str, Any], modality: str = "", task: str = "classification") -> Run:
    """A run over 4 train, 8 val and 4 test samples; `arrays`: stored for val and test (teachers: all)."""
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(ROWS)],
            "split": ["train"] * 4 + ["val"] * len(VAL) + ["test"] * len(TEST),
            "target": [0, 1, 0, 1, *VAL, *TEST],
        }
    )
    part = modality or "multi"
    predictions = samples[4:].assign(part=part, prediction=samples["target"], confidence=0.9)
    history = pd.DataFrame({"epoch": [1, 2], f"val/{part}": [0.5, 0.75]})
    if not modality:
        history = history.assign(**{"val/a": [0.25, 0.5], "kappa/a": [0.0, 1.0], "grad_norm/a": [0.0, 2.0]})
        history = history.assign(
            **{"kappa/b": [1.0, 1.0], "grad_norm/b": [3.0, 4.0], "confidence/a": [0.6, 0.8]}
        )
    info = {
        "task": task,
        "metric": "accuracy",
        "modalities": [modality] if modality else ["a", "b"],
        "selected_epoch": 2,
    }
    row = np.arange(ROWS if modality else ROWS - 4) + (0 if modality else 4)
    outputs = {"row": row, **{name: np.asarray(x, np.float32) for name, x in arrays.items()}}
    return Run(method, modality, 0, history, predictions, info, 0, outputs, samples)


def unit(x: NDArray[Any]) -> NDArray[Any]:
    return np.stack([row / np.sqrt((row**2).sum()) for row in x.astype(np.float64)])


@pytest.fixture(scope="module")
def hand() -> tuple[list[Run], dict[str, pd.DataFrame], dict[str, NDArray[Any]]]:
    """Two teachers and a student; a's features are three wide, b's two, those of b's teacher four."""
    rng = np.random.default_rng(0)
    n = ROWS - 4
    x = {
        "a": rng.normal(size=(n, 3)),
        "b": rng.normal(size=(n, 2)) + 1,
        "teacher a": rng.normal(size=(ROWS, 3)),
        "teacher b": rng.normal(size=(ROWS, 4)),
        "ρ a": rng.uniform(size=n),
        "ρ b": rng.uniform(size=n),
        "ρ teacher a": np.linspace(0.9, 0.5, ROWS),
        "ρ teacher b": np.linspace(0.5, 0.9, ROWS),
    }
    x = {name: values.astype(np.float32) for name, values in x.items()}
    student = {"feature/a": x["a"], "feature/b": x["b"], "confidence/a": x["ρ a"], "confidence/b": x["ρ b"]}
    runs = [
        made_run("joint", student),
        *(
            made_run(
                "unimodal", {f"feature/{m}": x[f"teacher {m}"], f"confidence/{m}": x[f"ρ teacher {m}"]}, m
            )
            for m in ("a", "b")
        ),
    ]
    return runs, analysis_frames(runs), x


def value(frame: pd.DataFrame, column: str, **where: Any) -> Any:
    for name, wanted in where.items():
        frame = frame[frame[name] == wanted]
    (found,) = frame[column]
    return found


def test_gap_is_the_distance_of_centroids_with_zeros_behind_the_narrower_feature(hand: Any):
    _, frames, x = hand
    a, b = (unit(x[m])[8:].mean(axis=0) for m in "ab")
    by_hand = np.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + a[2] ** 2)
    assert value(frames["gap"], "distance", split="test", first="a", second="b") == pytest.approx(by_hand)
    assert len(frames["gap"]) == 2


def test_projection_is_the_first_two_principal_components(hand: Any):
    _, frames, x = hand
    every = np.concatenate([unit(x["a"])[8:], np.pad(unit(x["b"])[8:], ((0, 0), (0, 1)))])
    centred = every - every.mean(axis=0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    by_hand = centred @ axes[:, np.argsort(-variance)[:2]]
    frame = frames["projection"]
    assert frame["modality"].tolist() == ["a"] * 4 + ["b"] * 4
    assert frame["sample_id"].tolist() == [f"s{i}" for i in range(12, 16)] * 2
    assert frame["target"].tolist() == TEST * 2
    for i, axis in enumerate("xy"):
        assert abs(np.corrcoef(frame[axis], by_hand[:, i])[0, 1]) == pytest.approx(1)
        assert frame[axis].std() == pytest.approx(by_hand[:, i].std(ddof=1))


def test_alignment_is_the_mean_cosine_where_student_and_teacher_are_equally_wide(hand: Any):
    _, frames, x = hand
    by_hand = np.mean([s @ t for s, t in zip(unit(x["a"])[:8], unit(x["teacher a"])[4:12], strict=True)])
    assert value(frames["alignment"], "cosine", split="val", modality="a") == pytest.approx(by_hand)
    assert set(frames["alignment"]["modality"]) == {"a"}


def test_confidence_ratio_and_the_weakest_teacher_on_train(hand: Any):
    _, frames, x = hand
    student, teacher = float(x["ρ b"][8:].mean()), float(x["ρ teacher b"][12:].mean())
    own = {"split": "test", "modality": "b"}
    assert value(frames["confidence_ratio"], "student", **own) == pytest.approx(student)
    assert value(frames["confidence_ratio"], "ratio", **own) == pytest.approx(student / teacher)
    assert value(frames["confidence_ratio"], "weakest", **own)  # on train; on test, a's teacher is
    assert not value(frames["confidence_ratio"], "weakest", **(own | {"modality": "a"}))


def test_curves_confidences_gradients_come_from_the_history(hand: Any):
    _, frames, _ = hand
    curves = frames["unimodal_curves"]
    student = curves[(curves["method"] == "joint") & (curves["part"] == "a")]
    assert student[["epoch", "split", "value"]].to_numpy().tolist() == [[1, "val", 0.25], [2, "val", 0.5]]
    assert set(student["teacher"]) == {1.0}  # all of its predictions are right
    assert curves[curves["method"] == "unimodal"]["value"].tolist() == [0.5, 0.75] * 2
    assert curves.loc[curves["part"] == "multi", "teacher"].isna().all()
    gradients = frames["gradients"]
    assert gradients[["modality", "epoch", "grad_norm", "kappa"]].to_numpy().tolist() == [
        ["a", 1, 0.0, 0.0], ["a", 2, 2.0, 1.0], ["b", 1, 3.0, 1.0], ["b", 2, 4.0, 1.0]
    ]  # fmt: skip
    assert frames["confidence"][["epoch", "modality", "confidence"]].to_numpy().tolist() == [
        [1, "a", 0.6], [2, "a", 0.8]
    ]  # fmt: skip


def test_alpha_and_beta_where_runs_of_one_algorithm_vary_them(hand: Any):
    runs, _, _ = hand
    students = []
    for alpha, beta in ((0.0, 1.0), (1.0, 0.0)):
        info = runs[0].info | {"algorithm": "g2d", "parameters": {"alpha": alpha, "beta": beta}}
        students.append(replace(runs[0], method=f"g2d_{alpha:g}", info=info))
    other = replace(runs[0], info=runs[0].info | {"parameters": {"alpha": 0.5, "beta": 0.5}})
    frame = analysis_frames([*students, other])["alpha_beta"]
    on_test = frame.loc[frame["split"] == "test", ["alpha", "beta", "value"]]
    assert on_test.to_numpy().tolist() == [[0, 1, 1], [1, 0, 1]]
    assert analysis_frames([students[0], other])["alpha_beta"].empty


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_probe_reads_what_is_in_the_features_and_nothing_else(make_study: Callable[..., Any], task: str):
    study = make_study(("audio", "image"), task, seeds=(0,), methods=("joint",), samples=400)
    rng = np.random.default_rng(0)
    joint = study.runs[-1]
    n = len(joint.outputs["row"])
    target = joint.samples["target"].to_numpy(float)[joint.outputs["row"]]
    knows = np.stack([target == c for c in range(6)] if task == "classification" else [target] * 2, axis=1)
    features = {
        "feature/audio": rng.normal(size=(n, 6)),
        "feature/image": knows + rng.normal(size=knows.shape) * 1e-3,
    }
    joint = replace(
        joint, outputs=joint.outputs | {name: x.astype(np.float32) for name, x in features.items()}
    )
    frame = analysis_frames([joint])["probes"]
    metric = "accuracy" if task == "classification" else "r2"
    noise, perfect = (
        value(frame, "value", modality=m, split="test", metric=metric) for m in ("audio", "image")
    )
    assert perfect > 0.99
    assert noise < (0.3 if task == "classification" else 0.05)  # six classes


def test_for_five_modalities_folds_and_one_seed(make_study: Callable[..., Any]):
    names = tuple("abcde")
    study = make_study(names, seeds=(3,), methods=("joint",), samples=40)
    frames = analysis_frames([replace(run, fold=2) for run in study.runs])
    assert {name: list(frame) for name, frame in frames.items()} == {
        name: ["method", "fold", "seed", *columns] for name, columns in FRAMES.items()
    }
    assert len(frames["gap"]) == 10 * 2
    assert len(frames["alignment"]) == 5 * 2
    assert set(frames["projection"]["modality"]) == set(names)
    assert set(frames["gap"]["fold"]) == {2}


def test_what_is_not_stored_has_no_rows_and_the_rest_goes_on(make_study: Callable[..., Any]):
    study = make_study(seeds=(0,))
    bare = [replace(run, outputs={}) for run in study.runs]
    frames = analysis_frames(bare)
    assert (
        not len(frames["gap"]) + len(frames["alignment"]) + len(frames["probes"]) + len(frames["projection"])
    )
    assert len(frames["unimodal_curves"])
    without_teachers = analysis_frames([run for run in study.runs if not run.is_teacher])
    assert without_teachers["alignment"].empty
    assert without_teachers["unimodal_curves"]["teacher"].isna().all()
    assert len(without_teachers["gap"])


def test_evaluation_hands_on_the_frames_of_models_that_ran_again(make_study: Callable[..., Any]):
    study = make_study(seeds=(0,), methods=("joint",))
    own = pd.DataFrame(
        [("joint", 0, "audio", "accuracy", 0.5)], columns=["method", "seed", *FRAMES["shapley"]]
    )
    inputs = study.runs, study.meta, study.rankings, study.configuration
    frames = evaluate(*inputs, frames={"shapley": own}).frames
    assert frames["shapley"] is own
    assert list(frames) == list(FRAMES)
    assert frames["robustness"].empty
