"""Sets of trained models in the catalog: one folder a run (a teacher, or a student, of one seed)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, Trained, TrainedFolder, write_trained
from g2d_pipeline.cards import Clock, whole_folder
from g2d_pipeline.catalog.folder import StageDataset

logger = logging.getLogger(__name__)


class TrainedSetDataset(StageDataset):
    """Run → trained model, each in the folder `path` (a template with `{run}` and `{fingerprint}`).

    Saved lazily, as Kedro's partitioned datasets are: run → a function that trains it, given the folder for
    its checkpoints. Fresh runs are skipped, each run is on disk before the next one starts, and a run begun
    by a killed process resumes from its last checkpoint. `plan` knows the stage card of each."""

    def save(self, data: dict[str, Callable[[Path], Trained]]) -> None:
        for number, (run, train) in enumerate(data.items(), start=1):
            if not self.overwrite and self.plan.is_fresh(self.stage, run):
                logger.info("%s %s (%d/%d) is fresh: skipped", self.stage, run, number, len(data))
                continue
            clock, card = Clock.start(), self.plan.card(self.stage, run)
            logger.info("%s %s (%d/%d)", self.stage, run, number, len(data))
            keep = not self.overwrite
            with whole_folder(self.plan.folder(self.stage, run), card, clock, keep_partial=keep) as partial:
                write_trained(partial, train(partial))
                shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
        self.overwrite = False  # made anew in this run: from here on they are fresh
        self.plan.refresh()

    def load(self) -> dict[str, TrainedFolder]:
        runs = self.plan.runs(self.stage)
        return {run: TrainedFolder(self.plan.require(self.stage, run)) for run in runs}

    def _exists(self) -> bool:
        return not self.overwrite and all(
            self.plan.is_fresh(self.stage, r) for r in self.plan.runs(self.stage)
        )

    def preview(self) -> TablePreview:
        """What each run is and how it was selected, for Kedro-Viz."""
        columns = ["run", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        rows = [[run, *(model.info[c] for c in columns[1:])] for run, model in self.load().items()]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
