"""The feature store in the catalog."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from kedro_datasets._typing import JSONPreview

from g2d_pipeline.catalog.folder import FolderDataset, when_made
from g2d_pipeline.features.store import FeatureStore, open_store
from g2d_pipeline.files import atomic_write, fingerprint

logger = logging.getLogger(__name__)


class FeatureStoreDataset(FolderDataset):
    """A store of memory-mapped arrays for each split. Saved: a function that writes one into a folder, given
    the finished ones beside it: what they have is copied. A killed run goes on from its last whole chunk."""

    keep_partial = True

    def write(self, folder: Path, make: Callable[[Path, Sequence[Path]], None], run: str) -> None:
        runs = list(takewhile(lambda other: other != run, self.plan.runs(self.stage)))
        anew = [self.plan.folder(self.stage, other) for other in reversed(runs)]
        make(folder, anew if self.overwrite else self.plan.others(self.stage, run))

    def content(self, folder: Path) -> str:
        """`meta.json` holds the checksums of all files; by which code they were made is no content."""
        return fingerprint({k: v for k, v in open_store(folder).meta.items() if k not in ("code", "notes")})

    def read(self, folder: Path) -> FeatureStore:
        """Open it; its checksums are compared when its files are first met, or one of them was touched."""
        store = open_store(folder)
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
    state = {name: [of.st_size, of.st_mtime_ns, of.st_ctime_ns, of.st_ino] for name, of in stats.items()}
    with contextlib.suppress(OSError, ValueError):  # no note yet, or one that was cut off: read again
        if json.loads(note.read_bytes()) == state:
            return
    store.verify()
    try:
        with atomic_write(note) as path:
            path.write_text(json.dumps(state), encoding="utf-8")
    except OSError as error:
        words = "%s can not be written (%s): the store is read whole again next time."
        logger.warning(words, note, error.strerror)
