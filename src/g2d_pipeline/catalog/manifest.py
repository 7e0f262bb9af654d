"""The manifest in the catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.sources.manifest import Manifest, read_manifest, write_manifest


class ManifestDataset(FolderDataset):
    """`manifest.parquet` and `manifest.json` of one dataset; validated on write and on read."""

    def write(self, folder: Path, data: Callable[[], Manifest]) -> None:
        write_manifest(data(), folder)

    def read(self, folder: Path) -> Manifest:
        return read_manifest(folder)

    @when_made
    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows, for Kedro-Viz."""
        table = self.load().table.head(nrows)
        return TablePreview(table.astype(str).to_dict(orient="split"))
