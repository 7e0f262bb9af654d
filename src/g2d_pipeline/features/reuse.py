"""What an earlier store has already: cells of the same name and content are copied from it, not decoded
again.

Only where decoding costs more than reading: recordings, clips, and pictures that are stored as bytes. Rows of
other kinds (sequences, vectors, floats, pictures that are made poor) are read anew."""

from __future__ import annotations

import hashlib
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
from g2d_pipeline.features.cells import open_cell, pictures_in, split_cell
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.files import META, bytes_digest, file_digest, mapped, short_file
from g2d_pipeline.features.store import open_store

logger = logging.getLogger(__name__)

# What is kept of a cell: its key; whether it is silent or of one colour; the largest rounding error of its
# stored numbers, and the sum of their squares (0 where nothing is rounded).
RECORD = np.dtype([("key", "S32"), ("constant", "u1"), ("worst", "<f8"), ("squares", "<f8")])
# The same in a store, sorted by key, with a row of the array that holds the cell.
CELL = np.dtype([*RECORD.descr, ("row", "<i8")])


def content_key(cell: str, root: Path, contents: dict[str, bytes] | None = None) -> str:
    """blake2b of a cell's name and the content it points to, 32 hex digits; "" where that can not be read.

    The name counts because noise is drawn by it. Of an array file the row alone counts: rows can be added to
    it. `contents` is given the cell's file, if it is a short one, so that it need not be read again."""
    file, row = split_cell(cell)
    digest = hashlib.blake2b(f"{cell}\0".encode(errors="surrogateescape"), digest_size=16)
    try:
        if row is not None:
            values = open_cell(cell, root)
            digest.update(
                f"{values.dtype.str}{values.shape}".encode() + np.ascontiguousarray(values).tobytes()
            )
        else:
            path = f"{root}/{file}"  # a string: joining paths takes longer than hashing a short recording
            try:
                content = short_file(path) if contents is not None else None
                if contents is not None and content is not None:
                    contents[cell] = content
                digest.update((file_digest(path) if content is None else bytes_digest(content)).encode())
            except IsADirectoryError:
                for name in pictures_in(root / file):
                    digest.update(
                        f"{name}\0{file_digest(root / file / name)}\0".encode(errors="surrogateescape")
                    )
    except (OSError, MediaError):  # told with its sample when it is decoded
        return ""
    return digest.hexdigest()


@dataclass(frozen=True)
class ReusableStore:
    """A modality of an earlier store: its array, and the cells in it."""

    array: Path
    cells: Path

    def find(self, keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """(positions in `keys` that are there, their `CELL`s)."""
        there = _keys(self.cells, self.cells.stat().st_mtime_ns)
        wanted = np.array(keys, "S32")
        place = np.searchsorted(there, wanted)
        place[place == len(there)] = 0
        found = np.flatnonzero((there[place] == wanted) & (wanted != b"")).astype(np.int64)
        return found, mapped(self.cells)[place[found]]


@lru_cache(maxsize=8)
def _keys(path: Path, mtime_ns: int) -> npt.NDArray[np.bytes_]:
    """The sorted keys of a store's cells, read once in each process; the time is there for files that change."""
    return np.ascontiguousarray(mapped(path)["key"])


def find_known(
    previous: Sequence[Path], name: str, settings: dict[str, Any], code: str, dtype: str, shape: Sequence[int]
) -> ReusableStore | None:
    """The first of the stores `previous` whose modality `name` was made with the same settings and code.

    A store that is broken, or whose files are not what they were, is passed over with a warning.
    """
    for folder in previous:
        try:
            made_by = json.loads((folder / META).read_bytes()).get("code")
            if made_by != code:
                continue
            store = open_store(folder)
            about = store.meta["modalities"].get(name, {})
            if about.get("settings") != settings or "cells" not in about:
                continue
            if about["dtype"] != dtype or about["shape"] != list(shape):
                continue
            store.verify(name)
        except (DataError, OSError, ValueError, AttributeError) as error:
            logger.warning("%s: nothing is taken from the earlier store %s: %s", name, folder, error)
            continue
        return ReusableStore(folder / about["file"], folder / about["cells"]["file"])
    return None


def write_cells(path: Path, records: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> None:
    """The `RECORD`s of cells that lie in `rows` of the stored array, as a store keeps them; those without a
    key not."""
    cells = np.zeros(len(records), CELL)
    for field in RECORD.names or ():
        cells[field] = records[field]
    cells["row"] = rows
    cells = cells[cells["key"] != b""]
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, cells[np.argsort(cells["key"], kind="stable")], allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
