"""The metrics of predictions, and how each is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import softmax
from sklearn import config_context
from sklearn import metrics as sk

from .records import MULTI, Run, check_runs, modality_order, ordered_runs, select

METRIC_COLUMNS = (
    "dataset", "source", "method", "modality", "seed", "split", "part", "metric", "value", "selection",
    "selected_epoch",
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """How a metric is written: the stored value times `scale`, with `digits` after the decimal point (None:
    three significant digits of the column's median), and `unit`; "target" stands for the target's unit."""

    label: str
    higher_is_better: bool
    scale: float = 1.0
    digits: int | None = None
    unit: str = ""

    def title(self, target_unit: str = "") -> str:
        """The label with its unit: `"Accuracy (%)"`, `"RMSE (m³/m³)"`, `"R²"`."""
        unit = target_unit if self.unit == "target" else self.unit
        return f"{self.label} ({unit})" if unit else self.label

    def difference_unit(self, target_unit: str = "") -> str:
        """The unit of a difference of two values: `"points"` of percentages."""
        return {"%": "points", "target": target_unit}.get(self.unit, self.unit)

    @property
    def sign(self) -> int:
        """1 where higher is better, else −1."""
        return 1 if self.higher_is_better else -1


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", True, 100.0, 1, "%"),
    "balanced_accuracy": Metric("Balanced accuracy", True, 100.0, 1, "%"),
    "f1_macro": Metric("Macro F1", True, 100.0, 1, "%"),
    "map": Metric("mAP", True, 100.0, 1, "%"),
    "nll": Metric("Negative log-likelihood", False, 1.0, 3, "nats"),
    "brier": Metric("Brier score", False, 1.0, 3),
    "ece": Metric("ECE", False, 100.0, 1, "%"),
    "mape": Metric("MAPE", False, 1.0, 2, "%"),
    "r2": Metric("R²", True, 1.0, 3),
    "rmse": Metric("RMSE", False, 1.0, None, "target"),
    "mae": Metric("MAE", False, 1.0, None, "target"),
    "bias": Metric("Mean bias", False, 1.0, None, "target"),
}
"""Stored: accuracies, F1, mAP and ECE as fractions, MAPE in percent, RMSE, MAE and bias in the target's unit,
NLL in nats. Of biases the one nearest to 0 is best."""

TASK_METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "map", "nll", "brier", "ece"),
    "regression": ("rmse", "r2", "mape", "mae", "bias"),
}
HEADLINE_METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro"),
    "regression": ("rmse", "r2", "mape"),
}
"""The metrics of the main table; the first one is drawn in the bars. MAPE only where it is defined."""
BINS = 15  # of equal width, of the confidence in the predicted class, for the ECE
NEAR_ZERO = 0.01  # standard deviations of the targets: a target nearer to 0 makes percentages explode


def metric_spec(name: str) -> Metric:
    """How metric `name` is written; an unknown one is written as it is."""
    return METRICS.get(name, Metric(name, True, 1.0, None))


def task_of(metrics: pd.DataFrame) -> str:
    """`"regression"` or `"classification"`, by the names in the `metric` column."""
    names = set(metrics["metric"])
    return next((task for task, known in TASK_METRICS.items() if names & set(known)), "classification")


def evaluate_predictions(
    frame: pd.DataFrame, task: str, probabilities: npt.NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Metrics of one part on one split.

    `frame`, a row per sample: `target` and `prediction` (class indices, or floats in the target's unit), and
    for classification `confidence`, the probability of the true class. `probabilities` `[N, C]`: of the
    classes, in the frame's order.

    Classification: `accuracy`, `balanced_accuracy` (mean recall of the classes that occur in the target) and
    `f1_macro` (over the classes that occur in target or prediction) as fractions, `nll` = mean of
    −ln(confidence) in nats, a zero confidence counted as the smallest positive float; and of the
    probabilities, where there are any: `map`, the mean of the classes' one-vs-rest average precision (of
    those that occur), `brier`, the mean squared distance to the one-hot target (0 to 2), and `ece` over
    `BINS` bins. Regression: `rmse`, `mae` and `bias` (mean of prediction − target) in the target's unit, `r2`
    (NaN where the targets do not vary), and `mape` in percent (NaN where a target lies within 1 % of the
    targets' standard deviation of 0: the percentage has no meaning).

    Raises ValueError for an unknown task, an empty frame, a missing column, a NaN or infinite value, a class
    that is not a whole number, or a confidence outside [0, 1]."""
    if task not in TASK_METRICS:
        raise ValueError(f"task {task!r}: expected one of {', '.join(TASK_METRICS)}")
    if frame.empty:
        raise ValueError("there are no predictions to evaluate: the frame is empty")
    columns = ["target", "prediction", *(["confidence"] if task == "classification" else [])]
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(f"predictions lack the column {', '.join(missing)}")
    target, prediction, *confidence = (_finite(frame[name]) for name in columns)
    if task == "regression":
        return _regression(target, prediction)
    return _classification(target, prediction, confidence[0], probabilities)


def _finite(column: pd.Series) -> np.ndarray:
    """The column as floats `[N]`; raises ValueError where one is not a finite number."""
    values = column.to_numpy(dtype=float, na_value=np.nan)
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"predictions: {bad} of {len(values)} values in {column.name!r} are NaN or infinite")
    return values


