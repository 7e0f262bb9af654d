"""The manifest in the catalog."""

from collections.abc import Callable
from pathlib import Path

from kedro_datasets._typing import TablePreview

from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.sources.manifest import Manifest, read_manifest, write_manifest


class ManifestDataset(FolderDataset):
    """`manifest.parquet` and `manifest.json` of each split; validated on write and on read."""

    def write(self, folder: Path, make: Callable[[], Manifest], run: str) -> None:
        write_manifest(make(), folder)

    def read(self, folder: Path) -> Manifest:
        return read_manifest(folder)

    @when_made
    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows of the first, for Kedro-Viz."""
        table = next(iter(self.load().values())).table.head(nrows)
        return TablePreview(table.astype(str).to_dict(orient="split"))
