"""What a cell of the manifest points to: a file, a folder of images, or `file#row`, a row of an array file.

An array file is a `.npy`, or a gzipped IDX (MNIST's format); a `.parquet` of numbers is an array, too."""

import gzip
import hashlib
import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.faults import MediaError, check_file, decoding
from g2d_pipeline.features.files import Array, mapped, read_header
from g2d_pipeline.files import content_hash, release_pages
from g2d_pipeline.remote import fetch

ARRAY_ROW = re.compile(r"(?P<file>.+\.(?:npy|gz))#(?P<row>[0-9]+)")
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def split_cell(cell: str) -> tuple[str, int | None]:
    """The file of a cell and the row in it; None: it is a whole file, even one with a `#` in its name."""
    match = ARRAY_ROW.fullmatch(cell)
    return (match["file"], int(match["row"])) if match else (cell, None)


def is_row(cell: str) -> bool:
    """Whether a cell is a row of an array file."""
    return ARRAY_ROW.fullmatch(cell) is not None


def open_cell(cell: str, root: Path) -> Array:
    """The array of a cell: a row (from 0) of an array file `[N, …]`, or all of a `.npy` file, memory-mapped
    and read-only; an IDX file is decompressed once per process. A `.parquet` is `[rows, columns]`, as in the
    file, NaN where it is null.

    Raises MediaError where there is no such array (missing, truncated, pickled objects, …) or row."""
    file, row = split_cell(cell)
    if row is not None:
        array = _open(root / file)
        if array.ndim == 0 or row >= len(array):
            raise MediaError(root / file, f"has no row {row}: its shape is {list(array.shape)}")
        return np.asarray(array[row])
    check_file(root / file)
    if file.endswith(".parquet"):
        return _read_parquet(root / file)
    if not file.endswith(".npy"):
        raise MediaError(root / file, "is no array file: its name does not end in .npy or .parquet")
    return _open(root / file)


