"""Sets of trained models in the catalog: one folder a cell (a teacher, or a student, of one seed)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import TablePreview

from g2d_pipeline.artefacts import CHECKPOINTS, Trained, TrainedFolder, write_trained
from g2d_pipeline.stages import Clock, is_fresh, require_fresh, whole_folder

logger = logging.getLogger(__name__)


class TrainedSetDataset(AbstractDataset[dict[str, Callable[[Path], Trained]], dict[str, TrainedFolder]]):
    """Cell → trained model, each in `<path>/<cell>-<fingerprint>/`.

    Saved lazily, as Kedro's partitioned datasets are: cell → a function that trains it, given the folder for
    its checkpoints. Fresh cells are skipped, each cell is on disk before the next one starts, and a cell
    begun by a killed run goes on from its last checkpoint. `cards`: cell → the stage card it must have."""

    def __init__(
        self,
        path: str,
        cards: dict[str, dict[str, Any]],
        overwrite: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.cards = {str(cell): dict(card) for cell, card in cards.items()}
        self.overwrite = overwrite
        self.metadata = metadata

    def folder(self, cell: str) -> Path:
        return self.path / f"{cell}-{self.cards[cell]['fingerprint']}"

    def save(self, data: dict[str, Callable[[Path], Trained]]) -> None:
        for number, (cell, train) in enumerate(data.items(), start=1):
            card, folder = self.cards[cell], self.folder(cell)
            if not self.overwrite and is_fresh(folder, card["fingerprint"]):
                logger.info("%s %s (%d/%d) is fresh: skipped", card["stage"], cell, number, len(data))
                continue
            clock = Clock.start()
            logger.info("%s %s (%d/%d)", card["stage"], cell, number, len(data))
            with whole_folder(folder, card, clock, keep_partial=not self.overwrite) as partial:
                write_trained(partial, train(partial))
                shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
        self.overwrite = False  # made anew in this run: from here on they are fresh

    def load(self) -> dict[str, TrainedFolder]:
        for cell, card in self.cards.items():
            require_fresh(self.folder(cell), card["fingerprint"], f"{card['stage']} {cell}")
        return {cell: TrainedFolder(self.folder(cell)) for cell in self.cards}

    def _exists(self) -> bool:
        return not self.overwrite and all(
            is_fresh(self.folder(c), of["fingerprint"]) for c, of in self.cards.items()
        )

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self.path), "cells": list(self.cards)}

    def preview(self) -> TablePreview:
        """What each cell is and how it was selected, for Kedro-Viz."""
        columns = ["cell", "algorithm", "seed", "metric", "selected_epoch", "selection"]
        rows = [[cell, *(of.info[c] for c in columns[1:])] for cell, of in self.load().items()]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
