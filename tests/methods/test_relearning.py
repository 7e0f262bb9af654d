"""Diagnosing and re-learning: purity, how far back, who and when (rivals.md, relearning)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.errors import InterruptedRun
from g2d_pipeline.methods.relearning import Relearning, cluster_purity, purity, reinitialise, strength
from g2d_pipeline.training import Data, train_student, train_teacher
from tests.conftest import TINY, make_data, recipe
from tests.methods.test_every_method import interrupt_in_batch
from tests.methods.tiny import same

OFTEN = {"reinit_epoch": 1, "reinit_num": 2}


def student(
    data: Data, method: str = "relearning", epochs: int = 4, teachers: Any = None, **settings: Any
) -> Trained:
    encoders = dict.fromkeys(data.modalities, TINY)
    training = recipe(epochs)
    return train_student(
        data, encoders, teachers or {}, method=method, training=training, progress=False, **settings
    )


def by_counting(labels: Any, clusters: Any) -> float:
    groups: dict[int, list[int]] = {}
    for label, cluster in zip(labels.tolist(), clusters.tolist(), strict=True):
        groups.setdefault(cluster, []).append(label)
    return sum(Counter(of).most_common(1)[0][1] for of in groups.values()) / len(labels)


def test_purity_is_the_share_of_the_commonest_label_of_each_cluster() -> None:
    assert purity(np.array([5, 5, 2, 2, 2, 5]), np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(4 / 6)
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    assert purity(labels, clusters) == pytest.approx(by_counting(labels, clusters), abs=1e-12)


def test_clusters_of_the_classes_are_pure_and_features_that_say_nothing_are_not() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 40)
    told = np.eye(3)[labels] * 5 + rng.normal(size=(120, 3)) * 0.1
    assert cluster_purity(told, labels, 3) == 1
    assert cluster_purity(rng.normal(size=(120, 3)), labels, 3) < 0.6
    assert cluster_purity(np.ones((120, 3)), labels, 3) == pytest.approx(
        1 / 3
    )  # one distinct feature: one cluster


def test_the_gap_says_how_far_back() -> None:
    assert strength(0.9, 0.4, 3) == pytest.approx(np.tanh(1.5), abs=1e-12)
    assert strength(0.4, 0.4, 3) == strength(0.4, 0.9, 3) == 0
    assert strength(0.4, 0.9, 3, "absolute") == pytest.approx(np.tanh(1.5), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.37, 0.8, 1.0])
def test_soft_reinitialisation_equals_the_formula_and_its_ends_are_exact(alpha: float) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    start = {n: torch.randn_like(p) for n, p in encoder.named_parameters()}
    before = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    reinitialise(encoder, start, alpha)
    for n, p in encoder.named_parameters():
        expected = (1 - alpha) * before[n].double().numpy() + alpha * start[n].double().numpy()
        np.testing.assert_allclose(p.detach().numpy(), expected, atol=1e-6)
        if alpha in (0, 1):
            assert torch.equal(p, start[n] if alpha else before[n])


@pytest.mark.parametrize(("k", "task"), [(2, "classification"), (3, "classification"), (2, "regression")])
def test_after_an_epoch_encoders_move_as_far_as_an_independent_diagnosis_says(
    k: int, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, original, moved = make_data(k, task, n=120), Relearning.on_epoch_end, 0
    label = np.asarray(data.target)
    if task == "regression":
        edges = np.quantile(
            data.task.encode(torch.tensor(label[data.rows["train"]])).numpy(), [0.25, 0.5, 0.75]
        )
        label = (data.task.encode(torch.tensor(label)).numpy()[:, None] > edges).sum(axis=1)
    classes = 3 if task == "classification" else 4

    def compare(self: Relearning, state: Any) -> None:
        nonlocal moved
        start, model = dict(self.start), state.model
        before = {n: w.detach().double().numpy().copy() for n, w in model.named_parameters()}
        rest = {n: w.detach().clone() for n, w in model.state_dict().items() if n not in before}
        gaps = {}
        model.eval()
        for m in data.modalities:
            found = []
            for split in ("train", "val"):
                rows = data.rows[split]
                with torch.no_grad():
                    f = model.encoders[m](torch.from_numpy(np.asarray(data.arrays[m])[rows])).numpy()
                low, high = f.min(0), f.max(0)
                f = (f - low) / np.where(high > low, high - low, 1) * 2 - 1
                clusters = KMeans(classes, random_state=0, n_init=1).fit_predict(f)
                found.append(by_counting(label[rows], clusters))
            gaps[m] = found[0] - found[1]
        model.train()
        original(self, state)
        for n, w in model.named_parameters():
            expected = before[n]
            if n.startswith("encoders.") and state.epoch == 1:
                _, m, own = n.split(".", 2)
                alpha = np.tanh(5 * abs(gaps[m]))
                expected = (1 - alpha) * before[n] + alpha * start[m][own].double().numpy()
                moved += int(alpha > 0)
            np.testing.assert_allclose(w.detach().numpy(), expected, atol=1e-6)
        assert all(torch.equal(w, model.state_dict()[n]) for n, w in rest.items())

    monkeypatch.setattr(Relearning, "on_epoch_end", compare)
    parameters = {"reinit_epoch": 1, "reinit_num": 1, "gap": "absolute", "gap_scale": 5.0, "bins": 4}
    student(data, epochs=2, parameters=parameters)
    assert moved > 0


def test_where_nothing_is_learnt_again_it_is_joint_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data()
    joint = student(data, "joint")
    assert not same(joint, student(data, parameters=OFTEN | {"gap": "absolute"}))
    for none in ({"gap_scale": 0}, {"reinit_num": 0}, {"reinit_epoch": 4}):
        assert same(joint, student(data, parameters=OFTEN | none))
    monkeypatch.setattr(Relearning, "purities", lambda self, state: dict.fromkeys(self.learnt, (0.5, 0.5)))
    assert same(joint, student(data, parameters=OFTEN))  # no gap


@pytest.mark.parametrize(("settings", "expected"), [((1, 2), [1, 2]), ((2, 9), [2, 4]), ((3, 1), [3])])
def test_when_it_diagnoses(
    settings: tuple[int, int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After whole multiples of `reinit_epoch`, `reinit_num` times at most, never after the last epoch (6)."""
    asked: list[int] = []
    monkeypatch.setattr(Relearning, "purities", lambda self, state: asked.append(state.epoch) or {})
    student(
        make_data(n=48), epochs=6, parameters=dict(zip(("reinit_epoch", "reinit_num"), settings, strict=True))
    )
    assert asked == expected


