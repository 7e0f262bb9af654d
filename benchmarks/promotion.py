"""How often the promotion rule errs, on simulated pairs of models: the bounds of `registry/promotion.py` on
sums a sample or group, without the tables around them.

    python benchmarks/promotion.py [pairs, 4000]

Champion and challenger are right 80 % of the time (groups: differently in each group, for each model) and
agree by construction on half of the samples; of regressions they share half of the error's variance,
Student's t with 5 degrees of freedom. `equal`: promoted although as good. `better`: promoted where the
challenger is right 5 points more often (has 0.8 of the champion's own error). `chance`: a guard of 0.05
refuses one of two modalities that are as good as before; `collapse`: it refuses one that is right 20 points
less often (has twice the error of its own). Prints a table in Markdown (docs/retrain.md)."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from g2d_pipeline.evaluation.resampling import Floats, _counts
from g2d_pipeline.evaluation.statistics import half_width, percentiles, spread_of

CONFIDENCE, GUARD = 0.95, 0.05
BETTER, WORSE = 0.05, -0.2
Pair = tuple[Floats, Floats, Floats]  # sums by unit of champion and challenger, and samples by unit


def classification(rng: np.random.Generator, n: int, groups: int, gain: float) -> Pair:
    of_group = np.arange(n) % groups if groups else np.arange(n)
    both, common = rng.random(n) < 0.5, rng.random(n)
    sums = []
    for more in (0.0, gain):
        lean = rng.normal(0, 0.1, groups)[of_group] if groups else 0.0
        right = np.where(both, common, rng.random(n)) < 0.8 + more + lean
        sums.append(np.bincount(of_group, right))
    return sums[0], sums[1], np.bincount(of_group).astype(float)


def regression(rng: np.random.Generator, n: int, groups: int, gain: float) -> Pair:
    common = rng.standard_t(5, n)
    old, new = (
        (common + factor * rng.standard_t(5, n)) ** 2
        for factor in (1.0, {0.0: 1.0, BETTER: 0.8, WORSE: 2.0}[gain])
    )
    return old, new, np.ones(n)


def rate(pairs: int, make: Callable[..., Pair], n: int, groups: int, gain: float) -> tuple[float, float]:
    """The share that is promoted, and the share that the guard refuses (RMSE: in standard deviations of a
    target three times as wide as an error)."""
    rng, promoted, fell = np.random.default_rng(0), 0, 0
    units = groups or n
    counts = np.concatenate(list(_counts(units)), axis=1)
    score: Callable[[Floats], Floats] = np.asarray if make is classification else lambda x: -np.sqrt(x)
    scale = 1.0 if make is classification else 3 * np.sqrt(2 * 5 / 3)
    for _ in range(pairs):
        old, new, samples = make(rng, n, groups, gain)
        own, theirs = (score(sums @ counts / (samples @ counts)) for sums in (new, old))
        difference, replicates = (own - theirs)[0], (own - theirs)[1:]
        spread = spread_of(np.array([difference]), replicates[None], np.zeros(1, int), {0: units})
        half = half_width(spread, 2 * (1 - CONFIDENCE))
        low, high = percentiles(replicates, units, 2 * CONFIDENCE - 1)
        promoted += min(low, difference - half) > 0
        fell += difference < -GUARD * scale and max(high, difference + half) < 0
    return promoted / pairs, fell / pairs


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print("| evaluation set | equal | better | chance | collapse |\n| --- | ---: | ---: | ---: | ---: |")
    for make, n, groups in (
        (classification, 20, 0), (classification, 100, 0), (classification, 300, 0),
        (classification, 1000, 0), (classification, 300, 6), (classification, 300, 30),
        (regression, 20, 0), (regression, 100, 0), (regression, 300, 0),
    ):  # fmt: skip
        equal, fell = rate(pairs, make, n, groups, 0.0)
        better, _ = rate(pairs, make, n, groups, BETTER)
        _, collapse = rate(pairs, make, n, groups, WORSE)
        where = f"{make.__name__}, {n} samples" + (f" in {groups} groups" if groups else "")
        cells = (equal, better, 1 - (1 - fell) ** 2, collapse)
        print(f"| {where} | {' | '.join(f'{x:.1%}' for x in cells)} |", flush=True)


if __name__ == "__main__":
    main()
