"""Metrics by class, by pair of classes (confusion matrix), and by group."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from .metrics import negative_log, run_parts
from .records import MULTI, Run, modality_order, ordered_runs, select


class Breakdown(NamedTuple):
    """Of every run, split and part, a row …

    `per_class`: a class of target or prediction: `class` (its index), how many `samples`, `precision`,
    `recall` and `f1` (0 where undefined). `confusion`: a true class `target` and a predicted `prediction`:
    how many `samples`, at least one. Both are empty for a regression. `per_group`: a `group` and a `metric`
    that is a mean over samples (accuracy and NLL; RMSE, MAE and bias): its `value`, of how many `samples`;
    empty where samples have no groups."""

    per_class: pd.DataFrame
    confusion: pd.DataFrame
    per_group: pd.DataFrame


def breakdown(runs: Sequence[Run]) -> Breakdown:
    """The numbers of `runs` (one or more, of one task) by class, pair of classes and group."""
    parts = [MULTI, *modality_order(runs)]
    labels: list[dict[str, Any]] = []
    frames = []
    for run in ordered_runs(runs):
        identity = {"method": run.method, "modality": run.modality, **run.repeated}
        for split, part, frame in run_parts(run, parts):
            columns = frame[["sample_id", "target", "prediction", "confidence"]].assign(piece=len(labels))
            if "group" in run.samples:
                columns["group"] = frame["sample_id"].map(run.samples.set_index("sample_id")["group"])
            labels.append(identity | {"split": split, "part": part})
            frames.append(columns)
    stacked, names = pd.concat(frames, ignore_index=True), pd.DataFrame(labels)
    classes = runs[0].info["task"] == "classification"

    def named(table: pd.DataFrame) -> pd.DataFrame:
        return names.loc[table["piece"]].reset_index(drop=True).join(table.drop(columns="piece"))

    per_class = confusion = per_group = pd.DataFrame()
    if classes:
        counts = stacked.groupby(["piece", "target", "prediction"]).size()
        per_class, confusion = named(_per_class(stacked)), named(counts.reset_index(name="samples"))
    if "group" in stacked:
        per_group = named(_per_group(stacked, classes))
    return Breakdown(per_class, confusion, per_group)


def _per_class(stacked: pd.DataFrame) -> pd.DataFrame:
    frames = []
    for piece, rows in stacked.groupby("piece"):
        true, predicted = rows["target"].to_numpy(int), rows["prediction"].to_numpy(int)
        classes = sorted({*true, *predicted})
        scores = sk.precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
        columns = zip(("precision", "recall", "f1", "samples"), scores, strict=True)
        frames.append(pd.DataFrame({"piece": piece, "class": classes, **dict(columns)}))
    return pd.concat(frames, ignore_index=True)


def _per_group(stacked: pd.DataFrame, classes: bool) -> pd.DataFrame:
    error = (stacked["prediction"] - stacked["target"]).to_numpy(float)
    if classes:
        columns = {"accuracy": error == 0, "nll": negative_log(stacked["confidence"].to_numpy(float))}
    else:
        columns = {"rmse": error**2, "mae": np.abs(error), "bias": error}
    groups = stacked[["piece", "group"]].join(pd.DataFrame(columns)).groupby(["piece", "group"])
    table = groups.mean().assign(samples=groups.size())
    if "rmse" in table:
        table["rmse"] **= 0.5
    return table.reset_index().melt(["piece", "group", "samples"], var_name="metric")


def over_runs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """`per_class` or `per_group` on test, the mean over folds and seeds, as records."""
    if frame.empty:
        return []
    keys = ["method", "modality", "part", *(c for c in ("class", "group", "metric") if c in frame)]
    values = [c for c in frame if c not in {*keys, "fold", "seed", "split"}]
    means = select(frame, split="test").groupby(keys, sort=False)[values].mean()
    records: list[Any] = means.reset_index().to_dict(orient="records")
    return records
