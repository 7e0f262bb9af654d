"""How far new data are from a reference: effect sizes, and tests that stay valid for rows in groups.

Rows of one group (a speaker, a station) resemble each other, so that n rows tell less than n independent
ones. Every test here counts them by their effective number n / (1 + (m − 1) ICC) (Kish 1965), m the size of
groups and ICC the share of the variance between them, measured on the reference alone."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]

LEAST = 10  # new rows that a test of shift needs
INDEPENDENT = 5.0  # the effective number of rows that any test with groups needs
EXPECTED = 5.0  # of a category among the new rows; rarer ones are one category
COMPONENTS, FOLDS, CLIP, TINY = 32, 5, 5.0, 1e-3
PENALTY = 0.05  # C of the logistic regression


@dataclass(frozen=True)
class Sides:
    """The groups of the rows of both sides, as numbers `[n]`, `[m]`; None: rows are independent."""

    reference: Codes | None = None
    new: Codes | None = None

    def effective(self, values: Floats, new: int) -> tuple[float, float]:
        """Effective numbers of rows of the reference, with its `values` `[n, d]`, and of `new` rows."""
        if self.reference is None or self.new is None:
            return float(len(values)), float(new)
        icc = intraclass_correlation(values, self.reference)
        return effective_size(self.reference, icc), effective_size(self.new, icc)


@dataclass(frozen=True)
class Shift:
    """`of`: the column or modality; `effect`: 0 where both sides are alike, by the `measure`; `p`: of there
    being none, NaN where there are too few rows for a test; `scores` `[m]`: how unlike the reference each new
    row is, `first`: their names, the most unlike first (both empty for a column)."""

    subject: str
    measure: str
    effect: float
    p: float
    scores: Floats = field(default_factory=lambda: np.zeros(0), compare=False)
    first: tuple[str, ...] = ()


def intraclass_correlation(values: Floats, groups: Codes) -> float:
    """The share in [0, 1] of the variance of `values` `[n, d]`, summed over d, that lies between groups: one
    way analysis of variance. 0 where there are fewer than two groups, or none has two rows."""
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    n, k = len(values), len(counts)
    if k < 2 or n == k:
        return 0.0
    centred = values - values.mean(axis=0)
    sums = np.zeros((k, values.shape[1]))
    np.add.at(sums, codes, centred)
    between = float((np.square(sums) / counts[:, None]).sum())
    within = float(np.square(centred).sum()) - between
    size = (n - float(np.square(counts).sum()) / n) / (k - 1)
    above, below = between / (k - 1), max(within, 0.0) / (n - k)
    whole = above + (size - 1) * below
    return float(np.clip((above - below) / whole, 0, 1)) if whole > 0 else 0.0


def effective_size(groups: Codes, icc: float) -> float:
    counts = np.unique(groups, return_counts=True)[1]
    return len(groups) / (1 + (float(np.square(counts).sum()) / len(groups) - 1) * icc)


def compare_numbers(subject: str, reference: Floats, new: Floats, sides: Sides) -> Shift:
    """Kolmogorov-Smirnov of two columns `[n]`, `[m]`; missing values count as one below all others, so that a
    change of their share is seen, too."""
    n = len(reference)
    both = np.concatenate([reference, new])
    ranks = stats.rankdata(np.where(np.isnan(both), -np.inf, both))
    distance = float(stats.ks_2samp(ranks[:n], ranks[n:], method="asymp").statistic)
    a, b = sides.effective(ranks[:n, None], len(new))
    p = float(stats.kstwo.sf(distance, max(1, round(a * b / (a + b)))))
    return Shift(subject, "KS distance", distance, p if _enough(len(new), a, b) else np.nan)


def compare_categories(subject: str, reference: Codes, new: Codes, sides: Sides) -> Shift:
    """Population stability index and chi-square of two columns of categories `[n]`, `[m]` (from 0)."""
    size = int(max(reference.max(initial=0), new.max(initial=0))) + 1
    counts = np.stack([np.bincount(side, minlength=size) for side in (reference, new)]).astype(np.float64)
    rare = counts.sum(axis=0) * len(new) / (len(reference) + len(new)) < EXPECTED
    pooled = np.where(rare, 0, np.cumsum(~rare))  # 0: all rare ones
    counts = np.stack([np.bincount(pooled, side) for side in counts])
    totals, present = counts.sum(axis=1, keepdims=True), np.flatnonzero(counts.any(axis=0))
    if len(present) < 2:
        return Shift(subject, "PSI", 0.0, 1.0 if len(new) >= LEAST else np.nan)
    counts = counts[:, present]
    shares = (counts + 0.5) / (totals + 0.5 * counts.shape[1])
    psi = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    flags = np.zeros((len(reference), 0), np.float32)
    if sides.reference is not None:  # who has many rows and categories without groups needs no flags
        flags = (pooled[reference][:, None] == present).astype(np.float32)
    a, b = sides.effective(flags, len(new))
    p = float(stats.chi2_contingency(counts * [[a], [b]] / totals, correction=False).pvalue)
    return Shift(subject, "PSI", psi, p if _enough(len(new), a, b) else np.nan)


def compare_features(subject: str, reference: Floats, new: Floats, sides: Sides) -> Shift:
    """A classifier two-sample test (Lopez-Paz and Oquab 2017) of features `[n, D]`, `[m, D]`.

    A logistic regression on the first principal components and their squares tells new rows from the
    reference's, by cross-validation; the effect is 2 AUC − 1, of each fold alone and averaged, and the test
    that of Mann and Whitney, from one side, its variance enlarged as the folds' training rows overlap (Nadeau
    and Bengio 2003). No group is in two parts of a fold: that single groups are recognised does not count."""
    x = _components(np.concatenate([reference, new]))
    y = np.repeat([0, 1], [len(reference), len(new)])
    areas, scores = _held_out(x, y, sides)
    if not areas:
        return Shift(subject, "2·AUC − 1", 0.0, np.nan)
    a, b = sides.effective(scores[y == 0, None], len(new))
    area = float(np.mean(areas))
    overlap = 1 + len(areas) / max(len(areas) - 1, 1)
    z = (area - 0.5) / np.sqrt(overlap * (1 / a + 1 / b) / 12)
    p = float(stats.norm.sf(z)) if _enough(len(new), a, b) else np.nan
    return Shift(subject, "2·AUC − 1", max(0.0, 2 * area - 1), p, scores[y == 1])


def _components(x: Floats) -> Floats:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(np.asarray(x, np.float64))
    x = x[:, x.any(axis=0)]
    if not x.shape[1]:
        return np.zeros((len(x), 1))
    count = min(COMPONENTS, x.shape[1], len(x) - 1)
    pca = PCA(count, svd_solver="full").fit(x)
    spread = np.sqrt(pca.explained_variance_)
    some = spread > TINY * spread[0]  # smaller ones are rounding, which differs from batch to batch
    x = np.clip(pca.transform(x)[:, some] / spread[some], -CLIP, CLIP)
    return np.hstack([x, np.square(x)])


def _held_out(x: Floats, y: Codes, sides: Sides) -> tuple[list[float], Floats]:
    """The area of each fold in which both sides are, and each row's score by a model that has not seen it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups, folds = None, min(FOLDS, *np.bincount(y, minlength=2).tolist())
    if sides.reference is not None and sides.new is not None:
        groups = np.concatenate([sides.reference, sides.new])
        folds = min(folds, len(np.unique(sides.reference)), len(np.unique(sides.new)))
    areas: list[float] = []
    scores = np.zeros(len(y))
    if folds < 2:
        return areas, scores
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one side has few rows in a fold; not converged
        for train, test in kind(folds, shuffle=True, random_state=0).split(x, y, groups):
            if len(np.unique(y[train])) == len(np.unique(y[test])) == 2:
                model = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=200)
                scores[test] = model.fit(x[train], y[train]).decision_function(x[test])
                areas.append(float(roc_auc_score(y[test], scores[test])))
    return areas, scores


def compare_shares(reference: Floats, new: Floats, sides: Sides) -> tuple[float, float]:
    """(how much larger the share of ones is in `new` `[m]` than in the `reference` `[n]`, p of Fisher's exact
    test from one side: it counts that the reference's share is measured, too)."""
    if not len(reference) or not len(new):
        return 0.0, 1.0
    a, b = (max(1, round(size)) for size in sides.effective(reference[:, None], len(new)))
    before, after = float(reference.mean()), float(new.mean())
    table = [[k := round(after * b), b - k], [k := round(before * a), a - k]]
    return after - before, float(stats.fisher_exact(table, alternative="greater").pvalue)


def _enough(new: int, *effective: float) -> bool:
    return new >= LEAST and min(effective) >= INDEPENDENT
