"""A plain vector of features; and array files, which sequences read as well."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import VectorFeatures
from g2d_pipeline.features.cells import open_cell
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.files import Array, Rows
from g2d_pipeline.features.kinds.base import ArraySpec, Corruption, FileKind, Values, standardised
from g2d_pipeline.features.statistics import Normaliser, feature_statistics


class Vector(FileKind):
    """Array files `[F]`, or rows of one `[N, F]`, as floats `[F]`."""

    settings: VectorFeatures
    settings_class = VectorFeatures
    plural = "vectors"
    endings = frozenset({".npy", ".parquet"})
    corruptions: ClassVar = {"noise": ("{:g} std", (0.5, 1.0, 2.0))}

    def spec(self, cells: Sequence[str], root: Path) -> ArraySpec:
        return ArraySpec((width(cells, root, 1),), self.settings.dtype)

    def read(self, cell: str, root: Path, spec: ArraySpec, content: bytes | None) -> Values:
        return read_vector(cell, root, spec.shape[0]), {}

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """Gaussian noise in each feature, in its train standard deviations."""
        noise = corruption.strength * rng.standard_normal(values.shape, np.float32)
        return standardised(standardised(values, corruption.about) + noise, corruption.about, back=True)

    def normaliser(self, array: Array, train: Rows, scale: float) -> Normaliser:
        return feature_statistics(array, train, masked=False)


def read_vector(cell: str, root: Path, features: int) -> npt.NDArray[np.float32]:
    """A cell `[F]` → float32 `[F]`. Raises MediaError where the cell is no such array of numbers, is not
    `features` long, or holds values that are not finite."""
    array = open_array(cell, root, 1)
    if len(array) != features:
        reason = f"has {len(array)} features, the first vector of the modality {features}"
        raise MediaError(root / cell, reason)
    return all_finite(array, root / cell)


def width(cells: Iterable[str], root: Path, dimensions: int) -> int:
    """F of the first cell that holds an array of so many dimensions, the last of which is F; 1: none does."""
    for cell in cells:
        with suppress(MediaError):  # reported with its sample when it is decoded
            return int(open_array(cell, root, dimensions).shape[-1])
    return 1


def open_array(cell: str, root: Path, dimensions: int) -> Array:
    """The array of a cell: `[L, F]` or `[F]`, F ≥ 1, of real numbers. Raises MediaError."""
    array = open_cell(cell, root)
    what = "a sequence [L, F]" if dimensions == 2 else "a vector [F]"
    if array.dtype.kind not in "fiub" or array.ndim != dimensions or not array.shape[-1]:
        whole = array.ndim == dimensions + 1 and "#" not in cell
        hint = f"; a row of it is written {cell}#0" if whole else ""
        raise MediaError(root / cell, f"is {array.dtype} {list(array.shape)}, not {what} of numbers{hint}")
    return array


def finite(array: Array) -> tuple[npt.NDArray[np.float32], int]:
    """(float32 copy with 0 for what is not finite, how many those are)."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, np.float32)
    bad = ~np.isfinite(values)
    values[bad] = 0
    return values, int(bad.sum())


def all_finite(array: Array, where: Path) -> npt.NDArray[np.float32]:
    """A float32 copy. Raises MediaError for values that are not finite."""
    values, bad = finite(array)
    if bad:
        raise MediaError(where, f"holds {bad} values that are not finite (NaN, infinite, or above 3.4e38)")
    return values
