"""What has to be known beside the numbers, in a sentence each: of undefined metrics and odd trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from .metrics import NEAR_ZERO, metric_spec
from .records import Run, ordered_runs, row_label
from .warnings import selection_warnings

UNDEFINED = {
    "mape": f"a target is 0, or nearer to it than {NEAR_ZERO:.0%} of the targets' standard deviation",
    "r2": "the targets are constant, or of one sample",
}


def result_notes(runs: Sequence[Run], metrics: pd.DataFrame, counts: Mapping[str, int]) -> list[str]:
    """Sentences on `runs` and their `metrics` (see `collect_metrics`); `counts`: split → samples."""
    return [
        *selection_warnings(runs),
        *_one_step(runs, int(counts.get("train", 0))),
        *_undefined(metrics),
        *_bounded(runs),
    ]


def _one_step(runs: Sequence[Run], train: int) -> Iterator[str]:
    labels = {row_label(run.method, run.modality): run.info.get("training", {}) for run in ordered_runs(runs)}
    sizes = {
        label: size * training.get("accumulation", 1)
        for label, training in labels.items()
        if isinstance(size := training.get("batch_size", 0), int)
    }
    for step in sorted({size for size in sizes.values() if 0 < train <= size}):
        own = [label for label, size in sizes.items() if size == step]
        who = "all runs" if len(own) == len(labels) else ", ".join(own)
        yield (
            f"One step an epoch: a step of {step} samples holds all {train} of train ({who}). A smaller "
            "batch_size takes more steps."
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
