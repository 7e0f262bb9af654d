"""Many strings in little memory: what grows with the samples beside the manifest's own table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from hashlib import blake2b


class Names(Sequence[str]):
    """Strings kept as one piece of bytes: a quarter of what a list of them takes. A slice is a list."""

    def __init__(self, names: Iterable[str]) -> None:
        parts = [name.encode("utf-8", "surrogatepass") for name in names]
        self._bytes = b"".join(parts)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._bytes[self._ends[position] : self._ends[position + 1]].decode("utf-8", "surrogatepass")

    def digest_into(self, digest: blake2b) -> None:
        """Add all strings and their borders to a hash."""
        digest.update(self._ends.tobytes())
        digest.update(self._bytes)
