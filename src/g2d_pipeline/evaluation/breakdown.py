"""The numbers behind the numbers: by class, by pair of classes (confusion matrix), and by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from .metrics import negative_log, run_parts
from .records import MULTI, Run, modality_order, ordered_runs


def _parts(runs: Sequence[Run]) -> Iterator[tuple[Run, dict[str, Any], pd.DataFrame]]:
    """(run, what names its part, the part's predictions), in the order of all tables."""
    parts = [MULTI, *modality_order(runs)]
    for run in ordered_runs(runs):
        identity = {"method": run.method, "modality": run.modality, **run.repeated}
        for split, part, frame in run_parts(run, parts):
            yield run, identity | {"split": split, "part": part}, frame


def per_class(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run, split, part and class of target or prediction: `class` (its index), how many
    `samples`, how often `predicted`, `precision`, `recall` and `f1` (0 where undefined). Empty for a
    regression."""
    frames = []
    for run, labels, frame in _parts(runs):
        if run.info["task"] == "classification":
            true, predicted = frame["target"].to_numpy(int), frame["prediction"].to_numpy(int)
            classes, both = np.unique(np.concatenate([true, predicted]), return_counts=True)
            *scores, samples = sk.precision_recall_fscore_support(
                true, predicted, labels=classes, zero_division=0
            )
            own = {"class": classes, "samples": samples, "predicted": both - samples}
            frames.append(
                pd.DataFrame(labels | own | dict(zip(("precision", "recall", "f1"), scores, strict=True)))
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def confusion(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run, split, part, true class `target` and predicted class `prediction`: how many `samples`;
    pairs without one are left out. Empty for a regression."""
    frames = [
        frame.groupby(["target", "prediction"]).size().rename("samples").reset_index().assign(**labels)
        for run, labels, frame in _parts(runs)
        if run.info["task"] == "classification"
    ]
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True)
    return table[[*table.columns[3:], "target", "prediction", "samples"]]


def per_group(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run, split, part, `group` and `metric` that is a mean over samples (accuracy and NLL; RMSE, MAE
    and bias): its `value`, and of how many `samples`. Empty where samples have no groups."""
    frames = []
    for run, labels, frame in _parts(runs):
        if "group" not in run.samples:
            continue
        group = run.samples.set_index("sample_id")["group"].reindex(frame["sample_id"]).to_numpy()
        error = frame["prediction"].to_numpy(float) - frame["target"].to_numpy(float)
        if run.info["task"] == "classification":
            columns = {"accuracy": error == 0, "nll": negative_log(frame["confidence"].to_numpy(float))}
        else:
            columns = {"rmse": error**2, "mae": np.abs(error), "bias": error}
        groups = pd.DataFrame(columns).groupby(group)
        table = groups.mean().rename_axis("group").assign(samples=groups.size())
        if "rmse" in table:
            table["rmse"] **= 0.5
        own = table.reset_index().melt(["group", "samples"], var_name="metric")
        frames.append(pd.DataFrame(labels, own.index).join(own))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def over_runs(frame: pd.DataFrame, split: str = "test") -> list[dict[str, Any]]:
    """`per_class` or `per_group` on one split, the mean over folds and seeds, as records."""
    if frame.empty:
        return []
    own = frame[frame["split"] == split]
    keys = ["method", "modality", "part", *(c for c in ("class", "group", "metric") if c in own)]
    values = [c for c in own.columns if c not in {*keys, "fold", "seed", "split"}]
    records: list[Any] = own.groupby(keys, sort=False)[values].mean().reset_index().to_dict(orient="records")
    return records