def release_cells(cells: Iterable[str], root: Path) -> None:
    """Release the pages of the array files that these cells are rows of."""
    for file in {file for file, row in map(split_cell, cells) if row is not None}:
        with suppress(MediaError, OSError):  # reported with its sample when it is decoded
            release_pages(_open(root / file))


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted, without hidden files."""
    names = (entry.name for entry in folder.iterdir())
    return sorted(n for n in names if not n.startswith(".") and Path(n).suffix.lower() in IMAGES)


def files_of(cell: str, root: Path) -> list[Path]:
    """The files of a cell: one, or the images in a folder."""
    path = root / split_cell(cell)[0]
    return [path / name for name in images_in(path)] if path.is_dir() else [path]


def stamp(path: Path | str) -> str:
    """What changes when a file, or an image in a folder, changes: sizes and times. Raises OSError."""
    stat = os.stat(path)  # noqa: PTH116 - strings are quicker, and there are many small files
    if not S_ISDIR(stat.st_mode):
        return f"{stat.st_size}\0{stat.st_mtime_ns}"
    return "\0".join(f"{name}\0{stamp(Path(path) / name)}" for name in images_in(Path(path)))


def cells_state(cells: Iterable[str], root: Path) -> bytes:
    """What changes when a cell, or a file that one points to, changes, to be hashed."""
    parts = []
    for cell in cells:
        try:
            when = stamp(f"{root}/{split_cell(cell)[0]}")
        except OSError:
            when = ""  # it is missing: decoding reports it
        parts.append(f"{cell}\0{when}\0")
    return "".join(parts).encode(errors="surrogateescape")


def row_bytes(cell: str, root: Path) -> bytes:
    """Type, shape and values of a row of an array file, to be hashed. Raises MediaError as `open_cell`."""
    values = open_cell(cell, root)
    return f"{values.dtype.str}{values.shape}".encode() + np.ascontiguousarray(values).tobytes()


def content_key(cell: str, root: Path, keep_bytes: int = 0) -> tuple[str, bytes | None]:
    """(blake2b of a cell's name and content, 32 hex digits or "" where it can not be read; the file's bytes).

    The name counts because noise is drawn by it. Of an array file the row alone counts: rows can be added to
    it. The bytes are returned of a file no larger than `keep_bytes`, so that it need not be read again."""
    fetch([f"{root}/{cell}"])
    digest = hashlib.blake2b(f"{cell}\0".encode(errors="surrogateescape"), digest_size=16)
    content: bytes | None = None
    try:
        if is_row(cell):
            digest.update(row_bytes(cell, root))
        else:
            path = f"{root}/{cell}"  # joining paths takes longer than opening a file
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                if os.fstat(file.fileno()).st_size <= keep_bytes:
                    content = file.readall()
                    inner = hashlib.blake2b(content, digest_size=16).hexdigest()
                else:
                    inner = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            digest.update(inner.encode())
    except IsADirectoryError:
        fetch(files_of(cell, root))
        for name in images_in(root / cell):
            part = f"{name}\0{content_hash(root / cell / name)}\0"
            digest.update(part.encode(errors="surrogateescape"))
    except (OSError, DataError):  # reported with its sample when it is decoded
        return "", None
    return digest.hexdigest(), content


def _open(path: Path) -> Array:
    try:
        stat = path.stat()
    except OSError:
        check_file(path)
        raise
    return _open_array(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _open_array(path: Path, size: int, mtime_ns: int) -> Array:
    """The array of a file, of a .npy memory-mapped; a file whose size or time has changed is opened anew."""
    check_file(path)
    if path.suffix != ".npy":
        return read_idx(path)
    with decoding(path, "is not a .npy array", ValueError, OSError, EOFError):
        shape, dtype, promised, _ = read_header(path)
        if dtype.hasobject:
            raise MediaError(path, "holds pickled Python objects, which are never loaded: save plain numbers")
        if promised > size:  # numpy says so with bad words
            reason = f"is truncated: its header {shape} promises {promised} bytes, it holds {size}"
            raise MediaError(path, reason)
        array = mapped(path)
    return array


def _read_parquet(path: Path) -> Array:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with decoding(path, "is no parquet table", ValueError, OSError, EOFError):
        table = pq.ParquetFile(path).read()
    types = {f.name: f.type for f in table.schema}
    numeric = {name for name, t in types.items() if pa.types.is_integer(t) or pa.types.is_floating(t)}
    if other := [f"{name!r} is {t}" for name, t in types.items() if name not in numeric]:
        raise MediaError(path, f"has columns that are no numbers: {', '.join(other[:5])}")
    if not types:
        raise MediaError(path, "has no columns")
    with decoding(path, "has whole numbers that are too large", ValueError):
        columns = [column.cast(pa.float64()).to_numpy() for column in table.columns]
    return np.stack(columns, axis=1)


def read_idx(path: Path, dimensions: int | None = None) -> npt.NDArray[np.uint8]:
    """A gzipped array of MNIST's format: two zero bytes, the type (8: bytes), the number of dimensions, their
    big-endian sizes. Raises MediaError for another file, or for another number of `dimensions`."""
    check_file(path)
    with decoding(path, "is truncated or not gzip", ValueError, OSError, EOFError), gzip.open(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not head[3]:
            start = head.hex(" ") or "nothing"
            raise MediaError(path, f"is no IDX array of bytes: it starts with {start}")
        if head[3] != (dimensions or head[3]):
            reason = f"is an IDX array of {head[3]} dimensions, not {dimensions}: are two files exchanged?"
            raise MediaError(path, reason)
        shape = tuple(int(n) for n in np.frombuffer(file.read(4 * head[3]), ">u4"))
        content = file.read(math.prod(shape))
    if len(shape) != head[3] or len(content) != math.prod(shape):
        reason = f"is truncated: its header {shape} promises more than its {len(content)} bytes"
        raise MediaError(path, reason)
    if dimensions is not None and not content:
        raise MediaError(path, f"is empty: its header says {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)
