"""Feature store + teachers → one multimodal student per method and seed."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.artefacts import FailedRun, Models, Trained, TrainedFolder
from g2d_pipeline.config import DistillSettings
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.features.store import FeatureStore


def train_students(
    features: dict[str, FeatureStore], teachers: Models, settings: DistillSettings
) -> dict[str, Callable[[Path], Trained]]:
    """Run → what trains its student, given a folder; the catalog skips the fresh ones."""
    return {name: partial(_train, name, features, teachers, settings) for name in settings.runs}


def _train(
    name: str, features: dict[str, FeatureStore], teachers: Models, settings: DistillSettings, folder: Path
) -> Trained:
    from g2d_pipeline.features.inputs import write_inputs
    from g2d_pipeline.training import Data, train_student

    run, repeat = settings.runs[name], name.partition("/")[2]
    title = re.sub("([a-z]+)", r"\1 ", repeat).replace("/", ", ")  # fold 2, seed 0
    needed: dict[str, TrainedFolder] = {}
    for m in run.encoders if run.needs_teachers else ():
        teacher = teachers[f"{m}/{repeat}"]
        if isinstance(teacher, FailedRun):
            raise TrainingError(f"it needs the teacher of {m}, which failed: {teacher.reason}")
        needed[m] = teacher
    write_inputs(folder, features[run.split], list(run.encoders), settings.table)
    return train_student(
        Data.from_store(features[run.split], run.target, run.augment).only(*run.encoders),
        run.encoders,
        needed,
        method=run.algorithm,
        parameters=run.parameters,
        smp=run.smp,
        fusion=run.fusion,
        training=run.training,
        seed=run.seed,
        description=f"{run.method}, {title}",
        weights=settings.weights,
        start=settings.start if settings.start is not None and settings.start.exists() else None,
        options=settings.options.updated(folder=folder),
    )
