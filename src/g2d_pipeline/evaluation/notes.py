"""Remarks on the numbers, a sentence each: for console, report and metrics.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .metrics import NEAR_ZERO, metric_spec
from .records import MULTI, Run, ordered_runs, row_label, select
from .tables import format_value

TIES, TIED_SHARE = 3, 0.1  # epochs, and share of those selected from, that are at the best value
ERRORS, POINTS, RATIO = 4.0, 0.05, 1.25  # standard errors; difference of accuracies; ratio of RMSEs
NAMED = 4  # runs that a sentence names
UNDEFINED = {
    "mape": f"a target is 0, or nearer to it than {NEAR_ZERO:.0%} of the targets' standard deviation",
    "r2": "the targets are constant, or of one sample",
}


def result_notes(runs: Sequence[Run], metrics: pd.DataFrame, counts: Mapping[str, int]) -> list[str]:
    """Sentences on `runs` and their `metrics` (see `collect_metrics`); `counts`: split → samples."""
    runs = ordered_runs(runs)
    return [
        *selection_notes(runs),
        *_one_step(runs, int(counts.get("train", 0))),
        *_undefined(metrics),
        *_bounded(runs),
    ]


class Gap(NamedTuple):
    """A run's metric on val and on test, and their difference in standard errors."""

    val: float
    test: float
    errors: float


def tied_epochs(run: Run) -> tuple[int, int, float]:
    """Of the epochs that were selected from: how many are at the best value, their number, and the value.

    (0, 0, NaN) where no metric selects."""
    split, metric = str(run.info.get("selection", "val")), str(run.info.get("selection_metric", ""))
    column = f"{split}/{'loss' if metric == 'loss' else run.modality or MULTI}"
    if split == "last" or column not in run.history:
        return 0, 0, math.nan
    first, last = run.info.get("selection_epochs", (1, math.inf))
    values = run.history.loc[run.history["epoch"].between(first, last), column]
    higher = metric != "loss" and metric_spec(str(run.info["metric"])).higher_is_better
    best = float(values.max() if higher else values.min())
    return int((values == best).sum()), len(values), best


def split_gap(run: Run) -> Gap:
    """Accuracy or RMSE on val and test. The standard error is that of the difference between two means over
    samples of one population, of right (1) and wrong (0) or of squared errors."""
    frame = run.predictions[run.predictions["part"] == (run.modality or MULTI)]
    error = frame["prediction"] - frame["target"]
    classes = run.info["task"] == "classification"
    scores = (error == 0).astype(float) if classes else error.astype(float) ** 2
    val, test = (scores[frame["split"] == split].to_numpy() for split in ("val", "test"))
    if not len(val) or not len(test):
        return Gap(math.nan, math.nan, 0.0)
    standard_error = float(np.concatenate([val, test]).std()) * math.sqrt(1 / len(val) + 1 / len(test))
    errors = abs(val.mean() - test.mean()) / standard_error if standard_error > 0 else 0.0
    val_mean, test_mean = (x.mean() if classes else math.sqrt(x.mean()) for x in (val, test))
    return Gap(float(val_mean), float(test_mean), errors)


def differs(gap: Gap, task: str) -> bool:
    """Whether val and test differ by more than chance and the choice of the best epoch on val explain (two
    standard errors each: `ERRORS`), and enough to matter: by `POINTS` of accuracy, a `RATIO` of RMSEs."""
    low, high = sorted((gap.val, gap.test))
    large = high - low > POINTS if task == "classification" else high > RATIO * low
    return large and gap.errors > ERRORS


def selection_notes(runs: Sequence[Run]) -> Iterator[str]:
    """At most one sentence of each kind: ties, an epoch before the last phase."""
    tied: dict[str, str] = {}
    unfinished: dict[str, str] = {}
    for run in runs:
        metric = str(run.info["metric"])
        count, total, best = tied_epochs(run)
        if count >= max(TIES, TIED_SHARE * total):
            by = run.info.get("selection_metric", metric)
            tied[run.label] = f"{count} of {total} at {metric_spec(by).label} {format_value(by, best)}"
        phase, last = run.info.get("selected_phase", (1, 1))
        if phase < last:
            unfinished[run.label] = f"epoch {run.info['selected_epoch']}, phase {phase} of {last}"
    if tied:
        yield (
            f"Epochs tie for the best score, and the lowest loss decided: {_named(tied)}. The split hardly "
            "tells them apart: use a larger one, or selection_metric=loss."
        )
    if unfinished:
        yield (
            f"Selected before the last phase, not trained to the end: {_named(unfinished)}. "
            "Say select_in=last_phase."
        )


def val_unlike_test(runs: Sequence[Run]) -> Iterator[str]:
    """At most one sentence, for the verdict: the runs whose metric differs between val and test."""
    apart: dict[str, str] = {}
    for run in runs:
        gap, metric = split_gap(run), str(run.info["metric"])
        if differs(gap, str(run.info["task"])):
            apart[run.label] = " and ".join(format_value(metric, value) for value in (gap.val, gap.test))
    if apart:
        yield (
            f"{metric_spec(str(runs[0].info['metric'])).title()} on val and on test, more than {ERRORS:g} "
            f"standard errors apart: {_named(apart)}. Samples of val are not like those of test: look for "
            "groups or duplicates across train and val (data report)."
        )


def _named(runs: Mapping[str, str]) -> str:
    """`"g2d, seed 0 (12 of 20 at …); …"`, and how many are not named."""
    names = [f"{name} ({text})" for name, text in list(runs.items())[:NAMED]]
    more = len(runs) - len(names)
    return "; ".join(names) + (f"; and {more} more" if more else "")


def _one_step(runs: Sequence[Run], train: int) -> Iterator[str]:
    labels = {row_label(run.method, run.modality): run.info.get("training", {}) for run in runs}
    sizes = {
        label: training["batch_size"] * training.get("accumulation", 1)
        for label, training in labels.items()
        if isinstance(training.get("batch_size"), int)
    }
    for step in sorted({size for size in sizes.values() if 0 < train <= size}):
        names = [label for label, size in sizes.items() if size == step]
        yield (
            f"One step an epoch: a step of {step} samples holds all {train} of train "
            f"({'all runs' if len(names) == len(labels) else ', '.join(names)}). A smaller batch_size takes "
            "more steps."
        )


def _undefined(metrics: pd.DataFrame) -> Iterator[str]:
    test = select(metrics, split="test")
    for name in test.loc[test["value"].isna(), "metric"].unique():
        why = f": {UNDEFINED[name]}" if name in UNDEFINED else ""
        yield f"{metric_spec(name).label} is undefined on test{why}."


def _bounded(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        task = run.info.get("architecture", {}).get("task", {})
        if task.get("output") != "sigmoid":
            continue
        low, high = task["offset"], task["offset"] + task["scale"]
        target = select(run.predictions, split="test").drop_duplicates("sample_id")["target"]
        if beyond := int((~target.between(low, high)).sum()):
            yield (
                f"output = sigmoid keeps predictions within the train targets, {low:.4g} to {high:.4g}: "
                f"{beyond} of {len(target)} test targets lie outside. output = identity has no bounds."
            )
        return
