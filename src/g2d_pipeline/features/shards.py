"""An array in several files: `<name>-00000-of-00004.npy`, …, each of the same number of rows but the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.files import release_pages
from g2d_pipeline.remote import SHARD, attach, fetch, fetch_ahead, is_hollow, is_planned


def shard_names(file: str, samples: int, rows: int | None) -> list[str]:
    """The names of the files of an array `[samples, …]` that is called `file` (`audio.npy`): itself where
    there is one of at most `rows` rows, or `rows` is None."""
    count = 1 if rows is None else math.ceil(samples / rows)
    stem = file.removesuffix(".npy")
    return [file] if count < 2 else [f"{stem}-{k:05}-of-{count:05}.npy" for k in range(count)]


def shards_of(path: Path) -> list[Path]:
    """The files on disk of an array in shards that is called `path`, in order; none: it has none."""
    files = (f for f in path.parent.glob(f"{path.stem}-*-of-*.npy") if SHARD.fullmatch(f.name))
    return sorted(files, key=lambda f: f.name)


@dataclass
class Shards:
    """`[N, …]` over `files`, of `rows` rows each but the last, which are memory-mapped when rows of them are
    first asked for. Rows are read and written as of a memory map (`array[rows]`, `array[a:b] = …`).
    Those behind a URL are fetched then, and the next one ahead of its use."""

    files: Sequence[Path]
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mode: Any = "r"
    _opened: dict[int, np.memmap[Any, Any]] = field(default_factory=dict, repr=False)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def parts(self) -> list[np.memmap[Any, Any]]:
        """The files that are memory-mapped."""
        return list(self._opened.values())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """As numpy, where the first index is a number, a slice or an array of rows."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int | np.integer):
            shard, row = divmod(range(len(self))[first], self.rows)
            return self._shard(shard)[row, *rest]
        return self.gather(self._numbers(first))[:, *rest]

    def __setitem__(self, index: Any, values: Any) -> None:
        rows = self._numbers(index)
        each = np.broadcast_to(values, (len(rows), *self.shape[1:]))
        for row, value in zip(rows.tolist(), each, strict=True):
            self._shard(row // self.rows)[row % self.rows] = value

    def gather(self, rows: npt.NDArray[np.int64], at_once: int | None = None) -> npt.NDArray[Any]:
        """These rows `[n, …]`. Pages are let go after each `at_once` of them."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        shards, local = (part.tolist() for part in np.divmod(rows[order], self.rows))
        before, used = None, list[Any]()
        for taken, (place, shard, row) in enumerate(zip(order.tolist(), shards, local, strict=True), 1):
            if shard != before:
                used.append(self._shard(shard))
                part, before = np.asarray(used[-1]), shard  # a memory map's own indexing takes longer
            out[place] = part[row]
            if at_once and taken % at_once == 0:
                _release(used)
                used = used[-1:]
        if at_once:
            _release(used)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, it opens its files there."""
        return self.__dict__ | {"_opened": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        attach(self.files[0].parent)

    def flush(self) -> None:
        for part in self.parts:
            part.flush()

    def _shard(self, number: int) -> np.memmap[Any, Any]:
        path, opened = self.files[number], self._opened.get(number)
        hollow = is_hollow(path)
        fetch([path])  # or tell that it is used
        if opened is not None and not hollow:
            return opened
        try:
            array: np.memmap[Any, Any] = np.load(path, mmap_mode=self.mode, allow_pickle=False)
        except ValueError:  # zeros
            if is_hollow(path):  # given up for others in between
                return self._shard(number)
            raise
        if not is_planned(path):  # now that this one is open: it may be what makes room
            fetch_ahead(self.files[number + 1 : number + 2])
        whole = {k: part for k, part in tuple(self._opened.items()) if not is_hollow(self.files[k])}
        self._opened = whole | {number: array}
        return array

    def _numbers(self, index: Any) -> npt.NDArray[np.int64]:
        """The rows that a slice, a mask or a list of numbers names. Raises IndexError."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"there is no such row among {len(self)}: {index!r}")
        return rows


def _release(parts: list[Any]) -> None:
    for part in parts:
        release_pages(part, 0)
