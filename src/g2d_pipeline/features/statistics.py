"""Mean and standard deviation a channel, in one pass over a memory-mapped array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.files import release_pages

STD_FLOOR = 1e-6
CONSTANT, TINY = 1e-12, 1e-30  # a std below this share of the mean is rounding; one below TINY is no divisor


def channel_statistics(
    array: npt.NDArray[Any], rows: npt.NDArray[np.int64], scale: float = 1.0, chunk: int | None = None
) -> tuple[list[float], list[float]]:
    """(mean `[C]`, std `[C]`) of scale · `array[rows]`, array `[N, C, …]`, over all but the channel axis.

    float64; the chunks' means and squared deviations are merged by the rule of Chan, Golub and LeVeque
    (1983), which does not cancel. Population std, at least 1e-6. `rows` must not be empty. `chunk`: samples
    at once, by default as many as fill 4 MB."""
    mean, std = _moments(array, rows, scale, chunk, masked=False)
    return mean.tolist(), np.maximum(std, STD_FLOOR).tolist()


def feature_statistics(
    array: npt.NDArray[Any], rows: npt.NDArray[np.int64], masked: bool
) -> tuple[list[float], list[float], int]:
    """(mean `[C]`, std `[C]`, how many are constant) of `array[rows]`, features of any magnitude.

    `masked`: array `[N, C, T]`, of which only the steps count whose last channel is 1; that channel is a mask
    and has mean 0 and std 1, so that it stays as it is. A constant feature has std 1, as scikit-learn's
    scaler does it: a value that differs from it outside train would become a million otherwise."""
    mean, std = _moments(array, rows, 1.0, None, masked)
    constant = std <= np.maximum(TINY, CONSTANT * np.abs(mean))
    std[constant] = 1.0
    if masked:
        mean[-1] = 0.0
    return mean.tolist(), std.tolist(), int(constant.sum()) - masked


def _moments(
    array: npt.NDArray[Any], rows: npt.NDArray[np.int64], scale: float, chunk: int | None, masked: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    chunk = chunk or max(1, 2**19 // math.prod(array.shape[1:]))
    count, mean, squares = 0, np.zeros(array.shape[1]), np.zeros(array.shape[1])
    for start in range(0, len(rows), chunk):
        part = array[rows[start : start + chunk]].astype(np.float64)
        if scale != 1:
            part *= scale
        release_pages(array)
        part = (
            part.swapaxes(1, 2)[part[:, -1] == 1].T
            if masked
            else np.moveaxis(part, 1, 0).reshape(len(mean), -1)
        )
        n = part.shape[1]
        new_mean = part.mean(axis=1)
        delta = new_mean - mean
        part -= new_mean[:, None]
        squares += np.square(part, out=part).sum(axis=1) + np.square(delta) * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
    return mean, np.sqrt(squares / count)
