"""What an earlier store has already: cells of the same name and content are copied from it.

Only where decoding costs more than reading (`Kind.reusable`): recordings, clips, images stored as bytes."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.files import META, mapped
from g2d_pipeline.features.kinds import ArraySpec
from g2d_pipeline.features.store import open_store
from g2d_pipeline.files import atomic_write

logger = logging.getLogger(__name__)

# What is kept of a cell: its key; the counts of its notes (of each kind that is `reusable`); the largest
# rounding error of its stored numbers, and the sum of their squares (0 where nothing is rounded).
NOTES = ("constant", "narrow")
RECORD = np.dtype([("key", "S32"), *((n, "<u4") for n in NOTES), ("worst", "<f8"), ("squares", "<f8")])
# The same in a store, sorted by key, with a row of the array that holds the cell.
CELL = np.dtype([*RECORD.descr, ("row", "<i8")])


@dataclass(frozen=True)
class ReusableStore:
    """A modality of an earlier store: its array, and the cells in it."""

    array: Path
    cells: Path

    def find(self, key: bytes) -> np.void | None:
        """The `CELL` of a key; None: there is none."""
        keys, cells = _cells(self.cells, self.cells.stat().st_mtime_ns)
        place = int(np.searchsorted(keys, key)) if key else len(keys)
        return cells[place] if place < len(keys) and keys[place] == key else None


@lru_cache(maxsize=8)
def _cells(path: Path, mtime_ns: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[Any]]:
    """The sorted keys of a store's cells, and the cells; the time is there for files that change."""
    cells = mapped(path)
    return np.ascontiguousarray(cells["key"]), cells


def find_known(
    previous: Sequence[Path], name: str, settings: dict[str, Any], code: str, spec: ArraySpec
) -> ReusableStore | None:
    """The first of the stores `previous` whose modality `name` was made with the same settings and code.

    A store that is broken, or whose files are not what they were, is passed over with a warning."""
    expected = {"settings": settings, "dtype": spec.dtype, "shape": list(spec.shape)}
    for folder in previous:
        try:
            if json.loads((folder / META).read_bytes()).get("code") != code:
                continue
            store = open_store(folder)
            about = store.meta["modalities"].get(name, {})
            if "cells" not in about or any(about.get(key) != value for key, value in expected.items()):
                continue
            store.verify(name)
        except (DataError, OSError, ValueError, AttributeError) as error:
            logger.warning("%s: nothing is taken from the earlier store %s: %s", name, folder, error)
            continue
        return ReusableStore(folder / about["file"], folder / about["cells"]["file"])
    return None


def write_cells(path: Path, records: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> None:
    """Write the `RECORD`s that have a key, of cells that lie in `rows` of the stored array, sorted by key."""
    cells = np.zeros(len(records), CELL)
    for field in RECORD.names or ():
        cells[field] = records[field]
    cells["row"] = rows
    cells = cells[cells["key"] != b""]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, cells[np.argsort(cells["key"], kind="stable")], allow_pickle=False)
