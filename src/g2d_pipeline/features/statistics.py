"""Mean and standard deviation a channel, in one pass over a memory-mapped array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

STD_FLOOR = 1e-6


def channel_statistics(
    array: npt.NDArray[Any], rows: npt.NDArray[np.int64], scale: float = 1.0, chunk: int | None = None
) -> tuple[list[float], list[float]]:
    """(mean `[C]`, std `[C]`) of scale · `array[rows]`, array `[N, C, …]`, over all but the channel axis.

    float64; the chunks' means and squared deviations are merged by the rule of Chan, Golub and LeVeque (1983), which
    does not cancel. Population std, at least 1e-6. `rows` must not be empty. `chunk`: samples at once, by default as
    many as fill 4 MB.
    """
    chunk = chunk or max(1, 2**19 // math.prod(array.shape[1:]))
    count, mean, squares = 0, np.zeros(array.shape[1]), np.zeros(array.shape[1])
    for start in range(0, len(rows), chunk):
        part = np.asarray(array[rows[start : start + chunk]], np.float64) * scale
        part = np.moveaxis(part, 1, 0).reshape(len(mean), -1)
        n = part.shape[1]
        new_mean = part.mean(axis=1)
        delta = new_mean - mean
        squares += np.square(part - new_mean[:, None]).sum(axis=1) + np.square(delta) * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
    return mean.tolist(), np.maximum(np.sqrt(squares / count), STD_FLOOR).tolist()
