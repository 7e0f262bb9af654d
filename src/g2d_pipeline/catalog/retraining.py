"""What only the pipeline `retrain` reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset

from g2d_pipeline.catalog.manifest import ManifestDataset
from g2d_pipeline.errors import DataError
from g2d_pipeline.stages import Plan

if TYPE_CHECKING:
    from g2d_pipeline.retraining.lineage import Lineage


class LineageDataset(AbstractDataset[NoReturn, Any]):
    """What the artefacts of this run are made from."""

    def __init__(self, plan: Plan, metadata: Any = None) -> None:
        self.plan, self.metadata = plan, metadata

    def _describe(self) -> dict[str, Any]:
        return {}

    def load(self) -> Lineage:
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


class OutcomeDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """`gates.json` or `retrain.json`: how the last retraining ended. Never fresh. `page`: it brings
    `retrain.html`, unless nothing is new."""

    def __init__(self, filepath: str, plan: Plan, page: bool = False, metadata: Any = None) -> None:
        self.path, self.plan, self.page, self.metadata = filepath, plan, page, metadata

    @property
    def filepath(self) -> Path:
        return self.plan.configuration.project / self.path

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.path}

    def _exists(self) -> bool:
        return False

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
