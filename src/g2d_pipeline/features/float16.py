"""Storing in half precision: what is rounded, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

LARGEST = float(np.finfo(np.float16).max)
OVERFLOW = f"holds values beyond ±{LARGEST:.0f}, which float16 can not store: leave out dtype=float16"


def to_half(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float64]]:
    """float32 `[n, C, …]` → (float16 of the same shape, `[n, 2, C]`: the largest error and the sum of squared
    errors).

    What is beyond float16 becomes infinite, with an error to match: to be refused by the caller.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
        error = np.abs(values.astype(np.float64) - half).reshape(len(values), values.shape[1], -1)
        return half, np.stack([error.max(axis=2), np.square(error).sum(axis=2)], axis=1)


@dataclass(frozen=True)
class Rounding:
    """The errors of an array: the largest `[C]`, the sum of squares `[C]`, and how many numbers a channel
    has."""

    worst: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    count: int

    @classmethod
    def from_errors(cls, errors: npt.NDArray[np.float64], count: int) -> Self:
        """From `[units, 2, C]` as `to_half` gives them."""
        return cls(errors[:, 0].max(axis=0), errors[:, 1].sum(axis=0), count)

    def measured(self, std: list[float]) -> dict[str, float]:
        """`max` and `rms` (root mean square over all stored numbers) in units of the channels' std."""
        divisor = np.asarray(std, np.float64)
        rms = np.sqrt(np.mean(self.squares / np.square(divisor)) / self.count)
        return {"max": float((self.worst / divisor).max()), "rms": float(rms)}
