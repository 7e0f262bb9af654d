"""Sequences of features, with a row that says which steps are real."""

from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SequenceFeatures
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.files import Array, Rows
from g2d_pipeline.features.kinds.base import ArraySpec, Corruption, FileKind, Values, keep_some, spread
from g2d_pipeline.features.kinds.vector import finite, open_array, width


class Sequence(FileKind):
    """Array files `[L, F]`, or rows of one `[N, L, F]`, as floats `[F + 1, steps]`."""

    settings: SequenceFeatures
    settings_class = SequenceFeatures
    plural = "sequences"
    endings = frozenset({".npy", ".parquet"})
    corruptions: ClassVar = {"steps dropped": ("{:.0%}", (0.1, 0.3, 0.6))}
    notes: ClassVar[dict[str, str]] = {
        **FileKind.notes,
        "replaced": "with values that are not finite, stored as 0 ({total} in all)",
        "shortened": "longer than `steps`, whose end is left out ({total} steps in all)",
    }

    def spec(self, cells: SequenceOf[str], root: Path) -> ArraySpec:
        return ArraySpec((width(cells, root, 2) + 1, self.settings.steps), self.settings.dtype)

    def read(self, cell: str, root: Path, spec: ArraySpec, content: bytes | None) -> Values:
        values, replaced, shortened = read_sequence(cell, root, self.settings, spec.shape[0] - 1)
        counts = {"replaced": replaced, "shortened": shortened}
        return values, {note: count for note, count in counts.items() if count}

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """Steps are dropped at random; those behind move up."""
        order, kept = keep_some(values[:, -1] == 1, corruption.strength, rng)
        return np.take_along_axis(values, order[:, None], axis=2) * kept[:, None]

    def split_facts(self, headers: list[dict[str, float]], array: Array, rows: Rows) -> dict[str, Any]:
        """The `steps` that are kept."""
        parts = (rows[k : k + 4096] for k in range(0, len(rows), 4096))
        return spread("steps", [n for part in parts for n in array[part, -1].sum(axis=1).tolist()])


def read_sequence(
    cell: str, root: Path, settings: SequenceFeatures, features: int
) -> tuple[npt.NDArray[np.float32], int, int]:
    """A cell `[L, F]` → (float32 `[F + 1, steps]`, values that were not finite, steps that are left out).

    The last row is 1 where a step is real, else 0, as everything is there. Steps at the end that are NaN
    throughout are no steps: so rows of one array file have lengths of their own. Other values that are not
    finite, as float32, become 0. `cut_leading_zeros` leaves at least one step. Raises MediaError where the
    cell is no such array of numbers, has no steps, or is not `features` wide."""
    array = _without_blank_end(open_array(cell, root, 2))
    if not len(array):
        raise MediaError(root / cell, "has no steps: its length is 0")
    if array.shape[1] != features:
        reason = f"has {array.shape[1]} features a step, the first sequence of the modality {features}"
        raise MediaError(root / cell, reason)
    first = _leading_zeros(array) if settings.cut_leading_zeros else 0
    values, replaced = finite(array[first : first + settings.steps])
    result = np.zeros((features + 1, settings.steps), np.float32)
    result[:features, : len(values)] = values.T
    result[features, : len(values)] = 1
    return result, replaced, len(array) - first - len(values)


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