def _classification(
    target: np.ndarray, prediction: np.ndarray, confidence: np.ndarray, probabilities: np.ndarray | None
) -> dict[str, float]:
    for name, values in (("target", target), ("prediction", prediction)):
        if (values != np.round(values)).any():
            raise ValueError(f"predictions: {name!r} must hold class indices (whole numbers)")
    if ((confidence < 0) | (confidence > 1 + 1e-6)).any():
        raise ValueError("predictions: 'confidence' must lie in [0, 1]")
    true, predicted = target.astype(int), prediction.astype(int)
    _, recall, f1, count = sk.precision_recall_fscore_support(true, predicted, zero_division=0)
    scores = {
        "accuracy": float(sk.accuracy_score(true, predicted)),
        "balanced_accuracy": float(recall[count > 0].mean()),
        "f1_macro": float(f1.mean()),
        "nll": float(negative_log(confidence).mean()),
    }
    return scores if probabilities is None else scores | _of_probabilities(true, probabilities)


def negative_log(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """−ln(confidence), a zero counted as the smallest positive float."""
    values: npt.NDArray[np.float64] = -np.log(np.clip(confidence, np.finfo(float).tiny, 1.0))
    return values


def _of_probabilities(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """scikit-learn's mAP and Brier score. It has no ECE, nor has another locked library: two histograms."""
    classes, present = range(probabilities.shape[1]), np.unique(true)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        precision = sk.average_precision_score(true[:, None] == present, probabilities[:, present])
    brier = 0.0
    if len(classes) > 1:
        brier = sk.brier_score_loss(true, probabilities, labels=classes, scale_by_half=False)
    top = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == true) - top
    gaps, _ = np.histogram(top, np.linspace(0, 1, BINS + 1), weights=gap)
    return {"map": float(precision), "brier": float(brier), "ece": float(np.abs(gaps).sum() / len(true))}


def _regression(target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    apart = bool((np.abs(target) > NEAR_ZERO * target.std()).all())
    percentage = sk.mean_absolute_percentage_error(target, prediction) if apart else np.nan
    return {
        "rmse": float(np.sqrt(sk.mean_squared_error(target, prediction))),
        "r2": float(sk.r2_score(target, prediction)) if np.ptp(target) > 0 else float("nan"),
        "mape": 100.0 * float(percentage),
        "mae": float(sk.mean_absolute_error(target, prediction)),
        "bias": float((prediction - target).mean()),
    }


def class_probabilities(
    run: Run, split: str, part: str, predictions: pd.DataFrame
) -> npt.NDArray[np.float64] | None:
    """softmax of the stored logits `[n, C]` of the samples of `predictions`, those of a split in its order;
    None for a regression, or where none are stored. Raises ValueError where they are of other samples."""
    if str(run.info["task"]) != "classification" or f"logits/{part}" not in run.outputs:
        return None
    sample_ids = run.samples["sample_id"].to_numpy()[run.rows(split)]
    if not np.array_equal(sample_ids, predictions["sample_id"]):
        raise ValueError("the stored logits are of other samples than the predictions")
    logits = run.output(f"logits/{part}", split).astype(float)
    probabilities: npt.NDArray[np.float64] = softmax(logits, axis=1)
    return probabilities


def run_parts(run: Run, parts: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(split, part, its predictions): val before test, the parts in the order of `parts`."""
    frames = dict(iter(run.predictions.groupby(["split", "part"], sort=False)))
    for key in product(("val", "test"), parts):
        if key in frames:
            yield *key, frames[key]


def collect_metrics(runs: Sequence[Run], dataset: str, source: str) -> pd.DataFrame:
    """Every metric of every run, split and part: one row a number, columns `METRIC_COLUMNS`, with
    `fold` before `seed` where there are several.

    Rows come in the order of all tables: teachers in the configuration's order, then methods by appearance;
    folds and seeds ascending; within a run val before test, multimodal before the modalities. `source`
    is `"raw"` or `"sample"`.

    Raises ValueError where there are no runs, a run or a sample comes twice, tasks differ, or predictions
    are unfit; the message names the run."""
    task, parts = check_runs(runs), [MULTI, *modality_order(runs)]
    rows: list[dict[str, object]] = []
    for run in ordered_runs(runs):
        name, frame = run.label, run.predictions
        if frame.empty:
            raise ValueError(f"{name}: there are no predictions")
        if unknown := sorted(set(frame["part"]) - set(parts)):
            raise ValueError(f"{name}: predictions of unknown part {', '.join(map(str, unknown))}")
        if frame.duplicated(["sample_id", "split", "part"]).any():
            raise ValueError(f"{name}: a sample has two predictions for the same split and part")
        identity = {"dataset": dataset, "source": source, "method": run.method, "modality": run.modality}
        selection = str(run.info.get("selection", "val"))
        selected = {"selection": selection, "selected_epoch": int(run.info.get("selected_epoch", 0))}
        for split, part, chosen in run_parts(run, parts):
            try:
                values = evaluate_predictions(chosen, task, class_probabilities(run, split, part, chosen))
            except ValueError as error:
                raise ValueError(f"{name}, {split}, {part}: {error}") from error
            row = identity | run.repeated | {"split": split, "part": part}
            rows += [row | {"metric": metric, "value": value} | selected for metric, value in values.items()]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else list(METRIC_COLUMNS))


# ----------------------------------------------------------------------------------------- by class and group
class Breakdown(NamedTuple):
    """Tables of every run, split and part.

    `per_class`, a row per class of target or prediction: `class` (its index), number of `samples`,
    `precision`, `recall` and `f1` (0 where undefined). `confusion`, a row per true class `target` and
    predicted class `prediction` that occur together: number of `samples`. Both are empty for a regression.
    `per_group`, a row per `group` and `metric` that is a mean over samples (accuracy and NLL; RMSE, MAE and
    bias): `value` and number of `samples`; empty where samples have no groups."""

    per_class: pd.DataFrame
    confusion: pd.DataFrame
    per_group: pd.DataFrame


def breakdown(runs: Sequence[Run]) -> Breakdown:
    """The metrics of `runs` (one or more, of one task) by class, pair of classes and group."""
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
