"""Splits that are drawn: train, val and test as shares of the rows, stratified, and by group without
leakage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import ConfigError, data_error

if TYPE_CHECKING:
    from g2d_pipeline.config import SplitFractions

BINS = 10  # quantile bins that a regression is stratified by, where there are samples enough
TRIES, STEPS = 20, 20_000  # orders of the groups that are tried; at most so many groups are placed in all

Labels = npt.NDArray[np.str_]
Codes = npt.NDArray[np.int64]


def draw_split(
    n: int, target: npt.NDArray[Any], fractions: SplitFractions, groups: npt.NDArray[Any] | None
) -> Labels:
    """`n` samples with `target` `[n]` (int: classes, float: a regression) → an array `[n]` of train, val,
    test.

    Seeded; it follows the order of the samples: the same ones in another order are drawn otherwise. Without
    groups, val and test have round(n × share) samples (scikit-learn's `train_test_split`); stratified ones
    have each class, or quantile of the target, in proportion, and classes too small to be divided are train.
    With `groups` `[n]` no group is in two splits, and each split is within the size of the largest group of
    what was asked (scikit-learn's group splitters count groups, not samples: hence our own). Where that
    leaves a split empty, it gets the smallest group.

    Raises ConfigError where the shares leave no train, DataError where there are too few samples or groups.
    """
    if fractions.val + fractions.test >= 1:
        raise ConfigError(
            f"split: val ({fractions.val:g}) and test ({fractions.test:g}) leave nothing for train"
        )
    if n < 3:
        raise data_error(f"{n} samples can not be divided into train, val and test", [], "add samples.")
    val, test = (max(1, round(n * share)) for share in (fractions.val, fractions.test))
    if val + test >= n:
        remedy = "add samples, or lower val and test under `split`."
        raise data_error(f"val ({val}) and test ({test}) leave nothing of {n} samples for train", [], remedy)
    strata = _strata(target) if fractions.stratify else None
    if groups is not None:
        return _by_group(np.array([n - val - test, val, test]), strata, groups, fractions.seed)
    split = np.full(n, "train", dtype="<U5")
    for name, size in (("test", test), ("val", val)):
        rest = np.flatnonzero(split == "train")
        split[_take(rest, size, None if strata is None else strata[rest], fractions, name)] = name
    return split


def _strata(target: npt.NDArray[Any]) -> Codes:
    """Classes as they are; a regression's target in quantile bins of ten samples or more."""
    if target.dtype.kind != "f":
        return np.unique(target, return_inverse=True)[1].astype(np.int64)
    bins = max(1, min(BINS, len(target) // 10))
    edges = np.unique(np.quantile(target, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, target, side="right").astype(np.int64)


def _take(rows: Codes, size: int, strata: Codes | None, fractions: SplitFractions, name: str) -> Codes:
    """`size` of `rows`; stratified: single ones of a stratum stay."""
    from sklearn.model_selection import train_test_split

    if strata is not None:
        enough = np.bincount(strata)[strata] >= 2
        rows, strata = rows[enough], strata[enough]
        kinds = len(np.unique(strata))
        if min(size, len(rows) - size) < kinds:
            headline = f"{name} gets {size} of {len(rows)} samples: too few on one side for {kinds} strata"
            remedy = f"add samples, raise {name} under `split`, or set `stratify: false` there."
            raise data_error(headline, [], remedy)
    taken: Codes = train_test_split(rows, test_size=size, random_state=fractions.seed, stratify=strata)[1]
    return taken


def _by_group(want: Codes, strata: Codes | None, groups: npt.NDArray[Any], seed: int) -> Labels:
    """Each group to one split; the order of the groups is drawn, and of several orders the best stratified is
    kept.

    A group goes to a split that it fills up to half of itself too much at most, or else to the one that lacks
    most: so no split ends further from `want` `[3]` than the largest group is big."""
    names, code = np.unique(groups, return_inverse=True)
    if len(names) < 3:
        headline = f"{len(names)} groups can not be divided into train, val and test"
        raise data_error(headline, map(repr, names.tolist()), "choose another column as `group`, or none.")
    table = np.zeros((len(names), 1 if strata is None else int(strata.max()) + 1), np.int64)
    np.add.at(table, (code, strata if strata is not None else np.zeros_like(code)), 1)
    share = want / want.sum()
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(names), np.int64), np.inf
    for _ in range(1 if strata is None else int(np.clip(STEPS // len(names), 1, TRIES))):
        placed = _place(table, want, share, rng)
        have = np.stack([table[placed == k].sum(axis=0) for k in range(3)])
        ideal = np.outer(share, table.sum(axis=0))
        off = float((((have - ideal) ** 2) / np.maximum(ideal, 1)).sum())
        if off < least:
            best, least = placed, off
    return np.array(["train", "val", "test"])[best[code]]


def _place(table: Codes, want: Codes, share: npt.NDArray[np.float64], rng: np.random.Generator) -> Codes:
    """The split (0, 1, 2) of each group of `table` `[groups, strata]`, in a drawn order."""
    sizes = table.sum(axis=1)
    stratified = table.shape[1] > 1
    ideal = np.outer(share, table.sum(axis=0))
    have = np.zeros_like(ideal)
    placed = np.zeros(len(table), np.int64)
    for g in rng.permutation(len(table)):
        lacking = want - have.sum(axis=1)
        fits = np.flatnonzero(lacking >= sizes[g] / 2)
        if len(fits) == 0:
            k = int(np.argmax(lacking))
        elif stratified:
            need = (ideal[fits] - have[fits]) / np.maximum(ideal[fits], 1)
            k = int(fits[np.argmax(need @ table[g])])
        else:
            k = int(rng.choice(fits, p=lacking[fits] / lacking[fits].sum()))
        placed[g] = k
        have[k] += table[g]
    for k in range(3):
        if not (placed == k).any():
            counts = np.bincount(placed, minlength=3)
            donors = np.flatnonzero(counts[placed] > 1)
            placed[donors[np.argmin(sizes[donors])]] = k
    return placed
