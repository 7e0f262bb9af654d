"""Seeing what is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from g2d_pipeline.features.kinds import FileKind


def watch_decode(patch: pytest.MonkeyPatch, kind: type[FileKind], seen: Callable[[list[str]], None]) -> None:
    """Call `seen` with the cells of each chunk of a kind before they are decoded in this process."""
    original = kind.decode

    def watched(self: FileKind, items: Iterable[Any], *args: Any) -> None:
        items = list(items)
        seen([cell for _, cell, _ in items])
        original(self, items, *args)

    patch.setattr(kind, "decode", watched)
