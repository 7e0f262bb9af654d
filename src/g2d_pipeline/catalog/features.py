"""The manifest and the feature store in the catalog."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview, TablePreview

from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.errors import DataError
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.files import fingerprint
from g2d_pipeline.remote import LISTING
from g2d_pipeline.sources.hashing import remembered
from g2d_pipeline.sources.manifest import Manifest, read_manifest, write_manifest

logger = logging.getLogger(__name__)

Writer = Callable[[Path, Sequence[Path] | None], None]  # see `pipelines.featurize`


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


class FeatureStoreDataset(FolderDataset):
    """A store of memory-mapped arrays per split. What is saved is a function of (folder, finished stores)
    that writes one, and copies what the others have. A killed run resumes from its last whole chunk."""

    keep_partial = True

    def is_made(self) -> bool:
        return super().is_made() and all(self._is_sound(run) for run in self.plan.runs(self.stage))

    def _is_fresh(self, run: str) -> bool:
        return super()._is_fresh(run) and self._is_sound(run)

    def _is_sound(self, run: str) -> bool:
        """Whether no file is missing or damaged. Files that changed since they were read are read again."""
        folder = self.plan.folder(self.stage, run)
        if (folder / LISTING).exists():
            return True  # remote files are compared when they are fetched
        try:
            self.read(folder)
        except DataError as error:
            logger.warning("%s", str(error).partition("\nWhat to do")[0])
            return False
        return True

    def make_run(self, run: str, make: Any) -> None:
        """Write the store, or only the damaged files of a finished one."""
        if super()._is_fresh(run):
            make(self.plan.folder(self.stage, run), None)
        else:
            super().make_run(run, make)

    def write(self, folder: Path, make: Writer, run: str) -> None:
        runs = self.plan.runs(self.stage)
        rebuilt = [self.plan.folder(self.stage, other) for other in reversed(runs[: runs.index(run)])]
        make(folder, rebuilt if self.overwrite else self.plan.others(self.stage, run))

    def content(self, folder: Path) -> str:
        """The hash of `meta.json`, with the checksums of all files, but without code, notes and shards."""
        meta = {k: v for k, v in open_store(folder).meta.items() if k not in ("code", "notes")}
        entries = meta["modalities"].items()
        modalities = {m: {k: v for k, v in entry.items() if k != "shards"} for m, entry in entries}
        return fingerprint(meta | {"modalities": modalities})

    def read(self, folder: Path) -> FeatureStore:
        """Open it; checksums are compared the first time, and when a file was touched."""
        store = open_store(folder)
        if not (folder / LISTING).exists():
            verify_once(store, folder.with_name(f"{folder.name}.verified.json"))
        return store

    @when_made
    def preview(self) -> JSONPreview:
        """Shapes, dtypes and normalisers of the first, for Kedro-Viz."""
        first = self.plan.require(self.stage, self.plan.runs(self.stage)[0])
        return JSONPreview(json.dumps(open_store(first).meta["modalities"], indent=2))


def verify_once(store: FeatureStore, note: Path) -> None:
    """`store.verify()`, unless by `note` files of the same sizes, times and inodes have passed it. (Changes
    without a new time, by a damaged disk, are only found by `store.verify()`.)"""
    stats = {file.name: file.stat() for file in sorted(store.path.iterdir())}
    state = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats.items()}
    remembered(note, fingerprint(state), store.verify)
