"""What the pipelines predict and retrain read and write beside the stages: a model, predictions, outcomes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset

from g2d_pipeline.catalog.features import ManifestDataset
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import fingerprint, relative
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    from g2d_pipeline.retraining.lineage import Lineage
    from g2d_pipeline.serving import Predictor

logger = logging.getLogger(__name__)


class PlanDataset(AbstractDataset[Any, Any]):
    """What is found by the plan, and is never fresh. `filepath`: relative to the project."""

    def __init__(self, plan: Plan, filepath: str = "", page: bool = False, metadata: Any = None) -> None:
        self.plan, self.path, self.page, self.metadata = plan, filepath, page, metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.path}

    def _exists(self) -> bool:
        return False


class LineageDataset(PlanDataset):
    """What the artefacts of this run are made from."""

    def load(self) -> "Lineage":
        from g2d_pipeline.retraining.lineage import Lineage

        return Lineage(self.plan)

    def save(self, data: NoReturn) -> None:
        raise DataError("the lineage is read from the stage cards")


class AdmittedManifestDataset(ManifestDataset):
    """The manifest that has passed the gates; which is asked each time."""

    def _exists(self) -> bool:
        return False

    def save(self, data: Any) -> None:
        """Nothing: it lies where the manifest lies."""


class OutcomeDataset(PlanDataset):
    """`gates.json` or `retrain.json`: how the last retraining ended. `page`: it brings `retrain.html`, unless
    nothing is new."""

    @property
    def filepath(self) -> Path:
        return self.plan.configuration.project / self.path

    def load(self) -> dict[str, Any]:
        from g2d_pipeline.retraining.outcome import read_outcome

        return read_outcome(self.filepath)

    def save(self, data: dict[str, Any]) -> None:
        from g2d_pipeline.retraining.outcome import write_outcome

        write_outcome(self.filepath, data)
        if self.page and "decided" not in data:
            from g2d_pipeline.retraining.outcome import write_page

            c = self.plan.configuration
            write_page(c.project, c.run.dataset)


def model_folder(plan: Plan) -> Path:
    """Where the model lies that `--params model=…` names. Raises DataError where there is no such version."""
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
        """Whether it is there and fresh; a folder is looked at when it is loaded."""
        s = self.plan.configuration.predict()
        return not s.run or s.folder is not None or self.plan.is_fresh(s.stage, s.run)

    _exists = is_made

    def load(self) -> "Predictor":
        from g2d_pipeline.serving import load_model

        s = self.plan.configuration.predict()
        folder = self.plan.require(s.stage, s.run) if s.run else model_folder(self.plan)
        return load_model(folder, device=s.options.device)

    def save(self, data: NoReturn) -> None:
        raise DataError("a model is made by the pipelines teachers and distill")


class PredictionsDataset(PlanDataset):
    """`predictions.parquet` of a model and an input. Saved is a function that writes the file, and goes on
    from what a killed run left of it; so it is called each time."""

    @property
    def filepath(self) -> Path:
        """Where the predictions lie: a folder a model, in it one an input."""
        s = self.plan.configuration.predict()
        project = Path(s.options.project)
        where = model_folder(self.plan)
        source = project / Path(s.input or "").expanduser()
        name = f"{source.stem}-{fingerprint(str(source.resolve()))[:6]}"
        model = f"{s.run or s.version or 'model'}-{fingerprint(str(where.resolve()))[:6]}".replace("/", "-")
        return project / self.path / model / name / "predictions.parquet"

    def save(self, data: Callable[[Path], int]) -> None:
        file = self.filepath
        count, path = data(file), relative(file, self.plan.configuration.project)
        logger.info("%d predictions: %s", count, path)

    def load(self) -> Any:
        import pandas as pd

        return pd.read_parquet(self.filepath)