def test_an_encoder_that_smp_suppresses_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relearning, "purities", lambda self, state: dict.fromkeys(self.learnt, (1.0, 0.0)))
    data = make_data(n=60)
    teachers = {m: train_teacher(data, m, TINY, training=recipe(2), progress=False) for m in data.modalities}
    smp = {"tau": [3, 0], "ranking": "dataset"}
    settings: dict[str, Any] = {"teachers": teachers, "smp": smp, "epochs": 3}
    found = student(data, parameters=OFTEN, **settings).model.state_dict()
    joint = student(data, "joint", **settings).model.state_dict()
    confidence = {m: t.info["confidence"]["train"][m] for m, t in teachers.items()}
    strong = max(confidence, key=confidence.__getitem__)
    for name in (n for n in found if n.startswith("encoders.") and n.endswith("weight")):
        assert torch.equal(found[name], joint[name]) is (name.split(".")[1] == strong), name


@pytest.mark.parametrize(
    "at", [6, 11]
)  # after the first time, and after the last, when the start is forgotten
def test_killed_after_it_acted_it_ends_in_the_same_bits(tmp_path: Path, at: int) -> None:
    data, settings = make_data(n=90), {"parameters": OFTEN | {"gap": "absolute"}}
    expected = student(data, **settings)
    with pytest.raises(InterruptedRun):
        interrupt_in_batch(at, lambda: student(data, folder=tmp_path, **settings))
    again = student(data, folder=tmp_path, **settings)
    assert same(expected, again)
    assert expected.history.equals(again.history)
