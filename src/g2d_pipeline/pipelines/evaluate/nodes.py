"""Trained models → numbers, figures, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.evaluation import Evaluation


def evaluate_runs(
    manifest: Manifest,
    data: dict[str, Any],
    teachers: dict[str, TrainedFolder],
    students: dict[str, TrainedFolder],
    settings: EvaluateSettings,
) -> tuple[Callable[[], Any], ...]:
    """What makes the metrics (tidy and nested), the figures of results and of history, the result table, the
    report."""
    make = cache(partial(_evaluate, manifest, data, teachers, students, settings))
    return (
        lambda: make().metrics,
        lambda: make().metrics_json,
        lambda: make().figures["summary_bars"],
        lambda: make().figures["metric_curves"],
        lambda: make().table,
        lambda: make().report,
    )


def _evaluate(
    manifest: Manifest,
    data: dict[str, Any],
    teachers: dict[str, TrainedFolder],
    students: dict[str, TrainedFolder],
    settings: EvaluateSettings,
) -> Evaluation:
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
    return evaluate(runs, meta, rankings, settings.configuration, data)
