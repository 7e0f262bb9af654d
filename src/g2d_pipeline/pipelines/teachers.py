"""Feature store → one unimodal teacher per modality and seed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import TeachersSettings
from g2d_pipeline.features.store import FeatureStore


def train_teachers(
    features: dict[str, FeatureStore], settings: TeachersSettings
) -> dict[str, Callable[[Path], Trained]]:
    """Run → what trains its teacher, given a folder; the catalog skips the fresh ones."""
    return {name: partial(_train, name, features, settings) for name in settings.runs}


def _train(name: str, features: dict[str, FeatureStore], settings: TeachersSettings, folder: Path) -> Trained:
    from g2d_pipeline.features.inputs import write_inputs
    from g2d_pipeline.training import Data, train_teacher

    run = settings.runs[name]
    write_inputs(folder, features[run.split], [run.modality], settings.table)
    return train_teacher(
        Data.from_store(features[run.split], run.target, {run.modality: run.augment}),
        run.modality,
        run.encoder,
        training=run.training,
        seed=run.seed,
        weights=settings.weights,
        options=settings.options.updated(folder=folder),
    )
