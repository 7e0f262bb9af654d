"""Kedro's hooks: errors in one line, locks of a node's artefacts, fresh nodes, and the results."""

import logging
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from g2d_pipeline.cards import Clock
from g2d_pipeline.catalog.folder import FolderDataset
from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.catalog.reports import StageFile
from g2d_pipeline.catalog.trained import TrainedSetDataset
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError, DataError, G2DError, RefusedData, TrainingError, mistake_under
from g2d_pipeline.files import locked, relative
from g2d_pipeline.overrides import as_params
from g2d_pipeline.resolve import check_encoders, check_kinds, check_methods
from g2d_pipeline.sources import ensure_sample
from g2d_pipeline.stages import STAGES

if TYPE_CHECKING:
    from g2d_pipeline.jobs import Jobs

logger = logging.getLogger(__name__)
SHRUNK = " The recipe is shrunk by the dataset's sample section (fewer and smaller samples, fewer epochs)."


class Mistake(click.ClickException):
    """A user's mistake: any Kedro command shows its message, no traceback, and exits with its status."""

    def __init__(self, error: G2DError) -> None:
        super().__init__(str(error))
        self.error = error
        self.exit_code = error.exit_status  # type: ignore[misc]


class ProjectHooks:
    """One instance a process; a run's state is set when its context is created."""

    def __init__(self) -> None:
        self.configuration: Configuration | None = None
        self.project = Path()
        self.locks: dict[str, ExitStack] = {}  # by node; "retrain": of a retraining
        self.node = ""  # the running one
        self.loader: ProjectConfigLoader | None = None
        self.jobs: Jobs | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Resolve the configuration now, so that mistakes end the run before anything is done."""
        loader = context.config_loader
        if not isinstance(loader, ProjectConfigLoader):
            raise ConfigError(f"settings.py must use ProjectConfigLoader, not {type(loader).__name__}")
        loader.project = self.project = Path(context.project_path)
        self.loader = loader
        try:
            self.configuration = loader.configuration
            if self.configuration.source == "sample":
                ensure_sample(self.configuration.dataset.raw, self.configuration.root)
        except G2DError as error:
            if (loader.runtime_params or {}).get("debug"):
                raise
            raise Mistake(error) from None

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Say what will be done; where there is work, check its inputs and the methods."""
        c = self.configuration
        if c is None or self.loader is None:
            return
        if "gates" in pipeline.all_outputs():
            self._begin_retraining(c, catalog)
        missing = {n.name: n for n in pipeline.nodes if not all(catalog.exists(o) for o in n.outputs)}
        fresh = [n.name for n in pipeline.nodes if n.name not in missing]
        if run_params.get("only_missing_outputs") and fresh:
            logger.info("Fresh, skipped: %s", ", ".join(fresh))
        for d in map(catalog.get, pipeline.all_outputs()):
            if isinstance(d, FolderDataset | StageFile):
                d.plan.share(d.stage)
        if not missing:
            return
        if (mirror := self.loader.plan.mirror) is not None:
            mirror.check()
        from g2d_pipeline.jobs import Jobs

        self.jobs = Jobs(self.loader)
        self.jobs.check()
        if c.run.compute.num_nodes > 1:
            self._meet(c)
        _check_inputs(list(missing.values()), pipeline, catalog, run_params)
        check_kinds(c)
        if "train_students" in missing:
            check_methods(c)
        elif "train_teachers" in missing:
            check_encoders(c)
        self._announce(c)

    def _meet(self, c: Configuration) -> None:
        """Wait for the other machines; on one of those take part in the first one's trainings, and end."""
        from g2d_pipeline.training.fitting import take_part
        from g2d_pipeline.training.launch import NODES
        from g2d_pipeline.training.nodes import Nodes

        nodes = Nodes(c.run.compute)
        if nodes.rank > 0:
            logger.info("machine %d of %d: takes part in trainings", nodes.rank, nodes.count)
            take_part(nodes)
            sys.exit(0)
        NODES[:] = [nodes]

    def _begin_retraining(self, c: Configuration, catalog: Any) -> None:
        """One retraining of a data set at a time, on its fixed evaluation set."""
        from g2d_pipeline.retraining.steps import restore_evaluation_set

        c.check_retrain()
        lock = self.locks["retrain"] = ExitStack()
        lock.enter_context(locked(catalog.get("retrain").filepath, c.run.wait))
        try:
            restore_evaluation_set(c.retrain())
        except DataError as error:  # of the registry: no fault of the raw data
            raise G2DError(str(error)) from error

    @hook_impl
    def before_node_run(self, node: Node, catalog: Any) -> None:
        """Lock a node's artefact, and start the clock of its stage card. (Trained models are locked one by
        one, before each is trained.)"""
        self.node = node.name
        for d in map(catalog.get, node.outputs):
            if isinstance(d, TrainedSetDataset) and self.jobs:
                d.side_by_side = self.jobs
            if not hasattr(d, "clock"):
                continue
            if node.name not in self.locks:
                lock = self.locks[node.name] = ExitStack()
                lock.enter_context(locked(d.plan.folder(d.stage), d.plan.configuration.run.wait))
            d.clock = Clock.start()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Release the lock of the artefact, once it is whole."""
        if dataset_name == node.outputs[-1] and node.name in self.locks:
            self.locks.pop(node.name).close()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: Any) -> None:
        """Show the data report, the result table where the run goes as far as `evaluate`, and the outcome of
        a retraining."""
        self._end_jobs()
        outputs = pipeline.all_outputs()
        if all(name in outputs and catalog.exists(name) for name in ("data_page", "data_report")):
            self._show_data_report("report" in outputs, catalog)
        if "report" in outputs and catalog.exists("report") and catalog.exists("result_table"):
            report = relative(catalog.get("report").filepath, self.project)
            click.echo(f"\n{catalog.load('result_table').rstrip()}\n\nReport: {report}")
        if "gates" not in outputs:
            self._fail_for_runs(pipeline, catalog)
        elif "retrain" in outputs:
            made, promoted = catalog.load("retrain"), "version {version} is promoted ({reason})"
            text = promoted if made["outcome"] == "promoted" else "version {champion} is kept ({reason})"
            file = relative(catalog.get("retrain").filepath.with_suffix(".html"), self.project)
            click.echo(f"\nRetrained: {text.format_map(made)}\nDetails: {file}")
        self._release()

    def _fail_for_runs(self, pipeline: Pipeline, catalog: Any) -> None:
        """Raise TrainingError where the training of a run failed: everything else is made by now."""
        sets = [catalog.get(name) for name in ("teachers", "students") if name in pipeline.all_outputs()]
        if sets and (failures := sets[0].plan.failures):
            total = sum(len(d.plan.runs(d.stage)) for d in sets)
            names = ", ".join(f"{stage} {run}" for stage, run in failures)
            raise TrainingError(
                f"{len(failures)} of {total} runs failed: {names}. The others are whole; the same command "
                "tries the failed ones again. The log above has reasons and remedies."
            )

    @hook_impl
    def on_pipeline_error(self, error: Exception, pipeline: Pipeline, catalog: Any) -> None:
        """Release the locks, end the processes; say in `retrain.json` how a retraining ended."""
        self._end_jobs()
        if "retrain" in self.locks:
            cause: BaseException = mistake_under(error) or error
            if isinstance(cause, DataError):  # raw data that can not be read are refused as by a gate
                reads_raw = self.node in ("ingest_raw", "featurize_modalities")
                cause = (RefusedData if reads_raw else G2DError)(str(cause))
            outcome = "refused" if isinstance(cause, RefusedData) else "failed"
            about = {"dataset": self.configuration and self.configuration.run.dataset, "outcome": outcome}
            with suppress(OSError):  # a full disk: the exit status says it, too
                catalog.save("retrain", about | {"reason": str(cause) or type(cause).__name__})
            self._release()
            raise cause from error
        self._release()

    def _release(self) -> None:
        while self.locks:
            self.locks.popitem()[1].close()

    def _end_jobs(self) -> None:
        if self.jobs:
            self.jobs.close()
        if "g2d_pipeline.training.launch" in sys.modules:
            from g2d_pipeline.training.launch import NODES

            while NODES:
                NODES.pop().end()

    def _announce(self, c: Configuration) -> None:
        seeds = "/".join(map(str, c.run.seeds))
        if len(splits := c.ingest().runs) > 1:
            seeds += f", {len(splits)} splits"
        data = f"{c.source} data in {relative(c.root, self.project)}"
        logger.info("dataset %s, method %s, seeds %s: %s", c.run.dataset, c.run.method, seeds, data)
        if c.source == "sample":
            bundled = c.dataset.raw.layout == "av_digits"
            why = "the bundled sample is used" if bundled else "source=sample asks for the simulated sample"
            if not bundled and c.run.source != "sample":
                absent = f"there are no raw data in {c.dataset.raw.raw_dir}"
                why = f"{absent}, so a simulated sample stands in for them"
            marked = "Every table, figure and artefact made from it is marked SAMPLE."
            logger.warning("SAMPLE: %s. %s%s", why, marked, SHRUNK if c.shrunk else "")
        if c.run.code == "ignore":
            logger.warning(
                "code=ignore: artefacts that other versions of the code made are used, and marked so."
            )
        for note in c.notes:
            logger.info(note)
        if (compute := c.run.compute).together > 1:
            note = "models that another number of devices has trained stay fresh"
            logger.info("compute.devices = %s on %d machines: %s", compute.devices, compute.num_nodes, note)

    def _show_data_report(self, whole: bool, catalog: Any) -> None:
        """Show the data report's path and grave warnings; after a whole run, only where it has warnings."""
        report = catalog.load("data_report")
        if report["warnings"] or not whole:
            page, summary = relative(catalog.get("data_page").filepath, self.project), report["summary"]
            click.echo(f"\nData: {page}{f' ({summary})' if summary else ''}")
            for warning in report["warnings"]:
                if warning["grave"]:
                    click.echo(f"  {warning['text']}")


def _check_inputs(nodes: list[Node], pipeline: Pipeline, catalog: Any, run_params: dict[str, Any]) -> None:
    """Raise ConfigError where a node that will run needs an input that is not made, and not in this run."""
    for node in nodes:
        inputs = {name: catalog.get(name) for name in node.inputs if name not in pipeline.all_outputs()}
        lacking = {n: d.stage for n, d in inputs.items() if hasattr(d, "is_made") and not d.is_made()}
        if lacking:
            last = max(lacking.values(), key=STAGES.index).replace("data_report", "featurize")
            typed = {k: v for k, v in run_params["runtime_params"].items() if k not in ("input", "model")}
            options = {"--pipeline": last, "--env": run_params["env"], "--params": as_params(typed)}
            command = " ".join(f"{option} {value}" for option, value in options.items() if value)
            raise ConfigError(
                f"{node.name} needs {', '.join(lacking)}, not made yet with these parameters. Make it first: "
                f"kedro run {command} (or leave --nodes and the like out: then what is missing is made)."
            )
