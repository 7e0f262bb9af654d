"""Data sets of the pipelines predict and retrain beside the stages: a model, predictions, outcomes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from g2d_pipeline.catalog.features import ManifestDataset
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import fingerprint, relative
from g2d_pipeline.retraining.lineage import Lineage
from g2d_pipeline.retraining.outcome import read_outcome, write_outcome, write_page
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    from g2d_pipeline.serving import Predictor

logger = logging.getLogger(__name__)


class PlanDataset(AbstractDataset[Any, Any]):
    """A data set that is located by the plan and never fresh. `filepath`: relative to the project; `page`:
    see `OutcomeDataset`."""

    def __init__(self, plan: Plan, filepath: str = "", page: bool = False, metadata: Any = None) -> None:
        self.plan, self.path, self.page, self.metadata = plan, filepath, page, metadata

    def save(self, data: Any) -> None:
        raise DataError(f"{type(self).__name__} is only read: the pipelines make what it holds")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.path}

    def _exists(self) -> bool:
        return False


class LineageDataset(PlanDataset):
    """The lineage of this run's artefacts, from their stage cards."""

    def load(self) -> Lineage:
        return Lineage(self.plan)


class AdmittedManifestDataset(ManifestDataset):
    """The manifest that has passed the gates, which are checked in each run."""

    def _exists(self) -> bool:
        return False

    def save(self, data: Any) -> None:
        """Do nothing: it is the file of the manifest."""


class OutcomeDataset(PlanDataset):
    """`gates.json` or `retrain.json`: how the last retraining ended. `page`: also write `retrain.html`,
    unless nothing is new."""

    @property
    def filepath(self) -> Path:
        return self.plan.configuration.project / self.path

    def load(self) -> dict[str, Any]:
        return read_outcome(self.filepath)

    def save(self, data: dict[str, Any]) -> None:
        write_outcome(self.filepath, data)
        if self.page and "decided" not in data:
            c = self.plan.configuration
            write_page(c.project, c.run.dataset)


def model_folder(plan: Plan) -> Path:
    """The folder of the model that `--params model=…` names. Raises DataError for an unknown version."""
    s = plan.configuration.predict()
    if s.version is not None:
        from g2d_pipeline.registry.store import Registry

        return Registry(s.registry, Path(s.options.project)).require(s.dataset, s.version).folder()
    return s.folder or plan.folder(s.stage, s.run)


class ModelDataset(PlanDataset):
    """The model that `--params model=…` names: a run of this configuration, which has to be fresh, a
    registered version, or any folder of a model. It is never made here."""

    @property
    def stage(self) -> str:
        return self.plan.configuration.predict().stage

    def is_made(self) -> bool:
        """Whether it is there and fresh; a folder is checked when it is loaded."""
        s = self.plan.configuration.predict()
        return not s.run or s.folder is not None or self.plan.is_fresh(s.stage, s.run)

    _exists = is_made

    def load(self) -> "Predictor":
        from g2d_pipeline.serving import load_model

        s = self.plan.configuration.predict()
        folder = self.plan.require(s.stage, s.run) if s.run else model_folder(self.plan)
        return load_model(folder, device=s.options.device)


class PredictionsDataset(PlanDataset):
    """`predictions.parquet` of a model and an input. What is saved is a function that writes the file, called
    each time: it resumes what a killed run left."""

    @property
    def filepath(self) -> Path:
        """The file, in a folder of the model and the input."""
        s = self.plan.configuration.predict()
        project = Path(s.options.project)
        folder, source = model_folder(self.plan), project / Path(s.input or "").expanduser()
        name = f"{source.stem}-{fingerprint(str(source.resolve()))[:6]}"
        model = f"{s.run or s.version or 'model'}-{fingerprint(str(folder.resolve()))[:6]}".replace("/", "-")
        return project / self.path / model / name / "predictions.parquet"

    def save(self, data: Callable[[Path], int]) -> None:
        file = self.filepath
        logger.info("%d predictions: %s", data(file), relative(file, self.plan.configuration.project))

    def load(self) -> Any:
        import pandas as pd

        return pd.read_parquet(self.filepath)
