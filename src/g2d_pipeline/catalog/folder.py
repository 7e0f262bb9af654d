"""The base of our data sets: folders with a stage card, written under another name and renamed."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from g2d_pipeline.cards import Clock, folder_content, whole_folder
from g2d_pipeline.errors import LockedError, mistake_under
from g2d_pipeline.files import locked
from g2d_pipeline.stages import Plan

logger = logging.getLogger(__name__)


def when_made(preview: Callable[..., Any]) -> Callable[..., Any]:
    """A preview for Kedro-Viz that is None until the data are made."""

    @wraps(preview)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return preview(self, *args, **kwargs) if self.is_made() else None

    return wrapper


@contextmanager
def without_wrapping() -> Iterator[None]:
    """Raise the G2DError or OSError that Kedro wraps into a DatasetError, if there is one."""
    try:
        yield
    except DatasetError as error:
        if (cause := mistake_under(error)) is None:
            raise
        raise cause from error


class FolderDataset(AbstractDataset[Any, Any]):
    """A set of artefacts: a folder per run, with `stage.json`; its `path` has `{run}` and `{fingerprint}`.

    Saved lazily, as Kedro's partitioned data sets are: run → function that makes its artefact, for `write`,
    so that its time counts for the card. Fresh runs are skipped, also those that become fresh meanwhile; each
    is on disk before the next one starts. Runs that another process makes come last: with `wait=true` they
    are waited for and used. `overwrite`: all count as missing (`--params rebuild=true`)."""

    keep_partial = False

    def __init__(
        self, path: str, stage: str, plan: Plan, overwrite: bool = False, metadata: Any = None
    ) -> None:
        self.path, self.stage, self.plan, self.overwrite = path, stage, plan, overwrite
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"path": self.path, "stage": self.stage}

    def is_made(self) -> bool:
        """Whether all runs are there and fresh, also with `overwrite`."""
        return all(self.plan.is_fresh(self.stage, run) for run in self.plan.runs(self.stage))

    def _exists(self) -> bool:
        return not self.overwrite and self.is_made()

    @abstractmethod
    def write(self, folder: Path, make: Any, run: str) -> None:
        """Write a run's files into `folder`."""

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """Read a run's artefact from `folder`."""

    def content(self, folder: Path) -> str:
        """The hash of what later stages depend on."""
        return folder_content(folder)

    def save(self, data: Mapping[str, Any]) -> None:
        busy = []
        for number, (run, make) in enumerate(data.items(), start=1):
            title = f"{self.stage} {run} ({number}/{len(data)})" if run else ""
            try:
                self._save_run(run, make, title, wait=False)
            except LockedError:
                busy.append((run, make, title))
        for arguments in busy:
            self._save_run(*arguments, wait=self.plan.configuration.run.wait)
        self.overwrite = False  # from here on they are fresh
        self.plan.refresh()

    def _save_run(self, run: str, make: Any, title: str, wait: bool) -> None:
        with nullcontext() if self._is_fresh(run) else locked(self.plan.folder(self.stage, run), wait):
            fresh = self._is_fresh(run)  # again: another process may have made it
            if title:
                logger.info("%s%s", title, " is fresh: skipped" if fresh else "")
            if not fresh:
                self.make_run(run, make)

    def _is_fresh(self, run: str) -> bool:
        return not self.overwrite and self.plan.is_fresh(self.stage, run)

    def make_run(self, run: str, make: Any) -> None:
        """Write the artefact of a run atomically."""
        clock, card = Clock.start(), self.plan.card(self.stage, run)
        folder = self.plan.folder(self.stage, run)
        with whole_folder(folder, card, clock, self.keep_partial, self.content) as partial:
            self.write(partial, make, run)
        if self.plan.mirror is not None:
            self.plan.mirror.push(folder)

    def load(self) -> dict[str, Any]:
        """Run → artefact, or its FailedRun where it failed in this process."""
        plan, s = self.plan, self.stage
        return {r: plan.failures.get((s, r)) or self.read(plan.require(s, r)) for r in plan.runs(s)}


def open_dataset(name: str, entry: dict[str, Any]) -> Any:
    """The FolderDataset of a catalog entry, for use without a Kedro session."""
    return AbstractDataset.from_config(name, entry)
