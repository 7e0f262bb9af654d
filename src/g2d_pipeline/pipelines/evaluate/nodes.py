"""Trained models → numbers, figures, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.evaluation import Evaluation, Run


def evaluate_runs(
    manifest: Manifest,
    data: dict[str, Any],
    teachers: dict[str, TrainedFolder],
    students: dict[str, TrainedFolder],
    settings: EvaluateSettings,
) -> tuple[Callable[[], Any], ...]:
    """What makes the metrics (tidy and nested), the figures of results and of history, the result table, the
    report."""

    @cache
    def make() -> Evaluation:
        import pandas as pd

        from g2d_pipeline.evaluation import evaluate

        ranked = [(name.split("/")[0], run.info) for name, run in teachers.items()]
        rankings = pd.DataFrame(
            [
                {
                    "seed": info["seed"],
                    "confidence_on": split,
                    "modality": m,
                    "confidence": info["confidence"][split][m],
                }
                for m, info in ranked
                for split in ("train", "val")
            ]
        )
        return evaluate(
            _runs(teachers, students), _meta(manifest, data), rankings, settings.configuration, data
        )

    return (
        lambda: make().metrics,
        lambda: make().metrics_json,
        lambda: make().figures["summary_bars"],
        lambda: make().figures["metric_curves"],
        lambda: make().table,
        lambda: make().report,
    )


def _runs(teachers: dict[str, TrainedFolder], students: dict[str, TrainedFolder]) -> list[Run]:
    from g2d_pipeline.evaluation import TEACHER, Run

    named = [(TEACHER, name.split("/")[0], run) for name, run in teachers.items()]
    named += [(name.split("/")[0], "", run) for name, run in students.items()]
    return [
        Run(method, m, run.info["seed"], run.history, run.predictions, run.info) for method, m, run in named
    ]


def _meta(manifest: Manifest, data: dict[str, Any]) -> dict[str, Any]:
    """The manifest's, with the samples that featurize has left."""
    target = manifest.meta.get("target") or {}
    return manifest.meta | {
        "target_name": target.get("name", ""),
        "target_unit": target.get("unit", ""),
        "counts": {split: facts["samples"] for split, facts in data["splits"].items()},
        "dropped": [*manifest.meta["dropped"], *data["dropped"]["at_featurize"]],
    }
