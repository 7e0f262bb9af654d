"""The files of a store: their names, arrays on disk, and what a full or forbidden disk says.

An array may be in shards, `<name>-00000-of-00004.npy`, …, each of the same number of rows but the last."""

import errno
import hashlib
import io
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from g2d_pipeline.artefacts import reserve
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import content_hash, release_pages
from g2d_pipeline.remote import SHARD, attach, fetch, fetch_ahead, is_planned, is_unfetched

FORMAT = 2  # of the store; raise it where old stores can no longer be read
INDEX, META = "index.parquet", "meta.json"
FITTED = "components"  # the part of a modality's files that its transform has fitted
FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

Array = npt.NDArray[Any]
Mapped = np.memmap[Any, Any]  # or `Shards`, which stands in for it
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def create(path: Path, dtype: npt.DTypeLike, shape: Sequence[int], rows: int | None = None) -> Mapped:
    """A memory-mapped array of zeros, whose room on the disk is taken: writing to it can not fill it up.
    `rows`: the most in one file; an array of more is in `Shards`. What was at `path` is removed.

    Raises OSError; then no file is left."""
    remove(path)
    try:
        for k, name in enumerate(shard_names(path.name, shape[0], rows)):
            count = shape[0] if rows is None else min(rows, shape[0] - k * rows)
            np.lib.format.open_memmap(
                file := path.with_name(name), "w+", np.dtype(dtype), (count, *shape[1:])
            )
            with file.open("r+b") as opened:
                reserve(opened, file.stat().st_size)
    except OSError:
        remove(path)
        raise
    return mapped(path, "r+")


def mapped(path: Path, mode: Any = "r") -> Mapped:
    """The array of a file, memory-mapped, or that of its shards (`Shards`). Raises OSError or ValueError."""
    if path.exists() or not (files := shards_of(path)):
        fetch([path])
        array: Mapped = np.load(path, mmap_mode=mode, allow_pickle=False)
        return array
    fetch([files[0], files[-1]])
    (first, *shape), dtype, *_ = read_header(files[0])
    last = read_header(files[-1])[0][0]
    if [f.name for f in files] != shard_names(path.name, rows := first * (len(files) - 1) + last, first):
        raise ValueError(f"{path.name} lacks some of its shards")
    return cast("Mapped", Shards(files, first, (rows, *shape), dtype, mode))


def remove(path: Path) -> None:
    """Remove the file or the shards of an array, if there are any."""
    for file in (path, *shards_of(path)):
        file.unlink(missing_ok=True)


def rename(old: Path, new: Path) -> None:
    """Put the file or the shards of the array `old` into the place of `new`."""
    remove(new)
    for file in shards_of(old) or [old]:
        file.replace(new.with_name(new.stem + file.name.removeprefix(old.stem)))


def with_checksum(path: Path) -> dict[str, str]:
    """A file's entry in `meta.json`."""
    return {"file": path.name, "checksum": content_hash(path)}


def rows_in_file(array: Array) -> int | None:
    """The rows of each file of an array in shards; None: it is in one file."""
    return getattr(array, "rows", None)


def checksums(path: Path) -> dict[str, Any]:
    """The `checksum` of an array as one file, and, where it is in shards, the `rows` and checksum of each."""
    if path.exists():
        return {"checksum": content_hash(path)}
    array: Any = mapped(path)
    whole, header, sums = hashlib.blake2b(digest_size=16), io.BytesIO(), []
    about = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, about)
    whole.update(header.getvalue())
    for file in array.files:
        shard = hashlib.blake2b(digest_size=16)
        with file.open("rb") as opened:
            shard.update(opened.read(read_header(file)[3]))
            while block := opened.read(2**20):
                shard.update(block)
                whole.update(block)
        sums.append(shard.hexdigest())
    return {"checksum": whole.hexdigest(), "shards": {"rows": array.rows, "checksums": sums}}


def read_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int, int]:
    """Shape and type of a .npy file, the bytes that its header promises, and those of the header itself.
    Raises OSError or ValueError."""
    form = np.lib.format
    with path.open("rb") as file:
        first = form.read_magic(file) == (1, 0)
        shape, _, dtype = (form.read_array_header_1_0 if first else form.read_array_header_2_0)(file)
        return shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize, file.tell()


def fits(path: Path, dtype: npt.DTypeLike, shape: Sequence[int], rows: int | None = None) -> bool:
    """Whether there is a whole array of this form, in shards of `rows` rows if it has more."""
    try:
        array = mapped(path)
    except (OSError, ValueError, EOFError):
        return False
    in_files = rows if rows is not None and shape[0] > rows else None
    return (array.shape, array.dtype, rows_in_file(array)) == (tuple(shape), np.dtype(dtype), in_files)


def allocated(path: Path) -> int:
    """Bytes on disk of an array; one that is not yet filled may have fewer than its size."""
    stats = [file.stat() for file in (path, *shards_of(path)) if file.exists()]
    return sum(int(getattr(stat, "st_blocks", stat.st_size / 512) * 512) for stat in stats)


def check_space(folder: Path, needed: int) -> None:
    """Raise DataError where the disk has not `needed` bytes free."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(_full(folder, needed, free))


@contextmanager
def writing_to(folder: Path, needed: int) -> Iterator[None]:
    """A full disk, or one that must not be written, becomes a DataError that names it. `needed`: bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            existing = next(f for f in (folder, *folder.parents) if f.is_dir())
            raise DataError(_full(folder, needed, shutil.disk_usage(existing).free)) from error
        where = Path(str(error.filename)) if error.filename is not None else folder
        if error.errno in FORBIDDEN and (where.is_relative_to(folder) or folder.is_relative_to(where)):
            raise DataError(
                f"The feature store {folder} can not be written ({error.strerror}: {where}). "
                "Give yourself the right to write there, or run in a copy of the project that is yours."
            ) from error
        raise


def _full(folder: Path, needed: int, free: int) -> str:
    return (
        f"The feature store {folder} needs {_size(needed)}, the disk has {_size(free)} free. Make room, or "
        "make the features smaller (size, frames, seconds, n_mels, steps, dtype=float16); then run again: it "
        "goes on from the last whole chunk."
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


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

    def __post_init__(self) -> None:
        attach(self.files[0].parent)

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
        order, step = np.argsort(rows, kind="stable"), at_once or max(len(rows), 1)
        for start in range(0, len(rows), step):
            places = order[start : start + step]
            shards = rows[places] // self.rows
            for number in np.unique(shards).tolist():
                of_shard, part = places[shards == number], self._shard(number)
                out[of_shard] = np.asarray(part)[rows[of_shard] % self.rows]
                if at_once:
                    release_pages(part, 0)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process, it opens its files there."""
        return type(self), (self.files, self.rows, self.shape, self.dtype, self.mode)

    def flush(self) -> None:
        for part in self.parts:
            part.flush()

    def _shard(self, number: int) -> np.memmap[Any, Any]:
        path, opened = self.files[number], self._opened.get(number)
        missing = is_unfetched(path)
        fetch([path])  # or tell that it is used
        if opened is not None and not missing:
            return opened
        try:
            array: np.memmap[Any, Any] = np.load(path, mmap_mode=self.mode, allow_pickle=False)
        except ValueError:  # zeros
            if is_unfetched(path):  # given up for others in between
                return self._shard(number)
            raise
        if not is_planned(path):  # now that this one is open: it may be what makes room
            fetch_ahead(self.files[number + 1 : number + 2])
        whole = {k: part for k, part in tuple(self._opened.items()) if not is_unfetched(self.files[k])}
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
