"""Feature store + teachers → one multimodal student per method and seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.artefacts import Trained, TrainedFolder
from g2d_pipeline.config import DistillSettings
from g2d_pipeline.features.store import FeatureStore


def train_students(
    features: dict[str, FeatureStore], teachers: dict[str, TrainedFolder], settings: DistillSettings
) -> dict[str, Callable[[Path], Trained]]:
    """Run → what trains its student, given a folder; the catalog skips the fresh ones."""
    return {name: partial(_train, name, features, teachers, settings) for name in settings.runs}


def _train(
    name: str,
    features: dict[str, FeatureStore],
    teachers: dict[str, TrainedFolder],
    settings: DistillSettings,
    folder: Path,
) -> Trained:
    from g2d_pipeline.training import Data, train_student

    run, repeat = settings.runs[name], name.partition("/")[2]
    which = re.sub("([a-z]+)", r"\1 ", repeat).replace("/", ", ")  # fold 2, seed 0
    return train_student(
        Data.from_store(features[run.split], run.target, run.augment),
        run.encoders,
        {m: teachers[f"{m}/{repeat}"] for m in run.encoders} if run.needs_teachers else {},
        method=run.algorithm,
        parameters=run.parameters,
        smp=run.smp,
        fusion=run.fusion,
        training=run.training,
        seed=run.seed,
        description=f"{run.method}, {which}",
        weights=settings.weights,
        options=settings.options.updated(folder=folder),
    )
