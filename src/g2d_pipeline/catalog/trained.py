"""Sets of trained models in the catalog: one folder a run (a teacher, or a student, of one seed)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, Trained, TrainedFolder, write_trained
from g2d_pipeline.cards import Clock, whole_folder
from g2d_pipeline.catalog.folder import StageDataset, when_made
from g2d_pipeline.errors import LockedError
from g2d_pipeline.files import locked

logger = logging.getLogger(__name__)


class TrainedSetDataset(StageDataset):
    """Run → trained model, each in the folder `path` (a template with `{run}` and `{fingerprint}`).

    Saved lazily, as Kedro's partitioned datasets are: run → a function that trains it, given the folder for
    its checkpoints. Fresh runs are skipped, each run is on disk before the next one starts, and a run begun
    by a killed process resumes from its last checkpoint. What another process trains comes last: with
    `wait=true` it is waited for and used. `plan` knows the stage card of each."""

    def save(self, data: dict[str, Callable[[Path], Trained]]) -> None:
        titles = {run: f"{self.stage} {run} ({i}/{len(data)})" for i, run in enumerate(data, start=1)}
        busy = []
        for run, train in data.items():
            try:
                self._make(run, train, titles[run], wait=False)
            except LockedError:
                busy.append(run)
        for run in busy:
            self._make(run, data[run], titles[run], self.plan.configuration.run.wait)
        self.overwrite = False  # made anew in this run: from here on they are fresh
        self.plan.refresh()

    def _make(self, run: str, train: Callable[[Path], Trained], title: str, wait: bool) -> None:
        folder = self.plan.folder(self.stage, run)
        if not self.overwrite and self.plan.is_fresh(self.stage, run):
            logger.info("%s is fresh: skipped", title)
            return
        with locked(folder, wait):
            if not self.overwrite and self.plan.is_fresh(self.stage, run):
                logger.info("%s was made by another run", title)
                return
            clock, card = Clock.start(), self.plan.card(self.stage, run)
            logger.info(title)
            with whole_folder(folder, card, clock, keep_partial=not self.overwrite) as partial:
                write_trained(partial, train(partial))
                shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)

    def load(self) -> dict[str, TrainedFolder]:
        runs = self.plan.runs(self.stage)
        return {run: TrainedFolder(self.plan.require(self.stage, run)) for run in runs}

    @when_made
    def preview(self) -> TablePreview:
        """What each run is and how it was selected, for Kedro-Viz."""
        columns = ["run", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        rows = [[run, *(model.info[c] for c in columns[1:])] for run, model in self.load().items()]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
