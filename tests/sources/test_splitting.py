"""Drawn splits: complete, of the sizes asked for, stratified, and never with a group in two of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from g2d_pipeline.config import SplitFractions
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources.splitting import draw_split

SPLITS = ("train", "val", "test")
shares = st.floats(0.05, 0.4)


def sizes(split: np.ndarray) -> dict[str, int]:
    return {s: int((split == s).sum()) for s in SPLITS}


@given(st.integers(3, 300), shares, shares, st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_sample_is_in_one_split_of_the_size_asked_for(
    n: int, val: float, test: float, seed: int
) -> None:
    fractions = SplitFractions(val=val, test=test, stratify=False, seed=seed)
    asked = {"val": max(1, round(n * val)), "test": max(1, round(n * test))}
    assume(sum(asked.values()) < n)
    split = draw_split(n, np.zeros(n), fractions, None)
    assert split.shape == (n,)
    assert sizes(split) == {"train": n - sum(asked.values()), **asked}
    assert (split == draw_split(n, np.zeros(n), fractions, None)).all()


@given(st.lists(st.integers(12, 80), min_size=2, max_size=6), shares, shares, st.integers(0, 1000))
@settings(max_examples=60)
def test_every_class_is_met_in_proportion(counts: list[int], val: float, test: float, seed: int) -> None:
    target = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(target)
    n = len(target)
    assume(min(round(n * val), round(n * test), n - round(n * val) - round(n * test)) >= len(counts))
    split = draw_split(n, target, SplitFractions(val=val, test=test, seed=seed), None)
    for name, share in (("val", val), ("test", test)):
        got = np.bincount(target[split == name], minlength=len(counts))
        assert np.abs(got - share * np.array(counts)).max() <= 2.5


@given(st.integers(0, 1000), st.integers(100, 400))
@settings(max_examples=20)
def test_a_regression_is_stratified_by_quantiles(seed: int, n: int) -> None:
    target = np.random.default_rng(seed).lognormal(size=n)
    split = draw_split(n, target, SplitFractions(val=0.2, test=0.2, seed=seed), None)
    above = target > np.median(target)
    for name in SPLITS:
        assert abs(above[split == name].mean() - 0.5) < 0.15
    assert len(set(sizes(split).values())) > 1


@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=40), shares, shares, st.booleans(), st.integers(0, 1000)
)
@settings(max_examples=120)
def test_no_group_crosses_and_sizes_are_within_the_largest_group(
    groups: list[int], val: float, test: float, stratify: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(groups)), groups)
    rng.shuffle(group)
    n = len(group)
    asked = {"val": max(1, round(n * val)), "test": max(1, round(n * test))}
    assume(sum(asked.values()) < n)
    asked["train"] = n - sum(asked.values())
    fractions = SplitFractions(val=val, test=test, stratify=stratify, group="g", seed=seed)
    target = rng.integers(0, 3, n)
    split = draw_split(n, target, fractions, group)
    for g in range(len(groups)):
        assert len(set(split[group == g])) == 1
    got, largest = sizes(split), max(groups)
    assert min(got.values()) > 0
    slack = 1 if min(asked.values()) > largest else 2  # no split had to be saved from being empty
    assert all(abs(got[s] - asked[s]) <= slack * largest for s in SPLITS)
    assert (split == draw_split(n, target, fractions, group)).all()


def test_groups_are_stratified_where_they_can_be() -> None:
    """Forty groups of one class each, two classes of unequal number: a third of each split is of the rare
    one."""
    group = np.repeat(np.arange(60), 5)
    target = (group % 3 == 0).astype(np.int64)
    for seed in range(5):
        split = draw_split(300, target, SplitFractions(val=0.2, test=0.2, group="g", seed=seed), group)
        assert all(abs(target[split == s].mean() - 1 / 3) < 0.05 for s in SPLITS)


@given(st.lists(st.integers(1, 20), min_size=4, max_size=20), shares, st.booleans(), st.integers(0, 1000))
@settings(max_examples=60)
def test_named_groups_are_held_out_and_shares_are_of_the_rest(
    groups: list[int], share: float, val_is_named: bool, seed: int
) -> None:
    group = np.repeat([f"g{i}" for i in range(len(groups))], groups)
    rest = sum(groups[1:])
    assume(max(1, round(rest * share)) < rest)
    named, drawn = ("val", "test") if val_is_named else ("test", "val")
    fractions = SplitFractions.model_validate(
        {named: {"group": "g0"}, drawn: share, "group": "g", "seed": seed, "stratify": False}
    )
    split = draw_split(len(group), np.zeros(len(group)), fractions, group)
    assert ((split == named) == (group == "g0")).all()
    assert all(len(set(split[group == name])) == 1 for name in np.unique(group))
    assert abs((split == drawn).sum() - max(1, round(rest * share))) <= max(groups[1:])
    assert (split == "train").any()


@given(st.integers(20, 200), shares, st.booleans(), st.integers(0, 1000))
@settings(max_examples=60)
def test_an_official_test_split_stays_and_val_is_drawn_from_train(
    n: int, share: float, by_group: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    official = np.where(rng.random(n) < 0.3, "test", "train").astype(object)
    group = rng.integers(0, 6, n) if by_group else None
    train = int((official == "train").sum())
    fractions = SplitFractions(
        column="split", val=share, group="g" if by_group else None, seed=seed, stratify=False
    )
    assume(train > 8 and (group is None or len(np.unique(group[official == "train"])) > 1))
    split = draw_split(n, np.zeros(n), fractions, group, official)
    assert ((split == "test") == (official == "test")).all()
    if group is None:
        assert (split == "val").sum() == max(1, round(train * share))
    else:
        assert not set(group[split == "train"]) & set(group[split == "val"])
        assert (split == "val").any()
        assert (split == "train").any()


@given(
    st.integers(6, 120),
    st.integers(2, 6),
    st.sampled_from([None, 6, 9, 30]),
    st.sampled_from(["classes", "regression", "plain"]),
    st.integers(0, 1000),
)
@settings(max_examples=80)
def test_over_the_folds_each_sample_is_tested_once(
    n: int, folds: int, groups: int | None, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=n) if kind == "regression" else rng.integers(0, 3, n)
    group = None if groups is None else rng.integers(0, groups, n)
    units = n if group is None else len(np.unique(group))
    assume(units >= 2 * folds + 2)  # something is left for train and val
    fields = {
        "folds": folds,
        "seed": seed,
        "stratify": kind != "plain" and group is not None,
        "group": None if group is None else "g",
    }
    split = [
        draw_split(n, target, SplitFractions.model_validate(fields | {"fold": fold}), group)
        for fold in range(1, folds + 1)
    ]
    assert (np.sum([s == "test" for s in split], axis=0) == 1).all()
    for one in split:
        assert set(one) == set(SPLITS)
        if group is not None:
            assert all(len(set(one[group == g])) == 1 for g in np.unique(group))
        elif kind == "plain":
            sizes_of = {int((s == "test").sum()) for s in split}
            assert max(sizes_of) - min(sizes_of) <= 1


@pytest.mark.parametrize("stratify", [False, True])
def test_as_many_folds_as_groups_leave_out_one_each(stratify: bool) -> None:
    group = np.repeat(["c", "a", "d", "b"], 10)
    target = np.arange(40) % 2
    fields = {"folds": 4, "group": "g", "stratify": stratify}
    for fold, name in enumerate("abcd", start=1):
        split = draw_split(40, target, SplitFractions.model_validate(fields | {"fold": fold}), group)
        assert ((split == "test") == (group == name)).all()


def test_folds_are_stratified() -> None:
    target = np.arange(100) % 10 // 8  # a fifth is of the rare class
    for fold in range(1, 6):
        split = draw_split(100, target, SplitFractions(folds=5, fold=fold), None)
        assert (target[split == "test"].mean(), (split == "test").sum()) == (0.2, 20)


def test_settings_of_each_fold_and_seed() -> None:
    def names(**fields: object) -> list[tuple[str, int | None, int]]:
        settings = SplitFractions.model_validate(fields)
        return [(name, one.fold, one.seed) for name, one in settings.each(seed=2)]

    assert names() == [("", None, 0)]
    assert names(seed=7, folds=2) == [("fold1", 1, 7), ("fold2", 2, 7)]
    assert names(folds=5, fold=4) == [("fold4", 4, 0)]
    assert names(seed=7, per_seed=True) == [("seed2", None, 9)]
    assert names(folds=2, per_seed=True) == [("fold1/seed2", 1, 2), ("fold2/seed2", 2, 2)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"folds": 5, "test": 0.2}, r"folds tests each sample once: remove test \(val may be"),
        ({"folds": 5, "group": "g", "val": {"group": "a"}}, "folds tests each sample once: remove val.group"),
        ({"folds": 5, "column": "split"}, "folds draws test, and column 'split' says what test is"),
        ({"folds": "leave_one_out"}, "folds = leave_one_out leaves out one group at a time: say `group:"),
        ({"folds": 1}, "say how many, 2 or more, or leave_one_out"),
        ({"folds": "many"}, "say how many, 2 or more, or leave_one_out"),
        ({"fold": 2}, "fold is one of folds: say how many, too"),
        ({"folds": 3, "fold": 4}, "fold = 4: there are 3"),
        ({"column": "split", "per_seed": True}, "per_seed draws a split for each seed, and nothing is drawn"),
        ({"test": {"group": ["a"]}}, "test.group names groups: say `group: <column>`, too"),
        ({"group_pattern": "x"}, "group_pattern needs group"),
        ({"group": "g", "val": {"group": "a/b"}, "test": {"group": "b"}}, "group b is named for both"),
        ({"column": "split", "test": 0.2}, "column 'split' says what test is: remove test; or remove column"),
        ({"column": "split", "group": "g"}, "nothing is drawn where column 'split' says it all"),
        ({"group": "g", "test": {"group": []}}, "at least 1 item"),
        ({"test": 1.5}, "less than 1"),
    ],
)
def test_split_settings_that_contradict_themselves(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SplitFractions.model_validate(fields)


def test_another_seed_or_order_draws_another_split() -> None:
    target = np.arange(200) % 4
    group = np.arange(200) // 5
    for groups in (None, group):
        drawn = [draw_split(200, target, SplitFractions(seed=s), groups) for s in (0, 1)]
        assert (drawn[0] != drawn[1]).any()
    split = draw_split(200, target, SplitFractions(), None)
    assert (draw_split(200, target[::-1], SplitFractions(), None)[::-1] != split).any()


def test_a_class_of_one_sample_is_train() -> None:
    target = np.array([0] * 30 + [1] * 30 + [2])
    for seed in range(10):
        assert draw_split(61, target, SplitFractions(seed=seed), None)[60] == "train"


@pytest.mark.parametrize(
    ("n", "changes", "groups", "error", "words"),
    [
        (20, {"val": 0.5, "test": 0.5}, None, ConfigError, "leave nothing for train"),
        (2, {}, None, DataError, "2 samples can not be divided"),
        (3, {"val": 0.49, "test": 0.49}, None, None, ""),
        (4, {"val": 0.45, "test": 0.5}, None, DataError, "leave nothing of 4 samples"),
        (20, {"group": "g"}, ["a", "b"], DataError, "2 groups can not be divided"),
        (60, {"val": 0.02}, None, DataError, "val gets 1 of 48 samples"),
        (20, {"folds": 21}, None, DataError, "split.folds = 21, and there are 20 samples"),
        (
            20,
            {"folds": 4, "group": "g"},
            ["a", "b", "c"],
            DataError,
            "split.folds = 4, and there are 3 values of 'g' in rows that can be used",
        ),
        (20, {"folds": 2, "group": "g"}, ["a", "b"], DataError, "1 groups can not be divided"),
        (
            20,
            {"group": "g", "test": {"group": ["a", "cc"]}},
            ["a", "b", "c"],
            DataError,
            "(?s)has the group.*'cc'. Did you mean 'c'.*There are 3: a, b, c",
        ),
        (
            20,
            {"group": "g", "test": {"group": ["a"]}, "val": {"group": ["b"]}},
            ["a", "b"],
            DataError,
            "0 samples can not be divided into train",
        ),
    ],
)
def test_shares_that_can_not_be_met_are_told(
    n: int, changes: dict[str, object], groups: list[str] | None, error: type[Exception] | None, words: str
) -> None:
    target = np.arange(n) % 2
    of = None if groups is None else np.array(groups)[np.arange(n) % len(groups)]
    fractions = SplitFractions.model_validate({"stratify": error is not None} | changes)
    if error is None:
        assert sizes(draw_split(n, target, fractions, of)) == dict.fromkeys(SPLITS, 1)
        return
    with pytest.raises(error, match=words):
        draw_split(n, target, fractions, of)
