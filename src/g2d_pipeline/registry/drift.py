"""New rows beside a champion's reference: can they be read, are they silent, shifted, labelled otherwise?

Effect sizes measure how far they are from the reference, with tests that stay valid for rows in groups: rows
of one group (a speaker, a station) resemble each other, so that n rows tell less than n independent ones.
Every test here counts them by their effective number n / (1 + (m − 1) ICC) (Kish 1965), m the size of groups
and ICC the share of the variance between them, measured on the reference alone."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from g2d_pipeline.config.retrain import GateSettings, Limits
from g2d_pipeline.errors import SHOWN, enumerated
from g2d_pipeline.evaluation.statistics import holm
from g2d_pipeline.registry.gates import Finding
from g2d_pipeline.registry.reference import Reference, Rows, Seen, look_at
from g2d_pipeline.sources.manifest import Manifest

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]

OFF = Limits()
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

    def take(self, reference: Any = slice(None), new: Any = slice(None)) -> "Sides":
        """The groups of these rows."""
        if self.reference is None or self.new is None:
            return self
        return Sides(self.reference[reference], self.new[new])

    def effective(self, values: Floats, new: int) -> tuple[float, float]:
        """Effective numbers of rows of the reference, with its `values` `[n, d]`, and of `new` rows."""
        if self.reference is None or self.new is None:
            return float(len(values)), float(new)
        icc = intraclass_correlation(values, self.reference)
        counts = [np.unique(codes, return_counts=True)[1] for codes in (self.reference, self.new)]
        a, b = (c.sum() / (1 + (float(np.square(c).sum()) / c.sum() - 1) * icc) for c in counts)
        return float(a), float(b)


class Shift(NamedTuple):
    """`subject`: the column or modality; `effect`: 0 if both sides are alike, by the `measure`; `p`: of there
    being none, NaN if there are too few rows for a test; `scores` `[m]`: how unlike the reference each new
    row is (empty for a column); `first`: the ids of the most unlike rows, in order."""

    subject: str
    measure: str
    effect: float
    p: float
    scores: Floats = np.zeros(0)
    first: tuple[str, ...] = ()


class Delivery:
    """New rows of a manifest beside a champion's reference: `rows`, of `total`, are looked at. `keys`: the
    `content_keys` of the manifest; `dropped`: what ingest dropped of the new data."""

    def __init__(
        self,
        manifest: Manifest,
        root: Path,
        champion: Path,
        reference: Reference,
        settings: GateSettings,
        keys: pd.DataFrame,
        rows: Rows,
        total: int,
        dropped: list[dict[str, Any]],
    ) -> None:
        self.root, self.champion, self.reference, self.settings = root, champion, reference, settings
        self.rows, self.total, self.dropped = rows, total, dropped
        self.notes: list[str] = []
        self.table = manifest.table.iloc[rows].reset_index(drop=True).astype({"sample_id": str})
        self.keys = keys.iloc[rows]
        self.classes = list(reference.about["meta"]["class_names"])
        values = self.table["target"]
        if self.classes:  # the champion's numbers, NaN for classes that it does not know
            numbers = {c: float(i) for i, c in enumerate(self.classes)}
            values = values.map({i: numbers.get(c) for i, c in enumerate(manifest.meta["class_names"])})
        self.targets = values.to_numpy(np.float64)
        self.sides = Sides()
        groups = [table["group"] for table in (reference.samples, self.table) if "group" in table]
        if len(groups) == 2 and not any(group.isna().any() for group in groups):
            codes = pd.factorize(pd.concat(groups).astype(str))[0].astype(np.int64)
            self.sides = Sides(*np.split(codes, [len(groups[0])]))

    @cached_property
    def seen(self) -> Seen:
        """The new rows through the champion, decoded once for all gates."""
        from g2d_pipeline.serving import load_model

        return look_at(load_model(self.champion), self.table, self.root)

    def findings(self) -> Iterator[Finding]:
        """Of every gate that has a limit."""
        limits = self.settings
        if limits.unreadable != OFF:
            yield self._unreadable()
        if not len(self.rows):
            return
        if limits.silent != OFF:
            yield from self._silent()
        if limits.shift != OFF:
            yield from self._shift()
        if limits.label_noise != OFF:
            yield self._label_noise()

    def _unreadable(self) -> Finding:
        faults = self.seen.rows["fault"] if len(self.rows) else pd.Series(dtype="str")
        faults = faults[faults != ""]
        count, looked, lost = len(faults), len(self.rows), len(self.dropped)
        value = ((count / looked if looked else 0.0) * self.total + lost) / (self.total + lost)
        offenders = (self.table["sample_id"][faults.index] + " (" + faults + ")").tolist()
        for item in self.dropped:
            offenders.append(", ".join(f"{k} {v}" for k, v in item.items() if v is not None))
        text = f"{count:,} of {looked:,} new rows that were looked at can not be used"
        if offenders:
            text += f", {lost:,} were dropped when the data were read" if lost else ""
            remedy = "copy or download them again, or take them out of the delivery"
            text += f" ({value:.1%} of what is new): {enumerated(offenders, SHOWN)}; {remedy}"
        return Finding.judge("unreadable", value, self.settings.unreadable, f"{text}.", offenders)

    def _silent(self) -> Iterator[Finding]:
        usable, good = self.reference.usable, np.flatnonzero(self.seen.good)
        for m in self.seen.features:
            before = self.reference.contents[f"blank/{m}"].to_numpy(float)[usable]
            blank = self.seen.rows[f"blank/{m}"].to_numpy()[good]
            value, p = compare_shares(before, blank.astype(float), self.sides.take(usable, good))
            if not blank.any() and not before.any():
                continue
            offenders = self.table["sample_id"][good[blank]].tolist()
            text = (
                f"{m}: {len(offenders):,} of {len(good):,} new samples are silent or blank, "
                f"{before.mean():.1%} were at training time (p = {p:.2g}): {enumerated(offenders, SHOWN)}; "
                "check how they were recorded."
            )
            limits, certain = self.settings.silent, p < self.settings.alpha
            yield Finding.judge(f"silent/{m}", max(0.0, value), limits, text, offenders, p, certain)

    # ------------------------------------------------------------------------------------------------- shift
    def _shift(self) -> Iterator[Finding]:
        rows = [{"name": name, **shift._asdict()} for name, shift in self._tests()]
        tests = pd.DataFrame(rows, columns=["name", *Shift._fields])
        if untested := sorted(tests.loc[tests["p"].isna(), "name"].unique()):
            reason = f"fewer than {LEAST} new samples, counted as independent ones"
            self.notes.append(f"Not tested: {', '.join(untested)} ({reason}).")
        tests["p"] = holm(tests["p"].to_numpy(float))
        for name, shifts in tests.dropna(subset="p").groupby("name", sort=False):
            yield self._shifted(str(name), shifts)

    def _shifted(self, name: str, tests: pd.DataFrame) -> Finding:
        """The finding of all tests of a modality or the target: the largest effect, of the clear ones if
        there are any."""
        clear = tests[tests["p"] < self.settings.alpha]
        shifts = clear.sort_values("effect", ascending=False, kind="stable")
        shifts = tests.nlargest(1, "effect") if clear.empty else shifts
        worst = shifts.iloc[0]
        effect, p, offenders = float(worst["effect"]), float(worst["p"]), list(worst["first"])
        if offenders:
            differ = f"a classifier tells them apart, the most unlike are {enumerated(offenders, SHOWN)}"
        else:
            offenders = [f"{t.subject} ({t.measure} {t.effect:.2f})" for t in shifts.itertuples()]
            differ = f"{len(clear):,} of {len(tests):,} columns: {enumerated(offenders, SHOWN)}"
        distance = f"{worst['measure']} = {effect:.2f}, p = {p:.2g}"
        text = f"the new data are like the champion's ({distance})."
        if len(clear):
            remedy = "look at these; if the change is meant, raise gates.shift"
            text = f"{len(self.rows):,} new rows differ from the champion's ({distance}): {differ}; {remedy}."
        return Finding.judge(name, effect, self.settings.shift, text, offenders, p, not clear.empty)

    def _tests(self) -> Iterator[tuple[str, Shift]]:
        """The finding's name, and what is compared: columns and the target of all rows, media by features."""
        meta, types = self.reference.about["meta"], self.reference.about["types"]
        old, new, sides = self.reference.samples, self.table, self.sides
        for m in self.reference.features:
            if meta["kinds"].get(m) != "tabular":
                yield from ((f"shift/{m}", shift) for shift in self._media(m))
        tabular = [name for name in meta["columns"] if meta["kinds"].get(name) == "tabular"]
        for m, c in [(name, c) for name in tabular for c in meta["columns"][name]]:
            if types[c] == "numbers":
                a, b = (side[c].to_numpy(np.float64) for side in (old, new))
                yield f"shift/{m}", compare_numbers(c, a, b, sides)
            elif types[c] == "text":  # dates are later, and not tested
                both = pd.concat([old[c], new[c]]).astype(object).fillna("")
                codes = pd.factorize(both)[0].astype(np.int64)
                yield f"shift/{m}", compare_categories(c, codes[: len(old)], codes[len(old) :], sides)
        before, known = old["target"].to_numpy(np.float64), ~np.isnan(self.targets)
        sides, name = sides.take(new=known), meta["target"].get("name") or "target"
        if not self.classes:
            yield "shift/target", compare_numbers(name, before, self.targets, sides)
        elif known.any():
            codes = self.targets[known].astype(np.int64)
            yield "shift/target", compare_categories(name, before.astype(np.int64), codes, sides)

    def _media(self, m: str) -> Iterator[Shift]:
        """Tests of a modality by the encoder's features, of contents that the champion was not trained on.

        An encoder remembers its training data, so that new data are compared with rows of val and test. Rows
        of groups that were trained on, which it knows a little, may be like either: the lesser distance
        counts, from val and test, or from train."""
        old, key = self.reference, f"key/{m}"
        trained = old.trained[old.usable]
        before, current = old.contents[key].iloc[old.usable], self.keys[key]
        learnt = old.contents[key][old.trained]
        held_out = ~trained & ~(before.isin(learnt) | before.mask(trained).duplicated()).to_numpy(bool)
        train = trained & ~before.duplicated().to_numpy(bool)
        fresh = self.seen.good & ~(current.isin(learnt) | current.duplicated()).to_numpy(bool)
        known = np.zeros(len(fresh), bool)
        if self.sides.reference is not None and self.sides.new is not None:
            known = np.isin(self.sides.new, self.sides.reference[old.trained])
        for rows, alike in ((fresh & ~known, [held_out]), (fresh & known, [held_out, train])):
            if not rows.any():
                continue
            features = self.seen.features[m][rows]
            pairs = ((old.features[m][mask], self.sides.take(old.usable[mask], rows)) for mask in alike)
            shifts = [compare_features(m, values, features, groups) for values, groups in pairs]
            least = min(shifts, key=lambda shift: (not np.isnan(shift.p), shift.effect))
            order = np.flatnonzero(rows)[np.argsort(-least.scores, kind="stable")]
            yield least._replace(first=tuple(self.table["sample_id"].iloc[order]))

    def _label_noise(self) -> Finding:
        s, usable = self.settings, self.reference.usable
        usable = usable[~self.reference.trained[usable]]  # a model knows the labels of train by heart
        wrong = self.seen.contradicts(self.targets, s.confidence, self.reference.about["residual"])
        good = np.flatnonzero(self.seen.good & ~np.isnan(self.targets))
        before = self.reference.contents["contradicted"].to_numpy(float)[usable]
        value, p = compare_shares(before, wrong[good].astype(float), self.sides.take(usable, good))
        rows = self.seen.rows.assign(sample=self.table["sample_id"], label=self.targets)[wrong]
        if self.classes:
            rows = rows.sort_values("sure", ascending=False, kind="stable")
            label = [self.classes[int(k)] for k in rows["label"]]
            predicted = [self.classes[int(k)] for k in rows["predicted"]]
        else:
            label, predicted = ([f"{x:g}" for x in rows[c]] for c in ("label", "predicted"))
        triples = zip(rows["sample"], label, predicted, strict=True)
        offenders = [f"{sample} ({a}, predicted {b})" for sample, a, b in triples]
        how = f"{s.confidence:g} sure or more" if self.classes else "by an error beyond 99 % of those before"
        rate = f"{before.mean():.1%}" if len(before) else "unknown"
        text = f"the champion contradicts {len(rows):,} of {len(good):,} new labels ({how})"
        text += f", its share on data it was not trained on is {rate} (p = {p:.2g})"
        text += f": {enumerated(offenders, SHOWN)}" if offenders else ""
        text += "; check these labels, and whether the new data are of another kind."
        return Finding.judge("label_noise", max(0.0, value), s.label_noise, text, offenders, p, p < s.alpha)


