"""Missing and corrupted modalities of trained models: who runs, how often, on what, and what it is worth."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.config import AudioAugment, TargetSettings
from g2d_pipeline.evaluation import FRAMES, Run
from g2d_pipeline.evaluation.robustness import Case, SavedModel, robustness_frames
from g2d_pipeline.features.files import INDEX, META
from g2d_pipeline.features.kinds.audio import Audio
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.models.encoders import Encoder
from g2d_pipeline.training import Data, train_student, train_teacher
from tests.conftest import CNN, TINY, make_data, recipe

CPU = torch.device("cpu")


def store_of(folder: Path, data: Data, kind: str = "vector") -> FeatureStore:
    """A feature store that holds these arrays."""
    split = np.full(len(data.target), "", object)
    for name, rows in data.rows.items():
        split[rows] = name
    index = pd.DataFrame({"sample_id": data.sample_ids, "split": split.astype(str), "target": data.target})
    channels = {m: array.shape[1] for m, array in data.arrays.items()}
    modalities = {
        m: {
            "kind": kind,
            "settings": {},
            "file": f"{m}.npy",
            "normaliser": {"scale": 1.0, "mean": [0.0] * channels[m], "std": [1.0] * channels[m]},
        }
        for m in data.arrays
    }
    train = data.target[data.rows["train"]]
    meta = {
        "task": data.task.to_json()["name"],
        "class_names": list(getattr(data.task, "class_names", [])),
        "target": {name: float(getattr(train, name)()) for name in ("min", "max", "mean", "std")},
        "index": {"rows": len(index)},
        "modalities": modalities,
    }
    folder.mkdir()
    for m, array in data.arrays.items():
        np.save(folder / f"{m}.npy", array)
    index.to_parquet(folder / INDEX)
    (folder / META).write_text(json.dumps(meta))
    return FeatureStore(folder, meta)


def trained(
    folder: Path,
    k: int = 2,
    task: str = "classification",
    kind: str = "vector",
    augment: Any = None,
    **settings: Any,
) -> list[Case]:
    """A student, and the teacher of its first modality, on little data, read from disk."""
    if kind != "vector":
        rng, dtype = np.random.default_rng(0), np.float16 if kind == "audio" else np.float32
        label = rng.integers(0, 3, 48)
        pictures = {m: rng.normal(size=(48, 1, 8, 8)) + label[:, None, None, None] for m in "ab"}
        split = np.repeat(["train", "val", "test"], 16)
        plain = Data.from_arrays({m: x.astype(dtype) for m, x in pictures.items()}, label, split)
    else:
        plain = make_data(k, task)
    store = store_of(folder / "store", plain, kind)
    data = Data.from_store(store, TargetSettings(), augment)
    encoder: Any = TINY if kind == "vector" else CNN
    options: dict[str, Any] = {"training": recipe(4), "progress": False}
    student = {"method": "joint", **options, **settings}
    models = {
        "joint": train_student(data, dict.fromkeys(data.modalities, encoder), {}, **student),
        "unimodal": train_teacher(data, "a", encoder, **options),
    }
    cases = []
    for method, model in models.items():
        (folder / method).mkdir()
        write_trained(folder / method, model)
        saved = TrainedFolder(folder / method)
        tables = saved.history, saved.predictions, saved.info
        modality = "a" if method == "unimodal" else ""
        run = Run(method, modality, 0, *tables, outputs=saved.outputs(), samples=store.index)
        cases.append((run, saved, store))
    return cases


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Batches by encoder, counted as they run."""
    counts: Counter[int] = Counter()
    forward = Encoder.forward

    def counted(self: Encoder, x: torch.Tensor) -> torch.Tensor:
        counts[id(self)] += len(x)
        return forward(self, x)

    monkeypatch.setattr(Encoder, "forward", counted)
    return counts


def worth(run: Run, logits: torch.Tensor) -> float:
    """Accuracy, or −RMSE, of these logits of test."""
    from g2d_pipeline.models.task import task_from_json

    target = run.samples["target"].to_numpy()[run.rows("test")]
    prediction = task_from_json(run.info["architecture"]["task"]).predict(logits).numpy()
    if run.info["task"] == "classification":
        return float((prediction == target).mean())
    return -float(np.sqrt(((prediction - target) ** 2).mean()))


