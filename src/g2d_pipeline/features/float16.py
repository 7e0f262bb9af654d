"""Storing in half precision: what is rounded, and by how much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from g2d_pipeline.features.files import Array, Floats, Rows

LARGEST = float(np.finfo(np.float16).max)
OVERFLOW = f"holds values beyond ±{LARGEST:.0f}, which float16 can not store: leave out dtype=float16"


def to_half(values: Array) -> tuple[npt.NDArray[np.float16], Floats]:
    """float32 `[n, C, …]` → (float16 of the same shape, `[n, 2, C]`: largest error, sum of squared errors).

    What is beyond float16 becomes infinite, with an error to match: to be refused by the caller."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
        error = np.abs(values.astype(np.float64) - half).reshape(len(values), values.shape[1], -1)
        return half, np.stack([error.max(axis=2), np.square(error).sum(axis=2)], axis=1)


def infinite_rows(values: Array) -> Rows:
    """The rows of `[n, …]` that hold a number which is not finite."""
    return np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))


def summed_errors(errors: Floats) -> Floats:
    """Rounding errors `[n, 2, C]` of several arrays → `[2, C]` of all."""
    return np.stack([errors[:, 0].max(axis=0), errors[:, 1].sum(axis=0)])


def relative_errors(errors: Floats, count: int, std: list[float]) -> dict[str, float]:
    """Rounding errors `[n, 2, C]` of `count` numbers a channel → `max` and `rms` (root mean square over all
    stored numbers) in units of the channels' std."""
    worst, squares = summed_errors(errors)
    divisor = np.asarray(std, np.float64)
    rms = np.sqrt(np.mean(squares / np.square(divisor)) / count)
    return {"max": float((worst / divisor).max()), "rms": float(rms)}
