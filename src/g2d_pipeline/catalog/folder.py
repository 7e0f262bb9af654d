"""The base of our datasets: a folder with a stage card, written beside its place and renamed into it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from g2d_pipeline.stages import Clock, is_fresh, require_fresh, whole_folder


class FolderDataset(AbstractDataset[Any, Any]):
    """One artefact: `<path>/` holds its files and `stage.json`.

    `card` is the stage card that the artefact must have (its `fingerprint` above all). What is saved may be
    the artefact or a function that makes it: then its time counts for the card. `overwrite`: counts as
    missing even if fresh (`--params rebuild=true`)."""

    keep_partial = False

    def __init__(
        self, path: str, card: dict[str, Any], overwrite: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.card = dict(card)
        self.overwrite = overwrite
        self.metadata = metadata
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

    def save(self, data: Any) -> None:
        with whole_folder(self.path, self.card, self.clock, self.keep_partial) as folder:
            self.write(folder, data)
        self.overwrite = False  # made anew in this run: from here on it is fresh

    def load(self) -> Any:
        require_fresh(self.path, self.card["fingerprint"], str(self.card["stage"]))
        return self.read(self.path)

    def _exists(self) -> bool:
        return not self.overwrite and is_fresh(self.path, self.card["fingerprint"])

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self.path), "fingerprint": self.card.get("fingerprint")}
