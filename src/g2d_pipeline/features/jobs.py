"""What a worker is asked to do with a chunk of a modality, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import AudioFeatures, ImageFeatures, SequenceFeatures, VectorFeatures, VideoFeatures
from g2d_pipeline.features.reuse import ReusableStore

FileSettings = AudioFeatures | ImageFeatures | VideoFeatures | SequenceFeatures | VectorFeatures
Cells = tuple[str, ...]


@dataclass(frozen=True)
class ArraySpec:
    """The array that `run` fills: the shape of one sample, and the type of its numbers."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def exact(self) -> str:
        """What the transforms give; float16 is rounded from it."""
        return "float32" if self.dtype == "float16" else self.dtype


@dataclass(frozen=True)
class Job:
    """`cells[k]` of modality settings → every row `rows[i]` of the array file with `source[i] == k`.

    `records`: the file of the cells' `reuse.RECORD`s, those of this chunk from `first` on; None: none are
    kept. `rounding`: the file of the chunks' rounding errors `[chunks, 2, C]`, where they are not in the
    records. `known`: cells that need not be decoded."""

    number: int
    settings: FileSettings
    root: Path
    cells: Cells
    array: Path
    rows: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    form: ArraySpec
    first: int = 0
    records: Path | None = None
    rounding: Path | None = None
    known: ReusableStore | None = None


@dataclass
class Findings:
    """Position in the cells of a chunk → what was found there.

    `faults`: what is wrong. `constant`: 1 for silence, a picture of one colour, features that are all 0.
    `replaced`: how many values were not finite and are 0 now. `shortened`: how many steps at the end were
    left out."""

    faults: dict[int, str] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
    replaced: dict[int, int] = field(default_factory=dict)
    shortened: dict[int, int] = field(default_factory=dict)

    def at(self, positions: Sequence[int]) -> Self:
        """The same, of cells that lie at `positions` of a larger chunk."""
        moved = {
            f.name: {positions[k]: what for k, what in getattr(self, f.name).items()} for f in fields(self)
        }
        return type(self)(**moved)

    @property
    def notes(self) -> dict[str, dict[int, int]]:
        return {"constant": self.constant, "replaced": self.replaced, "shortened": self.shortened}


@dataclass(frozen=True)
class Done:
    """A chunk that is on disk, but for the cells in `faults`: position in `cells` → what is wrong.

    `notes`: as `Findings.notes`. `copied`: how many cells were taken from an earlier store.
    """

    number: int
    faults: dict[int, str]
    notes: dict[str, dict[int, int]]
    copied: int = 0
