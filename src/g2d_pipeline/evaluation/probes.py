"""Linear probes: what a linear model reads from the frozen features of one modality, whatever the fusion."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from .metrics import evaluate_predictions
from .records import Run

METRICS = {"classification": ("accuracy", "f1_macro"), "regression": ("rmse", "r2")}


def probe_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Rows of the frame `probes` (`modality`, `split`, `metric`, `value`): fitted on val, scored on test.

    Features `[n, D]` are standardised by val; scikit-learn's LogisticRegression (C = 1/D) or Ridge (α = D,
    the same penalty: that of C = 1 for features of length 1) is fitted on val, as students store no features
    of train; teachers are treated alike, so that the two compare. The rows of val tell how far the probe fits
    what it was fitted on. No rows where features are missing, or val has one value of the target only."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task = str(run.info["task"])
    target = {split: run.samples["target"].to_numpy()[run.rows(split)] for split in ("val", "test")}
    for m in run.info["modalities"]:
        try:
            features = {split: run.output(f"feature/{m}", split) for split in target}
        except (KeyError, ValueError):
            continue
        if not all(map(len, features.values())) or len(np.unique(target["val"])) < 2:
            continue
        width = features["val"].shape[1]
        classes = task == "classification"
        linear = LogisticRegression(C=1 / width, max_iter=1000) if classes else Ridge(alpha=width)
        probe = make_pipeline(StandardScaler(), linear)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(features["val"].astype(np.float64), target["val"])
        for split, x in features.items():
            frame = pd.DataFrame({"target": target[split], "prediction": probe.predict(x), "confidence": 0.5})
            values = evaluate_predictions(frame, task)
            for metric in METRICS[task]:
                yield {"modality": m, "split": split, "metric": metric, "value": values[metric]}
