"""The feature store as a reader sees it: memory-mapped arrays, a row a sample, and what is known of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS
from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.features.files import (
    FITTED,
    FORMAT,
    INDEX,
    META,
    Mapped,
    Shards,
    mapped,
    read_header,
    shard_names,
)
from g2d_pipeline.files import atomic_write, content_hash
from g2d_pipeline.remote import attach, is_unfetched

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureStore:
    """A folder written by `write_store`; make it with `open_store`.

    `meta`: dataset, task, class_names, target, source, counts, dropped [{sample_id, modality, file, reason}],
    notes, index, code, and per modality kind, shape (of a sample), dtype, file, checksum, settings,
    shards {rows, checksums} where there are several (file is their common name, checksum that of all in one),
    normaliser {scale, mean, std} (None: no number is changed), statistics; of float16 rounding {max, rms} in
    train standard deviations; of what later stores copy cells {file, checksum}; of token ids vocabulary
    (their number) and tokenizer {file, checksum}; of principal components decoded (the type of the pictures)
    and components {file, checksum}: the mean, then the components `[K + 1, P]`."""

    path: Path
    meta: dict[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names, in the configuration's order."""
        return tuple(self.meta["modalities"])

    @cached_property
    def index(self) -> pd.DataFrame:
        """A row a sample, in the order of the arrays: sample_id, split, target."""
        import pandas as pd

        try:
            table = pd.read_parquet(self.path / INDEX, engine="pyarrow")
        except (OSError, ValueError) as error:
            raise broken(self.path, [f"{INDEX} is not a parquet table ({error})"]) from error
        if len(table) != self.meta["index"]["rows"]:
            reason = f"{INDEX} has {len(table)} rows, {META} says {self.meta['index']['rows']}"
            raise broken(self.path, [reason])
        return table

    @cached_property
    def arrays(self) -> dict[str, Mapped]:
        """modality → `[N, …]` (in one file, or `Shards`), read-only and memory-mapped."""
        attach(self.path)
        return {name: self._array(about) for name, about in self.meta["modalities"].items()}

    def _array(self, about: dict[str, Any]) -> Mapped:
        if "shards" not in about:
            return mapped(self.path / about["file"])
        samples = self.meta["index"]["rows"]
        files = [self.path / name for name in array_files(about, samples)]
        rows, shape = about["shards"]["rows"], (samples, *about["shape"])
        return cast("Mapped", Shards(files, rows, shape, np.dtype(about["dtype"])))

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The rows of a split, ascending. Raises ValueError for a split that does not exist."""
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}; allowed are {', '.join(SPLITS)}")
        return np.flatnonzero((self.index["split"] == split).to_numpy()).astype(np.int64)

    def targets(self) -> npt.NDArray[Any]:
        """`[N]`: int64 classes, or float64 values in the target's own unit."""
        return self.index["target"].to_numpy(copy=True)

    def verify(self, modality: str | None = None) -> None:
        """Read everything, or one modality; DataError names what differs from its checksum."""
        _check(self.path, self.meta, modality)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, a store opens its files there."""
        return {"path": self.path, "meta": self.meta}


def open_store(folder: Path) -> FeatureStore:
    """Open a feature store; only `meta.json` and the headers and sizes of the other files are read.

    Raises DataError where a file is missing, truncated or not as `meta.json` says."""
    attach(folder)
    meta = read_meta(folder)
    _check(folder, meta, quick=True)
    return FeatureStore(folder, meta)


def _check(folder: Path, meta: dict[str, Any], modality: str | None = None, quick: bool = False) -> None:
    if faults := find_faults(folder, meta, modality, quick):
        raise broken(folder, [f"{name} {fault}" for name, fault in faults.items()])


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a store. Raises DataError where there is none that can be read."""
    if not folder.is_dir():
        raise DataError(f"There is no feature store {folder}. Run the featurize stage.")
    try:
        meta = json.loads((folder / META).read_bytes())
    except FileNotFoundError:
        raise broken(folder, [f"{META} is missing"]) from None
    except (OSError, ValueError) as error:
        raise broken(folder, [f"{META} is not JSON ({error})"]) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise broken(folder, [f"{META} is of another version of g2d-pipeline, or of no feature store"])
    return meta


