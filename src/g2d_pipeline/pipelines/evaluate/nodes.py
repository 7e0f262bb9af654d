"""Trained models → numbers, figures, report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.sources.manifest import Manifest


def evaluate_runs(
    manifest: Manifest,
    data: dict[str, Any],
    teachers: dict[str, TrainedFolder],
    students: dict[str, TrainedFolder],
    settings: EvaluateSettings,
) -> tuple[pd.DataFrame, dict[str, Any], Any, Any, str, str]:
    """Metrics (tidy and nested), the figures of results and of history, the result table, the report."""
    from g2d_pipeline.evaluation import Run, evaluate

    runs = [
        Run("unimodal", cell.split("/")[0], of.info["seed"], of.history, of.predictions, of.info)
        for cell, of in teachers.items()
    ]
    runs += [
        Run(cell.split("/")[0], "", of.info["seed"], of.history, of.predictions, of.info)
        for cell, of in students.items()
    ]
    rankings = pd.DataFrame(
        [
            {
                "seed": of.info["seed"],
                "confidence_on": split,
                "modality": m,
                "confidence": of.info["confidence"][split][m],
            }
            for cell, of in teachers.items()
            for m in [cell.split("/")[0]]
            for split in ("train", "val")
        ]
    )
    target = manifest.meta.get("target") or {}
    meta = manifest.meta | {
        "target_name": target.get("name", ""),
        "target_unit": target.get("unit", ""),
        "counts": {
            split: of["samples"] for split, of in data["splits"].items()
        },  # without what featurize dropped
        "dropped": [*manifest.meta["dropped"], *data["dropped"]["at_featurize"]],
    }
    found = evaluate(runs, meta, rankings, settings.configuration, data)
    return (
        found.metrics,
        found.metrics_json,
        found.figures["summary_bars"],
        found.figures["metric_curves"],
        found.table,
        found.report,
    )
