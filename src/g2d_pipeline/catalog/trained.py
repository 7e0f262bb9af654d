"""Sets of trained models in the catalog: one folder a run (a teacher, or a student, of one seed)."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, FailedRun, Trained, TrainedFolder, write_trained
from g2d_pipeline.cards import partial_folder
from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.errors import TrainingError, is_failed_training

logger = logging.getLogger(__name__)


class FailedTraining(Exception):
    """Around the error that ended the training of one run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class TrainedSetDataset(FolderDataset):
    """Run → trained model. Saved is a function that trains it, given the folder for its checkpoints: a run of
    a killed process resumes from its last one. A run whose training failed is noted in the plan alone."""

    @property
    def keep_partial(self) -> bool:  # type: ignore[override]
        return not self.overwrite

    def save(self, data: Mapping[str, Any]) -> None:
        for run in data:
            self.plan.failures.pop((self.stage, run), None)
        super().save(data)

    def make_run(self, run: str, make: Callable[[Path], Trained]) -> None:
        try:
            super().make_run(run, make)
        except FailedTraining as failed:
            self._note_failure(run, failed.error)
        if (self.stage, run) in self.plan.failures:
            gc.collect()  # what it held, before the next run needs the room

    def write(self, folder: Path, make: Callable[[Path], Trained], run: str) -> None:
        try:
            trained = make(folder)
        except Exception as error:
            if is_failed_training(error):
                raise FailedTraining(error) from error
            raise
        write_trained(folder, trained)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def read(self, folder: Path) -> TrainedFolder:
        return TrainedFolder(folder)

    def _note_failure(self, run: str, error: Exception) -> None:
        """Log it, remember it for what is made from this run, and keep its checkpoints for the next try."""
        failed = FailedRun.from_error(self.plan.card(self.stage, run)["seed"], error)
        debug, said = self.plan.configuration.run.debug, isinstance(error, TrainingError)
        words = str(error) if said else f"{failed.reason} (--params debug=true shows where)"
        logger.error("%s %s failed: %s", self.stage, run, words, exc_info=debug)
        self.plan.failures[self.stage, run] = failed
        partial = partial_folder(self.plan.folder(self.stage, run))
        if not (partial / CHECKPOINTS).is_dir():
            shutil.rmtree(partial, ignore_errors=True)

    @when_made
    def preview(self) -> TablePreview:
        """What each run is and how it was selected, for Kedro-Viz."""
        columns = ["run", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        rows = [
            [run, *(model.info[c] for c in columns[1:])]
            for run, model in self.load().items()
            if isinstance(model, TrainedFolder)
        ]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
