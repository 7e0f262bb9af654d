"""What has to be known beside the numbers, in a sentence each: of undefined metrics and odd trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from .metrics import NEAR_ZERO, metric_spec
from .records import Run, ordered_runs, row_label

UNDEFINED = {
    "mape": f"a target is 0, or nearer to it than {NEAR_ZERO:.0%} of the targets' standard deviation",
    "r2": "the targets are constant, or of one sample",
}


def result_notes(runs: Sequence[Run], metrics: pd.DataFrame, counts: Mapping[str, int]) -> list[str]:
    """Sentences on `runs` and their `metrics` (see `collect_metrics`); `counts`: split → samples."""
    return [*_one_step(runs, int(counts.get("train", 0))), *_undefined(metrics), *_bounded(runs)]


def _one_step(runs: Sequence[Run], train: int) -> Iterator[str]:
    names: dict[int, dict[str, None]] = {}  # samples of a step → runs, in their order
    for run in ordered_runs(runs):
        training = run.info.get("training", {})
        size = training.get("batch_size", 0)
        step = size * training.get("accumulation", 1) if isinstance(size, int) else 0
        if 0 < train <= step:
            names.setdefault(step, {})[row_label(run.method, run.modality)] = None
    for step, who in names.items():
        yield (
            f"One step an epoch: a step of {step} samples holds all {train} of train ({', '.join(who)}). "
            "A smaller batch_size takes more steps."
        )


def _undefined(metrics: pd.DataFrame) -> Iterator[str]:
    unknown = metrics[(metrics["split"] == "test") & metrics["value"].isna()]
    for name in dict.fromkeys(unknown["metric"]):
        why = UNDEFINED.get(name)
        yield f"{metric_spec(name).label} is undefined on test{f': {why}' if why else ''}."


def _bounded(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        task = run.info.get("architecture", {}).get("task", {})
        if task.get("output") != "sigmoid":
            continue
        low, high = task["offset"], task["offset"] + task["scale"]
        own = run.predictions[run.predictions["split"] == "test"].drop_duplicates("sample_id")["target"]
        beyond = int(np.count_nonzero((own < low) | (own > high)))
        if beyond:
            yield (
                f"output = sigmoid keeps predictions within the train targets, {low:.4g} to {high:.4g}: "
                f"{beyond} of {len(own)} test targets lie outside. output = identity has no bounds."
            )
        return
