"""Trained models → numbers, figures, report."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from g2d_pipeline.artefacts import TrainedFolder
from g2d_pipeline.config import EvaluateSettings
from g2d_pipeline.sources.manifest import Manifest

if TYPE_CHECKING:
    from g2d_pipeline.evaluation import Evaluation, Run


def evaluate_runs(
    manifests: dict[str, Manifest],
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

        ranked = [(*_parts(name), run.info) for name, run in teachers.items()]
        rankings = pd.DataFrame(
            [
                ({"fold": fold} if fold else {})
                | {
                    "seed": info["seed"],
                    "confidence_on": split,
                    "modality": m,
                    "confidence": info["confidence"][split][m],
                }
                for m, fold, info in ranked
                for split in ("train", "val")
            ]
        )
        meta = _meta(list(manifests.values()), data)
        return evaluate(_runs(teachers, students), meta, rankings, settings.configuration, data)

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

    named = [(TEACHER, *_parts(name), run) for name, run in teachers.items()]
    named += [(method, "", fold, run) for name, run in students.items() for method, fold in [_parts(name)]]
    return [
        Run(method, m, run.info["seed"], run.history, run.predictions, run.info, fold)
        for method, m, fold, run in named
    ]


def _parts(name: str) -> tuple[str, int]:
    """`g2d/fold2/seed0` → what is trained, and its fold (0: there are none)."""
    first, *_ = name.split("/")
    fold = re.search(r"/fold([0-9]+)/", name)
    return first, int(fold[1]) if fold else 0


def _meta(manifests: list[Manifest], data: dict[str, Any]) -> dict[str, Any]:
    """The first manifest's, with the notes of all and the samples that featurize has left; `draws`: those of
    each split, if there are several."""
    manifest = manifests[0]
    target = manifest.meta.get("target") or {}
    return manifest.meta | {
        "target_name": target.get("name", ""),
        "target_unit": target.get("unit", ""),
        "counts": {split: facts["samples"] for split, facts in data["splits"].items()},
        "notes": list(dict.fromkeys(note for m in manifests for note in m.meta["notes"])),
        "draws": data.get("draws", {}),
        "dropped": [*manifest.meta["dropped"], *data["dropped"]["at_featurize"]],
    }
