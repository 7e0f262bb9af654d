"""An array in several files: `<name>-00000-of-00004.npy`, …, each of the same number of rows but the last."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SHARD = re.compile(r".+-(?P<number>[0-9]{5,})-of-(?P<count>[0-9]{5,})\.npy")


def shard_names(file: str, samples: int, rows: int | None) -> list[str]:
    """The names of the files of an array `[samples, …]` that is called `file` (`audio.npy`): itself where
    there is one of at most `rows` rows, or `rows` is None."""
    count = 1 if rows is None else math.ceil(samples / rows)
    stem = file.removesuffix(".npy")
    return [file] if count < 2 else [f"{stem}-{k:05}-of-{count:05}.npy" for k in range(count)]


def shards_of(path: Path) -> list[Path]:
    """The files on disk of an array in shards that is called `path`, in order; none: it has none."""
    found = (f for f in path.parent.glob(f"{path.stem}-*-of-*.npy") if SHARD.fullmatch(f.name))
    return sorted(found, key=lambda f: f.name)


@dataclass
class Shards:
    """`[N, …]` over `files`, of `rows` rows each but the last, which are memory-mapped when rows of them are
    first asked for. Rows are read and written as of a memory map (`array[rows]`, `array[a:b] = …`).

    `find`: the path of one of `files` where it may have to be fetched first."""

    files: Sequence[Path]
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mode: Any = "r"
    find: Callable[[Path], Path] | None = None
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
        if not len(rows := self._numbers(first)):
            return self._shard(0)[:0, *rest]
        out = None
        for shard, at, local in self._split(rows):
            values = self._shard(shard)[local, *rest]
            if out is None:
                out = np.empty((len(rows), *values.shape[1:]), self.dtype)
            out[at] = values
        return out

    def __setitem__(self, index: Any, values: Any) -> None:
        rows = self._numbers(index)
        values = np.broadcast_to(values, (len(rows), *self.shape[1:]))
        for shard, at, local in self._split(rows):
            self._shard(shard)[local] = values[at]

    def take(self, rows: npt.NDArray[np.int64], axis: int = 0, out: Any = None, mode: str = "raise") -> Any:
        """What `np.take` calls: rows `[n, …]`, in `out` where there is one."""
        if out is None:
            return self[rows]
        for shard, at, local in self._split(rows):
            if isinstance(at, slice) and not isinstance(local, slice):
                np.take(self._shard(shard), local, axis=0, out=out[at], mode="clip")
            else:
                out[at] = self._shard(shard)[local]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, it opens its files there."""
        return self.__dict__ | {"_opened": {}}

    def flush(self) -> None:
        for part in self.parts:
            part.flush()

    def _shard(self, number: int) -> np.memmap[Any, Any]:
        if number not in self._opened:
            path = self.files[number]
            path = path if self.find is None else self.find(path)
            array: np.memmap[Any, Any] = np.load(path, mmap_mode=self.mode, allow_pickle=False)
            self._opened[number] = array
        return self._opened[number]

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

    def _split(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, Any, Any]]:
        """(shard, positions in `rows`, rows of the shard), a shard at a time."""
        shard = rows // self.rows
        for number in np.unique(shard).tolist():
            at: Any = np.flatnonzero(shard == number)
            local: Any = rows[at] - number * self.rows
            if at[-1] - at[0] == len(at) - 1:  # one after another: nothing is gathered
                at = slice(int(at[0]), int(at[-1]) + 1)
                if (np.diff(local) == 1).all():
                    local = slice(int(local[0]), int(local[-1]) + 1)
            yield number, at, local
