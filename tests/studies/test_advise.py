"""advise: the right thing on data whose answer is known, within the time, whatever is not defined."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.studies.conftest import Project

pytestmark = pytest.mark.filterwarnings("ignore:.*register_new_resolver")
ROWS = {"train": 400, "val": 200, "test": 1500}
QUICK = {"minutes": 10, "methods": ["mses"], "rungs": [0.5], "finalists": 1, "n_jobs": 1}


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


@pytest.mark.parametrize("seed", range(5))
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
