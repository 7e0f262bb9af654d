"""The base of our datasets: a folder with a stage card, written beside its place and renamed into it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from g2d_pipeline.cards import Clock, folder_content, whole_folder
from g2d_pipeline.stages import Plan


def when_made(preview: Callable[..., Any]) -> Callable[..., Any]:
    """A preview for Kedro-Viz that is left out until there is something to show."""

    @wraps(preview)
    def shown(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return preview(self, *arguments, **keywords) if self.is_made() else None

    return shown


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

    def is_made(self) -> bool:
        """Whether all of it is there and fresh, to be made anew or not."""
        return all(self.plan.is_fresh(self.stage, run) for run in self.plan.runs(self.stage))

    def _exists(self) -> bool:
        return not self.overwrite and self.is_made()


class FolderDataset(StageDataset):
    """One artefact: the folder `path` (a template with `{fingerprint}`) holds its files and `stage.json`.

    `plan` knows the stage card that it must have. What is saved is a function that makes it, so that its time
    counts for the card. `overwrite`: counts as missing even if fresh (`--params rebuild=true`). An artefact
    that turns out fresh when it is about to be saved (the stage left of it made the same content again, or
    another run has made it) is kept."""

    keep_partial = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.clock = Clock.start()

    def start_clock(self) -> None:
        """Called when the node that makes this artefact starts."""
        self.clock = Clock.start()

    @abstractmethod
    def write(self, folder: Path, data: Any) -> None:
        """Write the artefact's files into `folder`."""

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """Read the artefact from `folder`."""

    def content(self, folder: Path) -> str:
        """The hash of what stages to the right depend on."""
        return folder_content(folder)

    def save(self, data: Any) -> None:
        if self._exists():
            return
        folder, card = self.plan.folder(self.stage), self.plan.card(self.stage)
        with whole_folder(folder, card, self.clock, self.keep_partial, self.content) as partial:
            self.write(partial, data)
        self.overwrite = False  # made anew in this run: from here on it is fresh
        self.plan.refresh()

    def load(self) -> Any:
        return self.read(self.plan.require(self.stage))
