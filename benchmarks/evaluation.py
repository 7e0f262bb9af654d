"""What the numbers of an evaluation cost, and how often its paired test is wrong and right.

Cost: CPU seconds and peak memory of the numbers of 30 runs (2 teachers and 8 methods, 3 seeds) × 3 parts ×
5,000 test samples of 10 classes; and of scipy.stats.bootstrap on one metric of one of the 156 parts.
Test: the share of 2,000 simulated comparisons with p < 0.05, where methods are equal (false alarms) and where
they are not (power), of ours and of a percentile bootstrap over seeds and samples."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from scipy import stats

from g2d_pipeline.evaluation import (
    breakdown,
    collect_metrics,
    comparisons,
    ensemble_runs,
    intervals,
    resample,
)
from g2d_pipeline.evaluation.resampling import RESAMPLES
from g2d_pipeline.evaluation.statistics import Spread, p_values, spread_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.evaluation.conftest import fabricate

METHODS = ("joint", "g2d", "ogm", "agm", "umt", "mla", "pmr", "cml")
DRAWS, RESAMPLED = 2000, 200


def cost() -> dict[str, Any]:
    study = fabricate(methods=METHODS, seeds=(0, 1, 2), samples=5000, classes=10)
    samples = study.runs[0].samples.drop(columns="group")  # 5,000 units, the most there can be
    runs = [replace(run, samples=samples) for run in study.runs]
    seconds = {}

    def timed(name: str, call: Any) -> Any:
        start = time.process_time()
        result = call()
        seconds[name] = round(time.process_time() - start, 2)
        return result

    metrics = timed("metrics", lambda: collect_metrics(runs, "d", "raw"))
    resampled = timed("bootstrap", lambda: resample([*runs, *ensemble_runs(runs)]))
    timed("intervals", lambda: intervals(metrics, resampled))
    timed("comparisons", lambda: comparisons(runs, resampled))
    timed("by class and group", lambda: breakdown(runs))
    right = runs[0].predictions.query("split == 'test'").eval("prediction == target").to_numpy(float)
    timed(
        "scipy.stats.bootstrap, one metric of one part",
        lambda: stats.bootstrap((right,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"case": "cost", "runs": len(runs), "seconds": seconds, "peak_gib": round(peak, 2)}


def rejected(runs: int, n: int, seeds: float, gain: float) -> dict[str, Any]:
    """Shares of p < 0.05; see tests/evaluation/test_statistics.py, which holds ours to 5 %."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(n, 1 / n), RESAMPLED).T / n
    ours, points, inside = [], [], []
    for _ in range(DRAWS):
        odds = rng.normal(1.3, 1.5, n) + rng.normal(0, 0.5, (2, 1, n)) + rng.normal(0, seeds, (2, runs, 1))
        odds[0] += gain
        difference = np.subtract(*(rng.random((2, runs, n)) < 1 / (1 + np.exp(-odds))).astype(float))
        replicates = difference @ counts
        ours.append(spread_of(difference.mean(axis=1), replicates, np.zeros(runs, int), {0: n}))
        drawn = replicates[rng.integers(0, runs, (runs, RESAMPLED)), np.arange(RESAMPLED)].mean(axis=0)
        low, high = np.quantile(drawn, [0.025, 0.975])
        inside.append(low <= 0 <= high)
        points.append(difference.mean())
    p = p_values(np.array(points), Spread(*np.array(ours).T))
    return {
        "case": "power" if gain else "false alarms",
        "seeds": runs,
        "samples": n,
        "std_of_seeds": seeds,
        "points": round(100 * float(np.mean(points)), 1) if gain else 0,
        "ours": round(100 * float((p < 0.05).mean()), 1),
        "percentile_bootstrap": round(100 * (1 - float(np.mean(inside))), 1),
    }


def main() -> None:
    rows = [cost()]
    print(rows[0])
    for gain, spread in ((0.0, (0.0, 0.2, 0.8)), (0.4, (0.1,)), (0.8, (0.1,))):
        for n in (200, 1000):
            for runs in (2, 3, 5):
                for seeds in spread:
                    rows.append(rejected(runs, n, seeds, gain))
                    print(rows[-1], flush=True)
    write_result("evaluation", rows, draws=DRAWS)


if __name__ == "__main__":
    main()
