"""The manifest and the feature store in the catalog."""

import json
import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
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
    """A store of memory-mapped arrays for each split. Saved: a function that writes one into a folder, given
    the finished ones beside it: what they have is copied. A killed run goes on from its last whole chunk."""

    keep_partial = True

    def is_made(self) -> bool:
        return super().is_made() and all(self._is_sound(run) for run in self.plan.runs(self.stage))

    def _is_fresh(self, run: str) -> bool:
        return super()._is_fresh(run) and self._is_sound(run)

    def _is_sound(self, run: str) -> bool:
        """Whether no file is missing or damaged: what has changed since it was read is read."""
        folder = self.plan.folder(self.stage, run)
        if (folder / LISTING).exists():
            return True  # what comes from elsewhere is compared when it is fetched
        try:
            self.read(folder)
        except DataError as error:
            logger.warning("%s", str(error).partition("\nWhat to do")[0])
            return False
        return True

    def make_run(self, run: str, make: Any) -> None:
        """Write the store; of one that is there, and should be, only its damaged files."""
        if super()._is_fresh(run):
            make(self.plan.folder(self.stage, run), None)
        else:
            super().make_run(run, make)

    def write(self, folder: Path, make: Writer, run: str) -> None:
        runs = list(takewhile(lambda other: other != run, self.plan.runs(self.stage)))
        anew = [self.plan.folder(self.stage, other) for other in reversed(runs)]
        make(folder, anew if self.overwrite else self.plan.others(self.stage, run))

    def content(self, folder: Path) -> str:
        """Of `meta.json`, with the checksums of all files; code and shards are no content."""
        meta = {k: v for k, v in open_store(folder).meta.items() if k not in ("code", "notes")}
        about = meta["modalities"].items()
        modalities = {m: {k: v for k, v in entry.items() if k != "shards"} for m, entry in about}
        return fingerprint(meta | {"modalities": modalities})

    def read(self, folder: Path) -> FeatureStore:
        """Open it; its checksums are compared when its files are first met, or one of them was touched."""
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
    """`store.verify()`, unless `note` says that these very files (size, times, inode) have passed it.

    What changes without a new time (a disk that forgets) is seen by `store.verify()` alone."""
    stats = {file.name: file.stat() for file in sorted(store.path.iterdir())}
    state = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats.items()}
    remembered(note, fingerprint(state), store.verify)
