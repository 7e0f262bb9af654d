"""The feature store in the catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import JSONPreview

from g2d_pipeline.catalog.folder import FolderDataset
from g2d_pipeline.features.store import FeatureStore, open_store


class FeatureStoreDataset(FolderDataset):
    """A memory-mapped array per modality. What is saved is a function that writes the store into a folder: a killed
    run goes on from its last whole chunk."""

    keep_partial = True

    def write(self, folder: Path, data: Callable[[Path], None]) -> None:
        data(folder)

    def read(self, folder: Path) -> FeatureStore:
        return open_store(folder)

    def preview(self) -> JSONPreview:
        """Shapes, dtypes and normalisers, for Kedro-Viz."""
        import json

        return JSONPreview(json.dumps(self.load().meta["modalities"], indent=2))
