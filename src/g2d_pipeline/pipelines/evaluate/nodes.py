"""Trained models → numbers, figures, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import FailedRun, TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

    from g2d_pipeline.evaluation import Evaluation, Failure, Run


def evaluate_runs(
    manifest: Manifest,
    data: dict[str, Any],
    teachers: dict[str, TrainedFolder | FailedRun],
    students: dict[str, TrainedFolder | FailedRun],
    settings: EvaluateSettings,
) -> tuple[Callable[[], Any], ...]:
    """What makes the metrics (tidy and nested), the figures of results and of history, the result table, the
    report."""

    @cache
    def make() -> Evaluation:
        from g2d_pipeline.evaluation import evaluate

        runs, failures = _runs(teachers, students)
        if not runs:
            raise TrainingError(f"No run is left to evaluate. {failures[0].label}: {failures[0].reason}")
        return evaluate(
            runs, _meta(manifest, data), _rankings(teachers), settings.configuration, data, failures
        )

    return (
        lambda: make().metrics,
        lambda: make().metrics_json,
        lambda: make().figures["summary_bars"],
        lambda: make().figures["metric_curves"],
        lambda: make().table,
        lambda: make().report,
    )


def _runs(
    teachers: dict[str, TrainedFolder | FailedRun], students: dict[str, TrainedFolder | FailedRun]
) -> tuple[list[Run], list[Failure]]:
    from g2d_pipeline.evaluation import TEACHER, Failure, Run

    named = [(TEACHER, name.split("/")[0], run) for name, run in teachers.items()]
    named += [(name.split("/")[0], "", run) for name, run in students.items()]
    runs = [
        Run(method, m, run.info["seed"], run.history, run.predictions, run.info)
        for method, m, run in named
        if isinstance(run, TrainedFolder)
    ]
    return runs, [Failure(name, m, r.seed, r.reason) for name, m, r in named if isinstance(r, FailedRun)]


def _rankings(teachers: dict[str, TrainedFolder | FailedRun]) -> pd.DataFrame:
    """The confidence of each teacher on train and val; of seeds whose teachers were all trained."""
    import pandas as pd

    failed = {run.seed for run in teachers.values() if isinstance(run, FailedRun)}
    rows = [
        (run.info["seed"], split, m, run.info["confidence"][split][m])
        for m, run in ((name.split("/")[0], run) for name, run in teachers.items())
        if isinstance(run, TrainedFolder) and run.info["seed"] not in failed
        for split in ("train", "val")
    ]
    return pd.DataFrame(rows, columns=["seed", "confidence_on", "modality", "confidence"])


def _meta(manifest: Manifest, data: dict[str, Any]) -> dict[str, Any]:
    """The manifest's, with the samples that featurize has left."""
    target = manifest.meta.get("target") or {}
    return manifest.meta | {
        "target_name": target.get("name", ""),
        "target_unit": target.get("unit", ""),
        "counts": {split: facts["samples"] for split, facts in data["splits"].items()},
        "dropped": [*manifest.meta["dropped"], *data["dropped"]["at_featurize"]],
    }