@pytest.mark.parametrize(
    ("k", "task", "fusion"),
    [(2, "classification", "late"), (3, "classification", "concat"), (2, "regression", "film"),
     (5, "regression", "sum"), (5, "classification", "cross_attention")],
)  # fmt: skip
def test_absent_rows_and_shapley_values_are_the_fusions_and_sum_to_the_whole(
    tmp_path: Path, encoded: Counter[int], k: int, task: str, fusion: str
):
    """Against Shapley's formula as the mean over all orders of joining, from the fusion alone."""
    settings = {"fusion": {"name": fusion, "heads": 1}} if fusion == "cross_attention" else {"fusion": fusion}
    ((run, saved, store), _) = cases = trained(tmp_path, k, task, **settings)
    encoded.clear()
    frames = robustness_frames(cases[:1], CPU)
    assert sum(encoded.values()) == k * 3 * 16  # absent modalities need no encoder
    model, features = (
        saved.model(),
        {m: torch.from_numpy(run.output(f"feature/{m}", "test")) for m in "abcde"[:k]},
    )
    train = store.targets()[store.rows("train")]
    target = store.targets()[store.rows("test")]
    constant = (
        (target == np.bincount(train).argmax()).mean()
        if task == "classification"
        else -np.sqrt(((target - train.mean()) ** 2).mean())
    )
    names = list(features)
    subsets = chain.from_iterable(combinations(names, n) for n in range(k + 1))
    with torch.no_grad():
        values = {
            frozenset(some): worth(run, model.fusion.logits_without(features, set(names) - set(some)))
            if some
            else float(constant)
            for some in subsets
        }
    metric = "accuracy" if task == "classification" else "rmse"
    sign = 1 if task == "classification" else -1
    robust = frames["robustness"]
    absent = robust[(robust["corruption"] == "absent") & (robust["metric"] == metric)]
    assert absent["modality"].tolist() == names
    assert robust.loc[robust["metric"] == "r2", "kept"].isna().all()
    for m, value, kept in absent[["modality", "value", "kept"]].itertuples(index=False, name=None):
        without, whole = values[frozenset(names) - {m}], values[frozenset(names)]
        assert value == pytest.approx(sign * without)
        assert kept == pytest.approx(without / whole if task == "classification" else whole / without)
    shapley = frames["shapley"].set_index("part")["value"]
    assert shapley.sum() == pytest.approx(values[frozenset(names)] - constant)
    first = names[0]
    by_size = [
        np.mean(
            [values[frozenset({first, *s})] - values[frozenset(s)] for s in combinations(names[1:], size)]
        )
        for size in range(k)
    ]
    assert shapley[first] == pytest.approx(np.mean(by_size))


def test_only_the_corrupted_modality_runs_and_every_pass_is_counted(tmp_path: Path, encoded: Counter[int]):
    cases = trained(tmp_path)
    encoded.clear()
    frames = robustness_frames(cases, CPU)
    counted = frames["forwards"]
    assert counted.to_numpy().tolist() == [
        ["joint", 0, "a", 16, 3], ["joint", 0, "b", 16, 3], ["unimodal", 0, "a", 16, 3]
    ]  # fmt: skip
    assert sum(encoded.values()) == (counted["samples"] * counted["forwards"]).sum()
    robust = frames["robustness"]
    labels = robust[["method", "modality", "label"]].drop_duplicates().to_numpy().tolist()
    noise = ["noise 0.5 std", "noise 1 std", "noise 2 std"]
    assert labels == [
        *(["joint", m, "absent"] for m in "ab"),
        *(["joint", m, words] for m in "ab" for words in noise),
        *(["unimodal", "a", words] for words in noise),
    ]
    assert list(robust) == ["method", "seed", *FRAMES["robustness"]]
    again = robustness_frames(cases, CPU)
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, again[name])


def test_every_model_gets_the_same_corrupted_samples_and_a_limit_holds_for_them_alone(tmp_path: Path):
    cases = trained(tmp_path)
    (run, saved, store), _ = cases
    twice = [(run, saved, store), (replace(run, seed=1), saved, store)]
    robust = robustness_frames(twice, CPU)["robustness"]
    first, second = (robust[robust["seed"] == seed]["value"].tolist() for seed in (0, 1))
    assert first == second
    few = robustness_frames(twice[:1], CPU, samples=5)
    assert set(few["forwards"]["samples"]) == {5}
    accuracy = few["robustness"][few["robustness"]["metric"] == "accuracy"]
    corrupted = accuracy[accuracy["corruption"] != "absent"]["value"]
    assert ((corrupted * 5) % 1 < 1e-9).all()
    absent = robust[robust["corruption"] == "absent"]["value"].tolist()
    assert accuracy[accuracy["corruption"] == "absent"]["value"].tolist() == absent[:4:2]


