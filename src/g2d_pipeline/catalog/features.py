"""The feature store in the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kedro_datasets._typing import JSONPreview

from g2d_pipeline.catalog.folder import FolderDataset
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.stages import CARD, read_card


class FeatureStoreDataset(FolderDataset):
    """A memory-mapped array per modality. What is saved is a function that writes the store into a folder, given the
    finished stores beside it: what they have is copied. A killed run goes on from its last whole chunk."""

    keep_partial = True

    def write(self, folder: Path, data: Callable[[Path, Sequence[Path]], None]) -> None:
        data(folder, [] if self.overwrite else self.earlier())

    def earlier(self) -> list[Path]:
        """The finished stores of this dataset, the newest first; not this one's, which is of no use if it is there."""
        folders = [f for f in self.path.parent.glob("features-*") if f != self.path and read_card(f) is not None]
        whole = [f for f in folders if f.suffix not in (".partial", ".old")]
        return sorted(whole, key=lambda f: (-(f / CARD).stat().st_mtime_ns, f.name))

    def read(self, folder: Path) -> FeatureStore:
        return open_store(folder)

    def preview(self) -> JSONPreview:
        """Shapes, dtypes and normalisers, for Kedro-Viz."""
        import json

        return JSONPreview(json.dumps(self.load().meta["modalities"], indent=2))
