"""Arrays of features → what a model reads: sequences with a row that says which steps are real, and plain
vectors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SequenceFeatures
from g2d_pipeline.features.cells import open_cell
from g2d_pipeline.features.faults import MediaError

Array = npt.NDArray[Any]


def width(cells: Iterable[str], root: Path, dimensions: int) -> int:
    """F of the first cell that holds an array of so many dimensions, the last of which is F; 1: none does."""
    for cell in cells:
        try:
            return int(_open(cell, root, dimensions).shape[-1])
        except MediaError:  # told with its sample when it is decoded
            continue
    return 1


def read_sequence(
    cell: str, root: Path, settings: SequenceFeatures, features: int
) -> tuple[npt.NDArray[np.float32], int, int]:
    """A cell `[L, F]` → (float32 `[F + 1, steps]`, how many values were not finite, how many steps are left
    out).

    The last row is 1 where a step is real, else 0, as everything is there. Steps at the end that are NaN
    throughout are no steps: so rows of one array file have lengths of their own. Other values that are not
    finite, as float32, become
    0. `cut_leading_zeros` leaves at least one step. Raises MediaError where the cell is no such array of
       numbers
    (missing, truncated, pickled objects, …), has no steps, or is not `features` wide.
    """
    array = _without_blank_end(_open(cell, root, 2))
    if not len(array):
        raise MediaError(root / cell, "has no steps: its length is 0")
    if array.shape[1] != features:
        found = f"{array.shape[1]} features a step"
        raise MediaError(root / cell, f"has {found}, the first sequence of the modality {features}")
    first = _leading_zeros(array) if settings.cut_leading_zeros else 0
    values, replaced = _finite(array[first : first + settings.steps])
    result = np.zeros((features + 1, settings.steps), np.float32)
    result[:features, : len(values)] = values.T
    result[features, : len(values)] = 1
    return result, replaced, len(array) - first - len(values)


def read_vector(cell: str, root: Path, features: int) -> npt.NDArray[np.float32]:
    """A cell `[F]` → float32 `[F]`. Raises MediaError as `read_sequence` does, and for values that are not
    finite."""
    array = _open(cell, root, 1)
    if len(array) != features:
        raise MediaError(
            root / cell, f"has {len(array)} features, the first vector of the modality {features}"
        )
    values, bad = _finite(array)
    if bad:
        raise MediaError(
            root / cell, f"holds {bad} values that are not finite (NaN, infinite, or above 3.4e38)"
        )
    return values


def _open(cell: str, root: Path, dimensions: int) -> Array:
    """The array of a cell: `[L, F]` or `[F]`, F ≥ 1, of real numbers."""
    array = open_cell(cell, root)
    what = "a sequence [L, F]" if dimensions == 2 else "a vector [F]"
    if array.dtype.kind not in "fiub" or array.ndim != dimensions or not array.shape[-1]:
        rows = (
            f"; a row of it is written {cell}#0" if array.ndim == dimensions + 1 and "#" not in cell else ""
        )
        raise MediaError(root / cell, f"is {array.dtype} {list(array.shape)}, not {what} of numbers{rows}")
    return array


def _without_blank_end(array: Array) -> Array:
    """`[L', F]`: without the steps behind the last one that holds a number."""
    if array.dtype.kind != "f" or not len(array) or not np.isnan(array[-1]).all():
        return array
    real = np.flatnonzero(~np.isnan(array).all(axis=1))
    return array[: real[-1] + 1 if len(real) else 0]


def _leading_zeros(array: Array) -> int:
    """How many steps of zeros there are before the first other one, but not all steps."""
    real = np.flatnonzero((np.asarray(array) != 0).any(axis=1))
    return int(real[0]) if len(real) else len(array) - 1


def _finite(array: Array) -> tuple[npt.NDArray[np.float32], int]:
    """(float32 copy with 0 for what is not finite, how many those are)."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, np.float32)
    bad = ~np.isfinite(values)
    values[bad] = 0
    return values, int(bad.sum())
