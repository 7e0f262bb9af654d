"""Around a Kedro run: mistakes in one line, one run at a time, what is fresh is said, results are shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.errors import ConfigError, DataError, G2DError, LockedError
from g2d_pipeline.resolve import Configuration, check_methods
from g2d_pipeline.sources import ensure_sample

logger = logging.getLogger(__name__)


class Mistake(click.ClickException):
    """A user's mistake: any Kedro command shows it as one message and exits with its status, without a
    traceback."""

    def __init__(self, error: G2DError) -> None:
        super().__init__(str(error))
        self.status = error.exit_status

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.status


class ProjectHooks:
    """One instance a process; a run's state is set when its context is created."""

    def __init__(self) -> None:
        self.configuration: Configuration | None = None
        self.project = Path()
        self.lock: FileLock | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Resolve the configuration now, so that mistakes end the run before anything is done."""
        loader = context.config_loader
        if not isinstance(loader, ProjectConfigLoader):
            raise ConfigError(f"settings.py must use ProjectConfigLoader, not {type(loader).__name__}")
        loader.project = self.project = Path(context.project_path)
        debug = bool((loader.runtime_params or {}).get("debug"))
        try:
            self.configuration = loader.configuration
            if self.configuration.source == "sample":
                ensure_sample(self.configuration.dataset.raw, self.configuration.root)
        except G2DError as error:
            if debug:
                raise
            raise Mistake(error) from None

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Say what will be done; where there is work: check the methods and the data folder, and lock it."""
        c = self.configuration
        if c is None:
            return
        missing = [n.name for n in pipeline.nodes if not all(catalog.exists(o) for o in n.outputs)]
        fresh = [n.name for n in pipeline.nodes if n.name not in missing]
        if run_params.get("only_missing_outputs") and fresh:
            logger.info("Fresh, skipped: %s", ", ".join(fresh))
        if not catalog.exists("students"):
            check_methods(c)
        if not missing:
            return
        self._announce(c)
        self._lock(self.project / "data")

    @hook_impl
    def before_node_run(self, node: Node, catalog: Any) -> None:
        """The clock of a stage card starts when its node starts."""
        for name in node.outputs:
            start = getattr(catalog.get(name), "start_clock", None)
            if start is not None:
                start()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: Any) -> None:
        """Release the lock; show the result table where the run goes as far as `evaluate`."""
        self._release()
        self._tell_of_data(pipeline, catalog)
        if "report" in pipeline.all_outputs() and catalog.exists("report") and catalog.exists("result_table"):
            report = Path(catalog.get("report").filepath)
            shown = report.relative_to(self.project) if report.is_relative_to(self.project) else report
            click.echo(f"\n{catalog.load('result_table').rstrip()}\n\nReport: {shown}")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Release the lock."""
        self._release()

    def _announce(self, c: Configuration) -> None:
        what = f"dataset {c.run.dataset}, method {c.run.method}, seeds {'/'.join(map(str, c.run.seeds))}"
        logger.info("%s: %s data in %s", what, c.source, _relative(c.root, self.project))
        if c.source == "sample":
            logger.warning(
                "SAMPLE: %s. Every table, figure and artefact made from it is marked SAMPLE.%s",
                "the bundled sample is used" if c.dataset.raw.layout == "av_digits" else
                f"there are no raw data in {c.dataset.raw.raw_dir}, so a simulated sample stands in for them",
                " The recipe is shrunk by the dataset's sample section (fewer and smaller samples, fewer epochs)."
                if c.shrunk else "",
            )  # fmt: skip
        for note in c.notes:
            logger.info(note)

    def _tell_of_data(self, pipeline: Pipeline, catalog: Any) -> None:
        """Where the data report is and what it warns of; at the end of a whole run, only where it does."""
        made = (
            "data_page" in pipeline.all_outputs()
            and catalog.exists("data_page")
            and catalog.exists("data_report")
        )
        if not made:
            return
        warnings = catalog.load("data_report")["summary"]
        if warnings or "report" not in pipeline.all_outputs():
            page = _relative(Path(catalog.get("data_page").filepath), self.project)
            click.echo(f"\nData: {page}{f' ({warnings})' if warnings else ''}")

    def _lock(self, data: Path) -> None:
        """One run at a time on a data folder. Raises LockedError, or DataError where the folder cannot be
        written."""
        try:
            data.mkdir(exist_ok=True)
            lock = FileLock(data / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"Another run is at work in {_relative(data, self.project)}. Wait for it to end, or run in a copy of "
                "the project. (The lock goes with the process: it needs no clean-up.)"
            ) from None
        except OSError as error:
            raise DataError(
                f"The data folder {_relative(data, self.project)} cannot be written: {error}"
            ) from error
        self.lock = lock

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def _relative(path: Path, project: Path) -> Path:
    return path.relative_to(project) if path.is_relative_to(project) else path
