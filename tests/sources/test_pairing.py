"""Pairs of digits: nothing crosses splits, every picture is used once, equal seeds give equal pairs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import SPLITS
from g2d_pipeline.errors import DataError
from g2d_pipeline.sources.digits.pairing import balanced, draw_images, pair


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.data())
def test_balanced_counts_add_up_and_differ_only_where_a_class_is_used_up(
    capacity: list[int], data: Any
) -> None:
    wanted = data.draw(st.integers(0, sum(capacity)))
    counts = balanced(wanted, capacity)
    assert sum(counts) == wanted
    assert all(0 <= n <= held for n, held in zip(counts, capacity, strict=True))
    assert all(n >= max(counts) - 1 for n, held in zip(counts, capacity, strict=True) if n < held)


def test_more_than_there_is_can_not_be_balanced() -> None:
    with pytest.raises(ValueError, match="4 wanted, 3 there"):
        balanced(4, [1, 2])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, int], list[int], list[str], int]:
    labels = np.array(draw(st.lists(st.integers(0, 9), min_size=3, max_size=80)), np.uint8)
    test = draw(st.integers(1, len(labels) - 2))
    val = draw(st.integers(1, len(labels) - test - 1))
    train = draw(st.integers(1, len(labels) - test - val))
    each = {(d, s): draw(st.integers(1, 3)) for d in range(10) for s in SPLITS}
    said = draw(st.permutations([key for key, n in each.items() for _ in range(n)]))
    seed = draw(st.integers(0, 2**32))
    return (
        labels,
        {"train": train, "val": val, "test": test},
        [d for d, _ in said],
        [s for _, s in said],
        seed,
    )


@given(worlds())
def test_pairs_never_cross_splits_and_equal_seeds_give_equal_pairs(world: Any) -> None:
    labels, wanted, digits, splits, seed = world
    pairs = pair(draw_images(labels, wanted, seed), digits, splits, seed, "")
    assert pairs == pair(draw_images(labels, wanted, seed), digits, splits, seed, "")
    assert Counter(p.split for p in pairs) == Counter(wanted)
    assert len({p.row for p in pairs}) == len(pairs)
    for p in pairs:
        assert labels[p.row] == digits[p.clip] == p.digit
        assert splits[p.clip] == p.split
    turns = Counter(p.clip for p in pairs)
    for split in SPLITS:
        for digit in range(10):
            used = [turns[i] for i in range(len(digits)) if (digits[i], splits[i]) == (digit, split)]
            assert max(used) - min(used) <= 1


def test_more_training_pairs_leave_the_test_pairs_alone() -> None:
    labels = np.arange(200, dtype=np.uint8) % 10
    few, many = ({"train": n, "val": 20, "test": 30} for n in (50, 150))
    assert draw_images(labels, few, 3)["test"] == draw_images(labels, many, 3)["test"]
    assert draw_images(labels, few, 3)["test"] != draw_images(labels, few, 4)["test"]


def test_a_digit_that_nobody_says_is_named() -> None:
    images = {s: [[d] for d in range(10)] for s in SPLITS}
    said = [(d, s) for d in range(10) for s in SPLITS if (d, s) != (3, "val")]
    with pytest.raises(DataError, match=r"(?s)no recording.*digit 3 in val.*record it"):
        pair(images, [d for d, _ in said], [s for _, s in said], 0, "record it.")
