"""Sets of trained models in the catalog: a folder per run (a teacher or student of one seed)."""

import gc
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, FailedRun, Trained, TrainedFolder, write_trained
from g2d_pipeline.cards import partial_folder
from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.errors import is_failed_training

logger = logging.getLogger(__name__)


class FailedTraining(Exception):
    """Wraps the error that ended the training of one run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class TrainedSetDataset(FolderDataset):
    """Run → trained model. What is saved is a function of the folder for its checkpoints that trains it; a
    killed run resumes from its last one. Failed trainings are noted in the plan.

    `side_by_side(stage, runs)`: a context that trains some runs in other processes (see `Jobs`)."""

    side_by_side: Callable[[str, list[str]], AbstractContextManager[Collection[str]]]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.side_by_side = lambda stage, runs: nullcontext(())

    @property
    def keep_partial(self) -> bool:  # type: ignore[override]
        return not self.overwrite

    def save(self, data: Mapping[str, Any]) -> None:
        for run in data:
            self.plan.failures.pop((self.stage, run), None)
        missing = [run for run in data if not self._is_fresh(run)]
        with self.side_by_side(self.stage, missing) as done:
            super().save({run: make for run, make in data.items() if run not in done})

    def make_run(self, run: str, make: Callable[[Path], Trained]) -> None:
        try:
            super().make_run(run, make)
        except FailedTraining as failed:
            self._note_failure(run, failed.error)
        if (self.stage, run) in self.plan.failures:
            gc.collect()  # its memory, before the next run needs it

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
        """Log it, note it in the plan for later stages, and keep its checkpoints for the next try."""
        debug = self.plan.configuration.run.debug
        failed = FailedRun.from_error(self.plan.card(self.stage, run)["seed"], error, debug)
        logger.error("%s %s failed: %s", self.stage, run, failed.message)
        self.plan.failures[self.stage, run] = failed
        partial = partial_folder(self.plan.folder(self.stage, run))
        if not (partial / CHECKPOINTS).is_dir():
            shutil.rmtree(partial, ignore_errors=True)

    @when_made
    def preview(self) -> TablePreview:
        """Each run and how its epoch was selected, for Kedro-Viz."""
        columns = ["run", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        trained = {run: model for run, model in self.load().items() if isinstance(model, TrainedFolder)}
        rows = [[run, *(model.info[c] for c in columns[1:])] for run, model in trained.items()]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