def array_files(about: Mapping[str, Any], samples: int) -> dict[str, tuple[list[int], str]]:
    """File → (shape, checksum) of a modality's array, in order: one, or its shards."""
    shards = about.get("shards", {"rows": samples, "checksums": [about["checksum"]]})
    names = shard_names(about["file"], samples, rows := shards["rows"])
    return {
        name: ([min(rows, samples - k * rows), *about["shape"]], checksum)
        for k, (name, checksum) in enumerate(zip(names, shards["checksums"], strict=True))
    }


def find_faults(
    folder: Path, meta: Mapping[str, Any], modality: str | None = None, quick: bool = False
) -> dict[str, str]:
    """File → what is wrong with it, of all files but `meta.json`, or those of one modality. `quick`: by their
    sizes and headers alone. Raises DataError where `meta.json` is incomplete."""
    try:
        rows, modalities = meta["index"]["rows"], meta["modalities"]
        files: dict[str, tuple[tuple[list[int], str] | None, str]] = {}
        if modality is None:
            files[INDEX] = None, meta["index"]["checksum"]
        for about in modalities.values() if modality is None else [modalities[modality]]:
            files |= {f: ((form, about["dtype"]), c) for f, (form, c) in array_files(about, rows).items()}
            beside = [about[part] for part in ("tokenizer", FITTED, "cells") if part in about]
            files |= {part["file"]: (None, part["checksum"]) for part in beside}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise broken(folder, [f"{META} lacks {error}"]) from None
    present = {name: entry for name, entry in files.items() if not is_unfetched(folder / name)}
    checked = {n: _fault(folder / n, form, None if quick else c) for n, (form, c) in present.items()}
    return {name: fault for name, fault in checked.items() if fault is not None}


def _fault(path: Path, form: tuple[list[int], str] | None, checksum: str | None) -> str | None:
    """What is wrong with a file of a store. `form`: shape and dtype of an array; `checksum` (None: not read)
    is compared where size and header are right."""
    try:
        size = path.stat().st_size
        if form is None and not size:
            return "is empty"
        if form is not None:
            stored, kind, promised, _ = read_header(path)
            if (list(stored), str(kind)) != form:
                return f"holds {kind} {list(stored)}, {META} says {form[1]} {form[0]}"
            if size != promised:
                return f"holds {size} bytes instead of {promised}: it is truncated or damaged"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"is not an array ({error})"
    changed = checksum is not None and content_hash(path) != checksum
    return "has changed since it was written" if changed else None


def broken(folder: Path, faults: Iterable[str], what: str = "broken") -> DataError:
    remedy = f"delete the folder {folder} and run again, or add `--params rebuild=true`."
    return data_error(f"The feature store {folder} is {what}", faults, remedy)


# ------------------------------------------------------------------------------ what a later store copies
# Cells of the same name and content, where decoding costs more than reading (`FileKind.reusable`).
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
        place = int(np.searchsorted(keys, key))
        return cells[place] if key in keys[place : place + 1] else None


@lru_cache(maxsize=8)
def _cells(path: Path, mtime_ns: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[Any]]:
    """The sorted keys of a store's cells, and the cells; the time is there for files that change."""
    cells = mapped(path)
    return np.ascontiguousarray(cells["key"]), cells


def find_known(
    previous: Sequence[Path],
    name: str,
    settings: dict[str, Any],
    code: str,
    dtype: str,
    shape: tuple[int, ...],
) -> ReusableStore | None:
    """The first of the stores `previous` whose modality `name` was made with the same settings and code.

    A store that is broken, or whose files are not what they were, is passed over with a warning."""
    expected = {"settings": settings, "dtype": dtype, "shape": list(shape)}
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
    cells[[*RECORD.names]] = records  # type: ignore[misc]
    cells["row"] = rows
    cells = cells[cells["key"] != b""]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, cells[np.argsort(cells["key"], kind="stable")], allow_pickle=False)
