"""Feature store + teachers → one multimodal student per method and seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.artefacts import Trained, TrainedFolder
from g2d_pipeline.config import DistillSettings, RunOptions, StudentRun
from g2d_pipeline.features.store import FeatureStore


def train_students(
    features: FeatureStore, teachers: dict[str, TrainedFolder], settings: DistillSettings
) -> dict[str, Callable[[Path], Trained]]:
    """Cell → what trains its student; the catalog skips the fresh ones."""
    return {
        name: partial(_train, features=features, teachers=teachers, cell=cell, machine=settings.machine)
        for name, cell in settings.cells.items()
    }


def _train(
    folder: Path,
    features: FeatureStore,
    teachers: dict[str, TrainedFolder],
    cell: StudentRun,
    machine: RunOptions,
) -> Trained:
    from g2d_pipeline.training import Data, train_student

    return train_student(
        Data.from_store(features, cell.target, cell.augment),
        cell.encoders,
        {m: teachers[f"{m}/seed{cell.seed}"] for m in cell.encoders} if cell.needs_teachers else {},
        method=cell.algorithm,
        parameters=cell.parameters,
        smp=cell.smp,
        fusion=cell.fusion,
        training=cell.training,
        seed=cell.seed,
        device=machine.device,
        project=machine.project,
        workers=machine.workers,
        folder=folder,
        checkpoint_minutes=machine.checkpoint_minutes,
        log=machine.log,
        progress=machine.progress,
        description=f"{cell.method}, seed {cell.seed}",
    )
