"""The order of teachers, ties, and disagreement between train and val."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.evaluation import ranking_disagreements, teacher_orders

COLUMNS = ["seed", "confidence_on", "modality", "confidence"]


def test_least_confident_first_and_ties_by_appearance():
    rows = [(0, "train", "text", 0.5), (0, "train", "audio", 0.9), (0, "train", "image", 0.5)]
    assert teacher_orders(pd.DataFrame(rows, columns=COLUMNS)) == {0: {"train": ["text", "image", "audio"]}}


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=2))
def test_seeds_disagree_iff_their_orders_differ(confidences: list[list[float]]):
    rows = [
        (seed, on, modality, value)
        for seed in (4, 2)
        for on, values in zip(
            ("train", "val"), confidences if seed == 4 else confidences[:1] * 2, strict=True
        )
        for modality, value in zip("abc", values, strict=True)
    ]
    train, val = (sorted(range(3), key=lambda i, v=values: v[i]) for values in confidences)
    assert ranking_disagreements(pd.DataFrame(rows, columns=COLUMNS)) == ([4] if train != val else [])


def test_one_ranking_alone_never_disagrees():
    frame = pd.DataFrame([(0, "train", "a", 0.9), (0, "train", "b", 0.1)], columns=COLUMNS)
    assert ranking_disagreements(frame) == []
    assert ranking_disagreements(frame.iloc[:0]) == []


def test_unfit_rankings_are_refused():
    frame = pd.DataFrame([(0, "train", "a", 0.9)], columns=COLUMNS)
    with pytest.raises(ValueError, match="lack the column confidence"):
        teacher_orders(frame.drop(columns="confidence"))
    with pytest.raises(ValueError, match="twice"):
        teacher_orders(pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="NaN"):
        teacher_orders(frame.assign(confidence=float("nan")))


def test_each_fold_has_a_ranking_of_its_own() -> None:
    rows = [
        (fold, 0, on, m, value)
        for fold in (2, 1)
        for on in ("train", "val")
        for m, value in (("audio", 0.4), ("image", 0.9 if fold == 1 or on == "val" else 0.1))
    ]
    frame = pd.DataFrame(rows, columns=["fold", *COLUMNS])
    assert list(teacher_orders(frame)) == ["1/0", "2/0"]
    assert ranking_disagreements(frame) == ["2/0"]
