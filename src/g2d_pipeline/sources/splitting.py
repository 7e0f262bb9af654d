"""Splits that are drawn: shares of the rows, stratified, and by group without leakage; folds."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SplitFractions
from g2d_pipeline.errors import ConfigError, data_error, did_you_mean

VAL, TEST = 0.1, 0.2  # shares that are not given
BINS = 10  # quantile bins that a regression is stratified by, where there are samples enough
TRIES, STEPS = 20, 20_000  # orders of the groups that are tried; at most so many groups are placed in all

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.str_]
Codes = npt.NDArray[np.int64]


def draw_split(
    n: int, target: Array, fractions: SplitFractions, groups: Array | None, official: Array | None = None
) -> Labels:
    """`n` samples with `target` `[n]` (int: classes, float: a regression) → an array `[n]` of train, val,
    test. `official` `[n]`: what is known of it; of its train rows val is drawn.

    Seeded; it follows the order of the samples: the same ones in another order are drawn otherwise. Without
    groups, val and test have round(n × share) samples (scikit-learn's `train_test_split`), n being those that
    no name and no official split holds out; stratified ones have each class, or quantile of the target, in
    proportion, and classes too small to be divided are train. With `groups` `[n]` no group is in two of the
    splits that are drawn, and each split is within the size of the largest group of what was asked
    (scikit-learn's group splitters count groups, not samples: hence our own). Where that leaves a split
    empty, it gets the smallest group.

    Of `folds`, test is the one that `fold` names (the first); the folds of one seed part the samples.

    ConfigError where the shares leave no train, DataError for too few samples or groups, or unknown ones."""
    split = np.full(n, "", "<U5")
    if official is not None:
        split[:] = np.where(official == "train", "", official)
    shares: dict[str, float] = {}
    for name, part in (("val", fractions.val or VAL), ("test", fractions.test or TEST)):
        if isinstance(part, float):
            shares[name] = part
        else:
            split[_named(name, part.group, groups, split)] = name
    if fractions.folds is not None:
        split[_fold(target, fractions, groups)] = "test"
    if official is not None or fractions.folds is not None:
        shares.pop("test", None)
    if sum(shares.values()) >= 1:
        listed = " and ".join(f"{name} ({share:g})" for name, share in shares.items())
        raise ConfigError(f"split: {listed} leave nothing for train")
    rest = np.flatnonzero(split == "")
    split[rest] = _draw(target[rest], shares, fractions, None if groups is None else groups[rest])
    return split


def _fold(target: Array, fractions: SplitFractions, groups: Array | None) -> Codes:
    """The samples of one fold by scikit-learn's splitters: whole groups, strata as even as can be."""
    from sklearn import model_selection

    folds, n = fractions.folds, len(target) if groups is None else len(np.unique(groups))
    if not isinstance(folds, int) or folds > n:
        what = "samples" if groups is None else f"values of {fractions.group!r} in rows that can be used"
        remedy = "lower folds under `split`, or mend the rows that can not be used."
        raise data_error(f"split.folds = {folds}, and there are {n} {what}", [], remedy)
    strata = _strata(target) if fractions.stratify else np.zeros(len(target), np.int64)
    kinds: list[Any] = [model_selection.StratifiedKFold, model_selection.KFold]
    if groups is not None:
        kinds = [model_selection.StratifiedGroupKFold, model_selection.GroupKFold]
    stratified = np.bincount(strata).max() >= folds and len(np.unique(strata)) > 1
    splitters: list[Any] = [
        kind(folds, shuffle=True, random_state=fractions.seed) for kind in kinds[0 if stratified else 1 :]
    ]
    if groups is not None and folds == n:
        splitters = [model_selection.LeaveOneGroupOut()]
    for splitter in splitters:  # a stratified one of few groups may leave a fold empty: then the next
        with warnings.catch_warnings():  # a class of fewer samples than folds is in some of them only
            warnings.simplefilter("ignore", UserWarning)
            tests: list[Codes] = [test for _, test in splitter.split(target, strata, groups)]
        if all(len(test) for test in tests):
            break
    return tests[(fractions.fold or 1) - 1]


def _named(name: str, wanted: Sequence[str], groups: Array | None, split: Labels) -> Array:
    """Which of the samples `[n]` still to be drawn are of the groups `wanted`. DataError for unknown ones."""
    assert groups is not None  # the settings see to it
    known = np.unique(groups[split == ""]).tolist()
    if unknown := [f"{group!r}.{did_you_mean(group, known)}" for group in wanted if group not in known]:
        listed = f"{', '.join(map(str, known[:20]))}{', …' if len(known) > 20 else '.'}"
        remedy = f"name others under split.{name}.group. There are {len(known)}: {listed}"
        raise data_error(f"split.{name}.group: no sample to draw has the group", unknown, remedy)
    mask: Array = np.isin(groups, list(wanted)) & (split == "")
    return mask


def _draw(target: Array, shares: dict[str, float], fractions: SplitFractions, groups: Array | None) -> Labels:
    """train and the splits of `shares`, of samples with `target` `[n]`."""
    n, names = len(target), ["train", *shares]
    if n < len(names):
        into = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        raise data_error(f"{n} samples can not be divided into {into}", [], "add samples.")
    sizes = {name: max(1, round(n * share)) for name, share in shares.items()}
    if sum(sizes.values()) >= n:
        remedy = f"add samples, or lower {' and '.join(sizes)} under `split`."
        listed = " and ".join(f"{name} ({size})" for name, size in sizes.items())
        raise data_error(f"{listed} leave nothing of {n} samples for train", [], remedy)
    strata = _strata(target) if fractions.stratify else None
    if groups is not None and shares:
        want = {"train": n - sum(sizes.values()), **sizes}
        return _by_group(want, strata, groups, fractions.seed)
    split = np.full(n, "train", dtype="<U5")
    for name, size in reversed(sizes.items()):
        rest = np.flatnonzero(split == "train")
        split[_take(rest, size, None if strata is None else strata[rest], fractions, name)] = name
    return split


def _strata(target: Array) -> Codes:
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


def _by_group(want: dict[str, int], strata: Codes | None, groups: Array, seed: int) -> Labels:
    """Each group to one of the splits of `want`, in a drawn order; of several the best stratified is kept.

    A group goes to a split that it fills up to half of itself too much at most, or else to the one that lacks
    most: so no split ends further from its size in `want` than the largest group is big."""
    names, code = np.unique(groups, return_inverse=True)
    if len(names) < len(want):
        headline = f"{len(names)} groups can not be divided into {', '.join(want)}"
        raise data_error(headline, map(repr, names.tolist()), "choose another column as `group`, or none.")
    sizes = np.array(list(want.values()))
    table = np.zeros((len(names), 1 if strata is None else int(strata.max()) + 1), np.int64)
    np.add.at(table, (code, strata if strata is not None else np.zeros_like(code)), 1)
    share = sizes / sizes.sum()
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(names), np.int64), np.inf
    for _ in range(1 if strata is None else int(np.clip(STEPS // len(names), 1, TRIES))):
        placed = _place(table, sizes, share, rng)
        have = np.stack([table[placed == k].sum(axis=0) for k in range(len(sizes))])
        ideal = np.outer(share, table.sum(axis=0))
        off = float((((have - ideal) ** 2) / np.maximum(ideal, 1)).sum())
        if off < least:
            best, least = placed, off
    return np.array(list(want), "<U5")[best[code]]


def _place(table: Codes, want: Codes, share: npt.NDArray[np.float64], rng: np.random.Generator) -> Codes:
    """The split (0, 1, …) of each group of `table` `[groups, strata]`, in a drawn order."""
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
    for k in range(len(want)):
        if not (placed == k).any():
            counts = np.bincount(placed, minlength=len(want))
            donors = np.flatnonzero(counts[placed] > 1)
            placed[donors[np.argmin(sizes[donors])]] = k
    return placed
