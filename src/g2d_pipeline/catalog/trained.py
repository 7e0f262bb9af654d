"""Sets of trained models in the catalog: one folder a run (a teacher, or a student, of one seed)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, Trained, TrainedFolder, write_trained
from g2d_pipeline.catalog.folder import FolderDataset


class TrainedSetDataset(FolderDataset):
    """Run → trained model. What is saved is a function that trains it, given the folder for its checkpoints:
    a run begun by a killed process resumes from its last one."""

    @property
    def keep_partial(self) -> bool:  # type: ignore[override]
        return not self.overwrite

    def write(self, folder: Path, make: Callable[[Path], Trained], run: str) -> None:
        write_trained(folder, make(folder))
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    def read(self, folder: Path) -> TrainedFolder:
        return TrainedFolder(folder)

    def preview(self) -> TablePreview:
        """What each run is and how it was selected, for Kedro-Viz."""
        columns = ["run", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        rows = [[run, *(model.info[c] for c in columns[1:])] for run, model in self.load().items()]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
