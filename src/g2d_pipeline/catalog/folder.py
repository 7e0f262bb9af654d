"""The base of our datasets: folders with a stage card, written beside their place and renamed into it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from g2d_pipeline.cards import Clock, folder_content, whole_folder
from g2d_pipeline.stages import Plan

logger = logging.getLogger(__name__)


class StageDataset(AbstractDataset[Any, Any]):
    """What a stage makes. `path`: a template of its folders; `plan`: which cards they must have; `overwrite`:
    counts as missing even if fresh (`--params rebuild=true`)."""

    def __init__(
        self,
        path: str,
        stage: str,
        plan: Plan,
        overwrite: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.stage, self.plan = path, stage, plan
        self.overwrite = overwrite
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"path": self.path, "stage": self.stage}


class FolderDataset(StageDataset):
    """A set of artefacts: each run's folder (`path` is a template with `{run}` and `{fingerprint}`) holds its
    files and `stage.json`.

    Saved lazily, as Kedro's partitioned datasets are: run → what makes its artefact, for `write`. Fresh runs
    are skipped, and each is on disk before the next one starts. `plan` knows the stage card of each.
    `overwrite`: all count as missing (`--params rebuild=true`). An artefact that turns out fresh when it is
    about to be made (the stage left of it made the same content again) is kept."""

    keep_partial = False

    @abstractmethod
    def write(self, folder: Path, make: Any, run: str) -> None:
        """Write a run's files into `folder`."""

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """Read a run's artefact from `folder`."""

    def content(self, folder: Path) -> str:
        """The hash of what stages to the right depend on."""
        return folder_content(folder)

    def save(self, data: Mapping[str, Any]) -> None:
        for number, (run, make) in enumerate(data.items(), start=1):
            fresh = not self.overwrite and self.plan.is_fresh(self.stage, run)
            if run:
                state = " is fresh: skipped" if fresh else ""
                logger.info("%s %s (%d/%d)%s", self.stage, run, number, len(data), state)
            if fresh:
                continue
            clock, card = Clock.start(), self.plan.card(self.stage, run)
            folder = self.plan.folder(self.stage, run)
            with whole_folder(folder, card, clock, self.keep_partial, self.content) as partial:
                self.write(partial, make, run)
        self.overwrite = False  # made anew in this run: from here on they are fresh
        self.plan.refresh()

    def load(self) -> dict[str, Any]:
        return {run: self.read(self.plan.require(self.stage, run)) for run in self.plan.runs(self.stage)}

    def _exists(self) -> bool:
        runs = self.plan.runs(self.stage)
        return not self.overwrite and all(self.plan.is_fresh(self.stage, run) for run in runs)
