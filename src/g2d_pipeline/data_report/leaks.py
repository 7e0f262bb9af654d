"""Columns that predict the target (almost) perfectly by themselves: mostly the target under another name."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from g2d_pipeline.features.files import Array, Floats

PERFECT = 0.99  # balanced accuracy of a tree on one column
SAME_ORDER = 0.999  # |rank correlation| with a regression's target
LEAST = 20  # samples: of fewer, chance alone may do it
CANDIDATES = 20  # columns that are tried by a tree: those that separate the classes best


def suspected_leaks(
    table: pd.DataFrame, columns: Sequence[str], target: Array, train: Array, classes: int
) -> list[dict[str, Any]]:
    """The `columns` of `table` (numbers, or texts that are categories) that predict `target` `[N]` alone:
    `column`, `score` and the `measure`, best first.

    `classes`: how many there are; 0: a regression. Classification: the balanced accuracy over all samples of
    a decision tree with two leaves a class, fitted on the rows of `train`, reaches 0.99. Regression: the rank
    correlation with the target, on train, exceeds 0.999 in size. Blank numbers are the mean of train."""
    if not columns or len(table) < LEAST or train.sum() < 2:
        return []
    values = _as_numbers(table[list(columns)], train)
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # of constant columns: they score nothing
        warnings.simplefilter("ignore")
        if classes:
            least, measure, scores = PERFECT, "balanced accuracy", _by_tree(values, target, train, classes)
        else:
            least, measure, scores = SAME_ORDER, "rank correlation", _by_rank(values[train], target[train])
    leaks = sorted((f for f in scores if scores[f] >= least), key=lambda f: -scores[f])
    return [{"column": columns[f], "score": round(scores[f], 4), "measure": measure} for f in leaks]


def _as_numbers(table: pd.DataFrame, train: Array) -> Floats:
    """`[N, F]`: numbers as they are, blanks the mean of train; texts as codes."""
    numbers = table.apply(lambda c: c if c.dtype.kind in "fiub" else c.astype(str).factorize()[0])
    values = numbers.to_numpy(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column without a value in train
        means = np.nan_to_num(np.nanmean(values[train], axis=0))
    return np.asarray(np.where(np.isnan(values), means, values))


def _by_tree(values: Floats, target: Array, train: Array, classes: int) -> dict[int, float]:
    """Column → balanced accuracy, of the columns with the largest F of an analysis of variance."""
    from sklearn.feature_selection import f_classif
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    separation = np.nan_to_num(f_classif(values[train], target[train])[0], nan=-1.0)
    scores = {}
    for f in np.argsort(-separation, kind="stable")[:CANDIDATES].tolist():
        tree = DecisionTreeClassifier(max_leaf_nodes=2 * classes, random_state=0)
        tree.fit(values[train, f : f + 1], target[train])
        scores[f] = float(balanced_accuracy_score(target, tree.predict(values[:, f : f + 1])))
    return scores


def _by_rank(values: Floats, target: Array) -> dict[int, float]:
    """Column → size of its rank correlation with the target."""
    from sklearn.feature_selection import r_regression

    r = r_regression(pd.DataFrame(values).rank().to_numpy(), pd.Series(target).rank().to_numpy())
    return dict(enumerate(np.abs(np.nan_to_num(r)).tolist()))
