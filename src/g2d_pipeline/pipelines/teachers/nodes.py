"""Feature store → one unimodal teacher per modality and seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.artefacts import Trained
from g2d_pipeline.config import RunOptions, TeacherRun, TeachersSettings
from g2d_pipeline.features.store import FeatureStore


def train_teachers(
    features: FeatureStore, settings: TeachersSettings
) -> dict[str, Callable[[Path], Trained]]:
    """Cell → what trains its teacher; the catalog skips the fresh ones."""
    return {
        name: partial(_train, features=features, cell=cell, machine=settings.machine)
        for name, cell in settings.cells.items()
    }


def _train(folder: Path, features: FeatureStore, cell: TeacherRun, machine: RunOptions) -> Trained:
    from g2d_pipeline.training import Data, train_teacher

    return train_teacher(
        Data.from_store(features, cell.target, {cell.modality: cell.augment}),
        cell.modality,
        cell.encoder,
        training=cell.training,
        seed=cell.seed,
        device=machine.device,
        project=machine.project,
        workers=machine.workers,
        folder=folder,
        checkpoint_minutes=machine.checkpoint_minutes,
        log=machine.log,
        progress=machine.progress,
    )
