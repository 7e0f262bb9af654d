"""95 % intervals of runs, and paired comparisons of methods over the same samples and seeds. Definitions,
assumptions and power: docs/evaluation.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.special import stdtrit

from .metrics import HEADLINE_METRICS, metric_spec
from .records import MULTI, TEACHER, Run, check_runs, modality_order, row_label
from .resampling import ENSEMBLE, Floats, Key, Resampled

LEVEL = 0.95
JOINT = "joint"  # the method that every other one is compared with
BETTER, WORSE, EQUAL = "better", "worse", "not told apart"
COMPARED: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "nll", "brier"),
    "regression": ("rmse", "r2", "mape", "mae"),
}
COMPARISON_COLUMNS = (
    "method", "against", "split", "part", "metric", "value", "reference", "difference", "low", "high", "p",
    "p_holm", "effect", "result", "runs", "wins", "samples", "units",
)  # fmt: skip
FAMILY = ["against", "split", "part", "metric"]  # shared by the comparisons of one Holm correction


def intervals(metrics: pd.DataFrame, resampled: Mapping[Key, Resampled]) -> pd.DataFrame:
    """`metrics` (see `collect_metrics`) with the columns `low` and `high`: the 95 % bootstrap interval of the
    run over test samples (or their groups). NaN for `map` and `ece`, and where there is one sample or group.

    See `percentiles`."""
    rows = [
        (*key, name, *percentiles(values, one.units))
        for key, one in resampled.items()
        for name, values in one.replicates.items()
    ]
    ends = pd.DataFrame(rows, columns=[*Key._fields, "metric", "low", "high"])
    keys = [column for column in (*Key._fields, "metric") if column in metrics]
    merged = metrics[keys].merge(ends.drop_duplicates(keys), on=keys, how="left", validate="m:1")
    return metrics.assign(low=merged["low"].to_numpy(), high=merged["high"].to_numpy())


def percentiles(values: Floats, units: int, level: float = LEVEL) -> tuple[float, float]:
    """The two-sided interval from a metric's values on resamples; NaN where there is none.

    Expanded percentiles (Hesterberg 2015): the quantiles of Student's t with units − 1 degrees of freedom
    instead of the normal ones, so that few groups are covered, too."""
    if units < 2 or np.isnan(values).mean() > 1 - level:
        return np.nan, np.nan
    tail = stats.norm.cdf(stdtrit(units - 1, (1 - level) / 2) * np.sqrt(units / (units - 1)))
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


class Spread(NamedTuple):
    """The parts of the variance of a mean difference over runs and samples, and their degrees of freedom.

    `between`: between runs, estimated from `runs_df` + 1 of them; `floor`: what samples alone contribute to
    it, which it can not be below; `common`: what the samples that runs share add, from `units_df` + 1."""

    between: float
    floor: float
    common: float
    runs_df: int
    units_df: int


def spread_of(
    values: Floats,
    replicates: Floats,
    draws: npt.NDArray[np.int64],
    units: Mapping[int, int],
    ratio: float = 0.0,
) -> Spread:
    """The `Spread` of the mean of `values` `[runs]`; `replicates` `[runs, R]`: the same, on shared
    resamples; `draws` `[runs]`: their splits of the data, `units`: draw → how many units were resampled.

    One split: runs differ by their seeds. Several (K folds, or one a seed): their means differ by training
    data, test samples and seeds at once, and their training data overlap, for which the variance is corrected
    by Nadeau and Bengio (2003), 1/K + `ratio` for 1/K: samples of test ÷ of train, 1/(K − 1) of K folds."""
    names = np.unique(draws)
    total = sum(units[int(f)] for f in names)
    scale = total / max(total - len(names), 1)  # the bootstrap's variance is that of n, not of n − 1
    shared = scale * sum(replicates[draws == f].mean(axis=0).var() for f in names) / len(names) ** 2
    if len(names) > 1:
        k = len(names)
        means = np.array([values[draws == f].mean() for f in names])
        overlap = ratio or 1 / (k - 1)
        return Spread(float(means.var(ddof=1)) * (1 / k + overlap), shared, 0.0, k - 1, total - k)
    n = len(values)
    if n == 1:
        return Spread(0.0, 0.0, shared, 1, total - 1)
    floor = max(scale * replicates.var(axis=1).mean() - shared, 0.0) / (n - 1)
    return Spread(float(values.var(ddof=1)) / n, floor, max(shared - floor, 0.0), n - 1, total - 1)


def half_width(spread: Spread | Any, p: Any) -> Any:
    """Half the confidence interval of level 1 − p: both parts with their own quantile of Student's t, added
    in squares (MOVER: Zou and Donner 2008). Arrays broadcast."""
    runs, samples = stdtrit(spread.runs_df, p / 2) ** 2, stdtrit(spread.units_df, p / 2) ** 2
    return np.sqrt(np.maximum(runs * spread.between, samples * spread.floor) + samples * spread.common)


def p_values(difference: Floats, spread: Any) -> Floats:
    """The p of which the interval just reaches 0 `[n]`, by bisection on its logarithm (1e-12 at least)."""
    low, high = np.full(len(difference), np.log(1e-12)), np.zeros(len(difference))
    for _ in range(50):
        middle = (low + high) / 2
        beyond = half_width(spread, np.exp(middle)) > np.abs(difference)  # then p is larger
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return np.where(difference == 0, 1.0, np.exp(high))


def holm(p: Floats) -> Floats:
    """Holm's adjusted p-values `[n]` of one family; NaN stay NaN and count for nothing. (scipy has none.)"""
    order, adjusted = np.argsort(p), np.full(len(p), np.nan)
    order = order[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def best_teacher(runs: Sequence[Run], resampled: Mapping[Key, Resampled]) -> str:
    """The modality of the teacher with the best mean main metric on *val*; "" where there is none."""
    metric = HEADLINE_METRICS[check_runs(runs)][0]
    values: dict[str, list[float]] = {m: [] for m in modality_order(runs)}
    for key, one in resampled.items():
        if key.method == TEACHER and key.split == "val":
            values[key.modality].append(metric_spec(metric).sign * one.values[metric])
    means = {m: np.mean(numbers) for m, numbers in values.items() if numbers}
    return max(means, key=means.__getitem__, default="")


def comparisons(runs: Sequence[Run], resampled: Mapping[Key, Resampled]) -> pd.DataFrame:
    """Each method against `"joint"`, the best single teacher (`"unimodal · <m>"`, see `best_teacher`) and the
    `"ensemble of teachers"`, where they are there; and of each modality, its part of the method (`part`)
    against its teacher. `resampled`: of the runs and of `ensemble_runs`.

    A row a method, opponent, split, part and metric, `COMPARISON_COLUMNS`: `value` and `reference`, the means
    of both over the `runs` (folds × seeds) that both have; `difference`, oriented: > 0 is better, and its
    95 % interval; `p`, and `p_holm` over all methods with the same question (`FAMILY`); `effect`, Cohen's d:
    the difference in standard deviations of one unit (sample or group); `result` at p_holm < 0.05; `wins`,
    the runs with a difference > 0; how many `samples` and `units`. One run, independent samples: the p of
    accuracy is McNemar's exact one; with one run everything is of these models, not of other seeds."""
    task, teacher = check_runs(runs), best_teacher(runs, resampled)
    by_part: dict[tuple[str, str, str, str], dict[tuple[int, int], Resampled]] = {}
    for key, one in resampled.items():
        part_key = (key.method, key.modality, key.split, key.part)
        by_part.setdefault(part_key, {})[key.fold, key.seed] = one
    rows: list[dict[str, Any]] = []
    for (method, _, split, part), ones in by_part.items():
        if method in (TEACHER, ENSEMBLE):
            continue
        opponents = [(TEACHER, part, part)]
        if part == MULTI:
            opponents = [(JOINT, "", MULTI)] * (method != JOINT)
            opponents += [(TEACHER, teacher, teacher), (ENSEMBLE, "", MULTI)]
        for opponent, modality, opponent_part in opponents:
            others = by_part.get((opponent, modality, split, opponent_part), {})
            if shared := sorted(ones.keys() & others.keys()):
                against = row_label(opponent, modality)
                labels = {"method": method, "against": against, "split": split, "part": part}
                pairs = [(ones[run], others[run]) for run in shared]
                rows += [labels | row for row in _rows(pairs, COMPARED[task])]
    return _tested(pd.DataFrame(rows))


def _rows(pairs: Sequence[tuple[Resampled, Resampled]], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The difference and its spread, a row per metric that both have."""
    ones = [one for one, _ in pairs]
    draws, units = np.array([one.draw for one in ones]), {one.draw: one.units for one in ones}
    for name in metrics:
        both = np.array([[x.values.get(name, np.nan) for x in pair] for pair in pairs])
        if not np.isfinite(both).all():
            continue
        (values, reference), sign = both.T, metric_spec(name).sign
        replicates = sign * np.stack([a.replicates[name] - b.replicates[name] for a, b in pairs])
        replicates = replicates[:, np.isfinite(replicates).all(axis=0)]
        difference = sign * (values - reference)
        spread = spread_of(difference, replicates, draws, units, float(np.mean([one.ratio for one in ones])))
        exact = _mcnemar(*pairs[0]) if len(pairs) == 1 and name == "accuracy" else np.nan
        yield {
            "metric": name,
            "value": values.mean(),
            "reference": reference.mean(),
            "difference": difference.mean(),
            **spread._asdict(),
            "exact": exact,
            "runs": len(pairs),
            "wins": int((difference > 0).sum()),
            "samples": sum({one.draw: one.samples for one in ones}.values()),
            "units": sum(units.values()),
        }


def _mcnemar(one: Resampled, other: Resampled) -> float:
    """McNemar's exact p of two classifiers on independent samples; NaN where these are in groups."""
    if one.units < one.samples:
        return np.nan
    won, lost = int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _tested(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return pd.DataFrame(columns=list(COMPARISON_COLUMNS))
    known = frame["units_df"].to_numpy() > 0
    spread = frame.assign(units_df=frame["units_df"].clip(lower=1))
    difference = frame["difference"].to_numpy(float)
    half = np.where(known, half_width(spread, 1 - LEVEL), np.nan)
    # No test of n units that may each be for either side has a smaller p than that of all on one side.
    p = np.maximum(p_values(difference, spread), 2.0 ** (1.0 - frame["units"].to_numpy(float)))
    p = np.where(known, frame["exact"].fillna(pd.Series(p, frame.index)).to_numpy(float), np.nan)
    frame = frame.assign(low=difference - half, high=difference + half, p=p)
    frame["p_holm"] = frame.groupby(FAMILY, sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    variance = (spread["floor"] + spread["common"]) * frame["units"]
    frame["effect"] = np.where(variance > 0, difference / np.sqrt(variance.where(variance > 0)), np.nan)
    clear = frame["p_holm"] < 1 - LEVEL
    frame["result"] = np.where(clear, np.where(difference > 0, BETTER, WORSE), EQUAL)
    return frame[list(COMPARISON_COLUMNS)].reset_index(drop=True)
