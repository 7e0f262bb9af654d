"""The model that predicts, and its predictions, in the catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset

from g2d_pipeline.errors import DataError
from g2d_pipeline.files import fingerprint, relative
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    from g2d_pipeline.serving import Predictor

logger = logging.getLogger(__name__)


def model_folder(plan: Plan) -> Path:
    """Where the model lies that `--params model=…` names. Raises DataError where there is no such version."""
    s = plan.configuration.predict()
    if s.version is not None:
        from g2d_pipeline.registry.store import Registry

        return Registry(s.registry, Path(s.options.project)).require(s.dataset, s.version).folder()
    return s.folder or plan.folder(s.stage, s.run)


class ModelDataset(AbstractDataset[NoReturn, Any]):
    """The model that `--params model=…` names: a run of this configuration, which has to be fresh, a
    registered version, or any folder of a model. It is never made here."""

    def __init__(self, plan: Plan, metadata: Any = None) -> None:
        self.plan, self.metadata = plan, metadata
        self.settings = plan.configuration.predict()

    @property
    def stage(self) -> str:
        return self.settings.stage

    def _describe(self) -> dict[str, Any]:
        return {"run": self.settings.run}

    def is_made(self) -> bool:
        """Whether it is there and fresh; a folder is looked at when it is loaded."""
        s = self.settings
        return not s.run or s.folder is not None or self.plan.is_fresh(s.stage, s.run)

    _exists = is_made

    def load(self) -> Predictor:
        from g2d_pipeline.serving import load_model

        s = self.settings
        folder = self.plan.require(s.stage, s.run) if s.run else model_folder(self.plan)
        return load_model(folder, device=s.options.device)

    def save(self, data: NoReturn) -> None:
        raise DataError("a model is made by the pipelines teachers and distill")


class PredictionsDataset(AbstractDataset[Callable[[Path], int], Any]):
    """`predictions.parquet` of a model and an input. Saved is a function that writes the file, and goes on
    from what a killed run left of it; so it is called each time."""

    def __init__(self, path: str, plan: Plan, metadata: Any = None) -> None:
        self.path, self.plan, self.metadata = path, plan, metadata

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

    def _describe(self) -> dict[str, Any]:
        return {"path": self.path}

    def _exists(self) -> bool:
        return False

    def save(self, data: Callable[[Path], int]) -> None:
        file = self.filepath
        count, shown = data(file), relative(file, self.plan.configuration.project)
        logger.info("%d predictions: %s", count, shown)

    def load(self) -> Any:
        import pandas as pd

        return pd.read_parquet(self.filepath)