def test_what_is_corrupted_gets_worse_and_a_modality_that_tells_nothing_can_be_lost(tmp_path: Path):
    cases = trained(tmp_path, training=recipe(20))
    frames = robustness_frames(cases, CPU)
    accuracy = (
        frames["robustness"]
        .query("metric == 'accuracy' and method == 'joint'")
        .set_index(["modality", "label"])
    )
    strong, weak = accuracy.loc[("a", "absent"), "kept"], accuracy.loc[("b", "absent"), "kept"]
    assert strong < weak  # a tells most of the target
    assert accuracy.loc[("a", "noise 2 std"), "value"] < accuracy.loc[("a", "noise 0.5 std"), "value"]
    shapley = frames["shapley"].set_index("part")["value"]
    assert shapley["a"] > shapley["b"] > 0


def test_with_an_exchange_all_encoders_run_and_the_absent_one_tells_of_the_train_mean(
    tmp_path: Path, encoded: Counter[int]
):
    cases = trained(tmp_path, kind="image", method="greedy")
    encoded.clear()
    frames = robustness_frames(cases[:1], CPU)
    passes = 2 + 2 * 9 + 2  # each absent, corrupted, and the two subsets of one
    assert frames["forwards"][["modality", "samples", "forwards"]].to_numpy().tolist() == [
        ["a", 16, passes], ["b", 16, passes]
    ]  # fmt: skip
    run, saved, store = cases[0]
    model, rows = saved.model(), store.rows("test")
    x = {m: torch.from_numpy(np.array(store.arrays[m][rows])) for m in "ab"}
    with torch.no_grad():
        features = model(x | {"a": torch.zeros_like(x["a"])}).features
        by_hand = worth(run, model.fusion.logits_without(features, {"a"}))
    robust = frames["robustness"].query("modality == 'a' and corruption == 'absent' and metric == 'accuracy'")
    assert robust["value"].tolist() == [pytest.approx(by_hand)]


def test_runs_that_can_not_be_tried_are_named_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (run, saved, store), teacher = trained(tmp_path)
    bare = replace(run, seed=1, outputs={"row": run.outputs["row"]})
    other = replace(run, seed=2, outputs=run.outputs | {"logits/multi": run.outputs["logits/multi"] + 1})
    empty = replace(run, seed=3, samples=run.samples.assign(split="train"))
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "model.json").write_text(json.dumps(run.info))
    gone = replace(run, seed=4), TrainedFolder(tmp_path / "gone"), store
    cases = [(bare, saved, store), (other, saved, store), (empty, saved, store), gone, teacher]
    with caplog.at_level(logging.WARNING):
        frames = robustness_frames(cases, CPU)
    assert set(frames["robustness"]["method"]) == {"unimodal"}
    assert frames["shapley"].empty  # of a teacher
    reasons = [
        "its outputs lack feature/a, feature/b, logits/multi",
        "its stored features do not give its stored logits",
        "it has no test samples",
        ".*model.safetensors is missing",
    ]
    for seed, (record, reason) in enumerate(zip(caplog.records, reasons, strict=True), 1):
        said = f"joint, seed {seed}: left out of missing and corrupted modalities: {reason}"
        assert re.match(said, record.getMessage())


def test_samples_corrupted_by_nothing_are_what_the_encoder_got_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of spectrograms the middle window, float16 as it was rounded."""
    monkeypatch.setattr(Audio, "corruptions", {"noise": ("{:g} dB", (300.0,))})
    window = AudioAugment(window_frames=5)
    ((run, saved, store), _) = trained(tmp_path, kind="audio", augment={"a": window, "b": window})
    tested = SavedModel(run, saved, store, CPU)
    (change,) = (
        row for row in tested.corrupted(None) if row["modality"] == "a" and row["metric"] == "accuracy"
    )
    assert change["kept"] == 1
    x = torch.from_numpy(np.array(store.arrays["a"][store.rows("test")])).float()
    with torch.no_grad():
        encoded = tested.model.encoders["a"](x[..., 1:6])
    np.testing.assert_allclose(encoded, run.output("feature/a", "test"), atol=1e-5)
    assert torch.equal(tested._input(tested.all, "a", None).float(), x[..., 1:6])


def test_a_kind_without_corruptions_has_absent_rows_alone_and_folds_have_their_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from g2d_pipeline.features.kinds.vector import Vector

    monkeypatch.setattr(Vector, "corruptions", {})
    (run, saved, store), _ = trained(tmp_path)
    frames = robustness_frames([(replace(run, fold=3), saved, store)], CPU)
    assert set(frames["robustness"]["corruption"]) == {"absent"}
    assert set(frames["shapley"]["fold"]) == {3}
    assert frames["forwards"].empty


def test_no_runs_give_empty_frames():
    assert {name: len(frame) for name, frame in robustness_frames([], CPU).items()} == {
        "robustness": 0, "shapley": 0, "forwards": 0
    }  # fmt: skip
