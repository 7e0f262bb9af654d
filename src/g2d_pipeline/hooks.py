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
SHRUNK = " The recipe is shrunk by the dataset's sample section (fewer and smaller samples, fewer epochs)."


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
        if "students" in pipeline.all_outputs() and not catalog.exists("students"):
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
        self._show_data_report(pipeline, catalog)
        if "report" in pipeline.all_outputs() and catalog.exists("report") and catalog.exists("result_table"):
            report = _relative(catalog.get("report").filepath, self.project)
            click.echo(f"\n{catalog.load('result_table').rstrip()}\n\nReport: {report}")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Release the lock."""
        self._release()

    def _announce(self, c: Configuration) -> None:
        seeds = "/".join(map(str, c.run.seeds))
        if len(splits := c.ingest().runs) > 1:
            seeds += f", {len(splits)} splits"
        root = _relative(c.root, self.project)
        logger.info(
            "dataset %s, method %s, seeds %s: %s data in %s",
            c.run.dataset,
            c.run.method,
            seeds,
            c.source,
            root,
        )
        if c.source == "sample":
            bundled = c.dataset.raw.layout == "av_digits"
            why = "the bundled sample is used" if bundled else "source=sample asks for the simulated sample"
            if not bundled and c.run.source != "sample":
                absent = f"there are no raw data in {c.dataset.raw.raw_dir}"
                why = f"{absent}, so a simulated sample stands in for them"
            logger.warning(
                "SAMPLE: %s. Every table, figure and artefact made from it is marked SAMPLE.%s",
                why,
                SHRUNK if c.shrunk else "",
            )
        if c.run.code == "ignore":
            logger.warning(
                "code=ignore: artefacts that other versions of the code made are used, and marked so."
            )
        for note in c.notes:
            logger.info(note)

    def _show_data_report(self, pipeline: Pipeline, catalog: Any) -> None:
        """Where the data report is and its warnings; at the end of a whole run, only where there are any."""
        entries = ("data_page", "data_report")
        if not all(entry in pipeline.all_outputs() and catalog.exists(entry) for entry in entries):
            return
        warnings = catalog.load("data_report")["summary"]
        if warnings or "report" not in pipeline.all_outputs():
            page = _relative(catalog.get("data_page").filepath, self.project)
            click.echo(f"\nData: {page}{f' ({warnings})' if warnings else ''}")

    def _lock(self, data: Path) -> None:
        """One run at a time on a data folder. Raises LockedError, or DataError where it cannot be written."""
        where = _relative(data, self.project)
        try:
            data.mkdir(exist_ok=True)
            self.lock = FileLock(data / ".lock")
            self.lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"Another run is at work in {where}. Wait for it to end, or run in a copy of the "
                "project. (The lock goes with the process: it needs no clean-up.)"
            ) from None
        except OSError as error:
            raise DataError(f"The data folder {where} cannot be written: {error}") from error

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def _relative(path: Path, project: Path) -> Path:
    return path.relative_to(project) if path.is_relative_to(project) else path
