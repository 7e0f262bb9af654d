"""The shuffle of a feature store that is larger than its cache: blocks of rows, some of them at a time.

A whole shuffle would fetch every shard for every batch. Instead, as WebDataset and MosaicML Streaming do, the
store's blocks are shuffled, and then the rows of each window, as many blocks as fit into half of the cache;
the other half is for the blocks of the next window, which are fetched meanwhile."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.files import Shards
from g2d_pipeline.remote import SHARD, Remote, cancel_ahead, fetch_ahead, find_remote, is_unfetched

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """`count` blocks of `rows` consecutive rows of the store are shuffled together. `shards`: by modality."""

    rows: int
    count: int
    shards: Mapping[str, Shards] = field(compare=False, repr=False)
    remote: Remote = field(compare=False, repr=False)
    room: float = field(compare=False)  # bytes of shards that may be in the cache

    @property
    def numbers(self) -> dict[str, int]:
        """What the order of samples depends on, beside seed and epoch."""
        return {"block_rows": self.rows, "window_blocks": self.count}

    def arrange(self, shuffled: Rows, generator: np.random.Generator) -> Rows:
        """The rows window by window; those of a window stay in the order that they are in."""
        blocks = shuffled // self.rows
        present = np.unique(blocks)
        window = np.zeros(present[-1] + 1 if len(present) else 0, np.int64)
        window[generator.permutation(present)] = np.arange(len(present)) // self.count
        return shuffled[np.argsort(window[blocks], kind="stable")]

    def files(self, block: int, modalities: Collection[str]) -> list[Path]:
        """The shards with rows of a block."""
        files: list[Path] = []
        for array in (self.shards[m] for m in modalities if m in self.shards):
            last = min((block + 1) * self.rows, len(array)) - 1
            files += array.files[block * self.rows // array.rows : last // array.rows + 1]
        return files

    def size(self, files: Collection[Path]) -> int:
        return sum(self.remote.files[file.name][0] for file in files)


def windows_of(arrays: Mapping[str, Any]) -> Windows | None:
    """How the rows of a store with these arrays are shuffled; None: all together, since it is on this machine
    or fits into its cache. Raises ConfigError where the cache is too small even for two blocks."""
    shards = {m: array for m, array in arrays.items() if isinstance(array, Shards)}
    single = [array.filename for array in arrays.values() if getattr(array, "filename", None) is not None]
    files = [file for array in shards.values() for file in array.files]
    place = next(filter(None, map(find_remote, [*files, *single])), None)
    if place is None:
        return None
    remote = place[0]
    fixed = sum(size for name, (size, _) in remote.files.items() if not SHARD.fullmatch(name))
    total = fixed + sum(remote.files[file.name][0] for file in files)
    if total <= remote.limit:
        return None
    rows = max((array.rows for array in shards.values()), default=0)
    blocks = range(math.ceil(max(map(len, shards.values())) / rows)) if rows else range(0)
    windows = Windows(rows, 0, shards, remote, remote.limit - fixed)
    largest = max((windows.size(windows.files(block, shards)) for block in blocks), default=0)
    if remote.limit < fixed + 2 * largest:
        least = math.ceil((fixed + 2 * largest) / 1e6) / 1e3
        raise ConfigError(
            f"storage.cache_gb = {remote.limit / 1e9:g}: the feature store {remote.url} has "
            f"{total / 1e9:.3g} GB, of which {least:g} have to be in the cache at once (two blocks of {rows} "
            f"rows, and all that is in one file). Set storage.cache_gb to {least:g} or more, or make the "
            "store anew with a smaller storage.shard_rows"
        )
    return replace(windows, count=int(windows.room / 2 // largest))


def announce(windows: Windows | None, run: str, agree: Callable[[Any], Any]) -> None:
    """Of a store larger than its cache: one line. `agree`: the first process's value. Raises ConfigError
    where another machine's cache has another size: all have to take the samples in one order."""
    numbers = windows and windows.numbers
    if (first := agree(numbers)) != numbers:
        both = f"{first or 'all rows'} are shuffled together on the first machine, {numbers or 'all'} here"
        raise ConfigError(f"storage.cache_gb: {both}: give all machines the same")
    if windows is not None:
        words = "%s: the store is larger than storage.cache_gb: shuffled are %d blocks of %d rows at a time"
        logger.info(words, run, windows.count, windows.rows)


@contextmanager
def reading_ahead(
    windows: Windows | None, batches: Sequence[Rows], modalities: Collection[str]
) -> Iterator[Callable[[int], None]]:
    """Fetch shards in the order in which `batches` need them, as many as there is room for. To be called with
    the number of each batch when those before it are read: what they alone needed makes room."""
    if windows is None:
        yield lambda number: None
        return
    last: dict[int, int] = {}  # block → the last batch with rows of it, in the order of the first one
    for number, rows in enumerate(batches):
        last |= dict.fromkeys(np.unique(rows // windows.rows).tolist(), number)
    needed, until = list(last), -1

    def reach(number: int) -> None:
        nonlocal needed, until
        if number <= until:
            return
        needed = [block for block in needed if last[block] >= number]
        kept, taken, size = dict[Path, None](), list[int](), 0
        for block in needed:
            new = [file for file in windows.files(block, modalities) if file not in kept]
            if taken and size + windows.size(new) > windows.room:
                break
            kept, size = kept | dict.fromkeys(new), size + windows.size(new)
            taken.append(block)
        until = min((last[block] for block in taken), default=number)
        windows.remote.keep = frozenset(file.name for file in kept)
        for block in taken:
            fetch_ahead(file for file in windows.files(block, modalities) if is_unfetched(file))

    try:
        yield reach
    finally:
        cancel_ahead()
        windows.remote.keep = frozenset()