# ------------------------------------------------------------------------------------------- tests of columns
def intraclass_correlation(values: Floats, groups: Codes) -> float:
    """The share in [0, 1] of the variance of `values` `[n, d]`, summed over d, that lies between groups: one
    way analysis of variance. 0 if there are fewer than two groups, or none has two rows."""
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
    total = above + (size - 1) * below
    return float(np.clip((above - below) / total, 0, 1)) if total > 0 else 0.0


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
    if sides.reference is not None:  # without groups only the number of rows counts
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
    x = StandardScaler().fit_transform(np.asarray(x, np.float64))
    x = x[:, x.any(axis=0)]
    if not x.shape[1]:
        return np.zeros((len(x), 1))
    count = min(COMPONENTS, x.shape[1], len(x) - 1)
    pca = PCA(count, svd_solver="full").fit(x)
    spread = np.sqrt(pca.explained_variance_)
    kept = spread > TINY * spread[0]  # smaller ones are rounding, which differs from batch to batch
    x = np.clip(pca.transform(x)[:, kept] / spread[kept], -CLIP, CLIP)
    return np.hstack([x, np.square(x)])


def _held_out(x: Floats, y: Codes, sides: Sides) -> tuple[list[float], Floats]:
    """The AUC of each fold with both sides, and each row's score by a model that was not trained on it."""
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
