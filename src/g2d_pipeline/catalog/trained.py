"""Sets of trained models in the catalog: one folder a run (a teacher, or a student, of one seed)."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, FailedRun, Trained, TrainedFolder, write_trained
from g2d_pipeline.cards import Clock, partial_folder, whole_folder
from g2d_pipeline.catalog.folder import StageDataset, when_made
from g2d_pipeline.errors import LockedError, TrainingError, is_failed_training
from g2d_pipeline.files import locked

logger = logging.getLogger(__name__)


class FailedTraining(Exception):
    """Around the error that ended the training of one run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class TrainedSetDataset(StageDataset):
    """Run → trained model, each in the folder `path` (a template with `{run}` and `{fingerprint}`).

    Saved lazily, as Kedro's partitioned datasets are: run → a function that trains it, given the folder for
    its checkpoints. Fresh runs are skipped, each run is on disk before the next one starts, and a run begun
    by a killed process resumes from its last checkpoint. What another process trains comes last: with
    `wait=true` it is waited for and used. `plan` knows the stage card of each."""

    def save(self, data: dict[str, Callable[[Path], Trained]]) -> None:
        numbered, busy = list(enumerate(data.items(), start=1)), []
        for number, (run, train) in numbered:
            try:
                self._make(run, train, f"{self.stage} {run} ({number}/{len(data)})", wait=False)
            except LockedError:
                busy.append((number, (run, train)))
        for number, (run, train) in busy:
            wait = self.plan.configuration.run.wait
            self._make(run, train, f"{self.stage} {run} ({number}/{len(data)})", wait)
        self.overwrite = False  # made anew in this run: from here on they are fresh
        self.plan.refresh()

    def _make(self, run: str, train: Callable[[Path], Trained], title: str, wait: bool) -> None:
        folder = self.plan.folder(self.stage, run)
        self.plan.failures.pop((self.stage, run), None)
        if not self.overwrite and self.plan.is_fresh(self.stage, run):
            logger.info("%s is fresh: skipped", title)
            return
        with locked(folder, wait):
            if not self.overwrite and self.plan.is_fresh(self.stage, run):
                logger.info("%s was made by another run", title)
                return
            logger.info(title)
            try:
                self._train(run, train)
            except FailedTraining as failed:
                self._note_failure(run, failed.error)
            if (self.stage, run) in self.plan.failures:
                gc.collect()  # what it held, before the next run needs the room

    def _train(self, run: str, train: Callable[[Path], Trained]) -> None:
        folder = self.plan.folder(self.stage, run)
        clock, card = Clock.start(), self.plan.card(self.stage, run)
        with whole_folder(folder, card, clock, keep_partial=not self.overwrite) as partial:
            try:
                trained = train(partial)
            except Exception as error:
                if is_failed_training(error):
                    raise FailedTraining(error) from error
                raise
            write_trained(partial, trained)
            shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)

    def _note_failure(self, run: str, error: Exception) -> None:
        """Log it, remember it for what is made from this run, and keep nothing of it but its checkpoints: the
        next attempt goes on from there."""
        failed = FailedRun.of(self.plan.card(self.stage, run)["seed"], error)
        debug, said = self.plan.configuration.run.debug, isinstance(error, TrainingError)
        words = str(error) if said else f"{failed.reason} (--params debug=true shows where)"
        logger.error("%s %s failed: %s", self.stage, run, words, exc_info=debug)
        self.plan.failures[self.stage, run] = failed
        partial = partial_folder(self.plan.folder(self.stage, run))
        if not (partial / CHECKPOINTS).is_dir():
            shutil.rmtree(partial, ignore_errors=True)

    def load(self) -> dict[str, TrainedFolder | FailedRun]:
        """Every run; in the place of one that failed in this process, why."""
        failures, stage = self.plan.failures, self.stage
        return {
            run: failures.get((stage, run)) or TrainedFolder(self.plan.require(stage, run))
            for run in self.plan.runs(stage)
        }

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
