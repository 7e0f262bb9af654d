"""The simulated UR-Funny folder: equal bytes each time, the SDK's layout, three weak signals, the listed
blemishes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.config import Split
from g2d_pipeline.sources.pickles import load_plain
from g2d_pipeline.sources.ur_funny.simulated import BLEMISHES, ENERGY, FUNNY, SMILE, make

ROWS: dict[Split, int] = {"train": 240, "val": 60, "test": 60}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sample")
    start = time.perf_counter()
    make(folder, ROWS, seed=0)
    assert time.perf_counter() - start < 15
    return {path.stem: load_plain(path) for path in folder.iterdir()}


def test_the_layout_is_the_sdks(sample: dict[str, Any]) -> None:
    folds, language = sample["data_folds"], sample["language_sdk"]
    assert {name: len(ids) for name, ids in folds.items()} == {"train": 240, "dev": 60, "test": 60}
    ids = [i for fold in folds.values() for i in fold]
    assert all(type(i) is int for i in ids)
    assert len(set(ids)) == 360
    assert max(ids) - min(ids) > 400
    for name in ("humor_label_sdk", "language_sdk", "covarep_features_sdk", "openface_features_sdk"):
        assert list(sample[name]) == ids
    assert 0.35 < np.mean([sample["humor_label_sdk"][i] for i in ids]) < 0.55
    assert not any(sample["word_embedding_list"][0])
    assert {len(vector) for vector in sample["word_embedding_list"]} == {300}
    for i in ids:
        entry = language[i]
        n = len(entry["punchline_embedding_indexes"])
        assert n == len(entry["punchline_sentence"].split()) == len(entry["punchline_intervals"])
        assert len(entry["context_sentences"]) == len(entry["context_embedding_indexes"]) <= 5
        assert np.shape(sample["openface_features_sdk"][i]["punchline_features"]) == (n, 371)
        assert np.shape(sample["covarep_features_sdk"][i]["punchline_features"])[1] == 81
        assert len(sample["covarep_features_sdk"][i]["context_features"]) == len(entry["context_sentences"])


def test_blemishes(sample: dict[str, Any]) -> None:
    ids = {name: sample["data_folds"]["train"][at] for at, name in BLEMISHES.items()}
    language, audio, face = (
        sample[f"{n}_sdk"] for n in ("language", "covarep_features", "openface_features")
    )
    words = {name: language[i]["punchline_embedding_indexes"] for name, i in ids.items()}
    assert len(words["one word"]) == 1
    assert len(words["sixty words"]) == 60
    assert language[ids["no context"]]["context_sentences"] == []
    assert np.isneginf(audio[ids["infinite"]]["punchline_features"]).sum() == 4
    assert not face[ids["no face"]]["punchline_features"].any()
    assert not any(words["no text"])
    assert len(audio[ids["a step less"]]["punchline_features"]) == len(words["a step less"]) - 1
    others = [len(e["punchline_embedding_indexes"]) for i, e in language.items() if i not in ids.values()]
    assert (min(others), max(others)) == (3, 30)


def test_each_modality_knows_a_little_and_together_they_know_more(sample: dict[str, Any]) -> None:
    from sklearn.linear_model import LogisticRegression

    def describe(i: int) -> dict[str, list[float]]:
        audio = np.nan_to_num(np.array(sample["covarep_features_sdk"][i]["punchline_features"]), neginf=0)[
            :, ENERGY
        ]
        face = sample["openface_features_sdk"][i]["punchline_features"][:, SMILE]
        words = sample["language_sdk"][i]["punchline_embedding_indexes"]
        return {
            "audio": [audio.mean(), audio.std()],
            "visual": [face.mean()],
            "text": [np.isin(words, FUNNY).mean()],
        }

    def read(*folds: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        ids = [i for fold in folds for i in sample["data_folds"][fold]]
        entries = [describe(i) for i in ids]
        x = {modality: np.array([each[modality] for each in entries]) for modality in entries[0]}
        return x | {"all": np.hstack(list(x.values()))}, np.array([sample["humor_label_sdk"][i] for i in ids])

    train, y = read("train")
    held_out, y_held_out = read("dev", "test")
    accuracy = {
        m: LogisticRegression(C=10).fit(x, y).score(held_out[m], y_held_out) for m, x in train.items()
    }
    assert all(0.55 < accuracy[m] < 0.92 for m in ("audio", "visual", "text"))
    assert accuracy["text"] > accuracy["audio"]
    assert accuracy["all"] > max(accuracy[m] for m in ("audio", "visual", "text"))


def test_tiny_samples_can_be_asked_for(tmp_path: Path) -> None:
    make(tmp_path, {"train": 2, "val": 1, "test": 1}, seed=5)
    labels = load_plain(tmp_path / "humor_label_sdk.pkl")
    assert sorted(labels[i] for i in load_plain(tmp_path / "data_folds.pkl")["train"]) == [0, 1]
