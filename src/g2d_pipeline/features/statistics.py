"""Mean and standard deviation a channel, in one pass over a memory-mapped array; what float16 rounds."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.features.files import Array, Floats, Rows
from g2d_pipeline.files import release_pages

Normaliser = tuple[list[float], list[float], dict[str, Any]]  # mean and std a channel, further statistics
STD_FLOOR = 1e-6
CONSTANT, TINY = 1e-12, 1e-30  # a std below this share of the mean is rounding; one below TINY is no divisor
LARGEST = float(np.finfo(np.float16).max)
OVERFLOW = f"holds values beyond ±{LARGEST:.0f}, which float16 can not store: leave out dtype=float16"
NO_INFORMATION = float(np.finfo(np.float32).max)  # the std of a constant: what is divided by it is 0


def channel_statistics(array: Array, rows: Rows, scale: float = 1.0, chunk: int | None = None) -> Normaliser:
    """(mean `[C]`, std `[C]`, {}) of scale · `array[rows]`, array `[N, C, …]`, over all but the channel axis.

    float64; the chunks' means and squared deviations are merged by the rule of Chan, Golub and LeVeque
    (1983), which does not cancel. Population std, at least 1e-6; `NO_INFORMATION` of a constant channel.
    `rows` must not be empty. `chunk`: samples at once, by default as many as fill 4 MB."""
    mean, std = _moments(array, rows, scale, chunk, masked=False)
    floored = np.where(_is_constant(mean, std), NO_INFORMATION, np.maximum(std, STD_FLOOR))
    return mean.tolist(), floored.tolist(), {}


def feature_statistics(array: Array, rows: Rows, masked: bool) -> Normaliser:
    """(mean `[C]`, std `[C]`, how many are `constant`) of `array[rows]`, features of any magnitude.

    `masked`: array `[N, C, T]`, of which only the steps count whose last channel is 1; that channel is a mask
    and has mean 0 and std 1, so that it stays as it is. A constant feature has std `NO_INFORMATION`, so that
    a model gets 0, whatever its value is outside train."""
    mean, std = _moments(array, rows, 1.0, None, masked)
    constant = _is_constant(mean, std)
    std[constant] = NO_INFORMATION
    if masked:
        mean[-1], std[-1] = 0.0, 1.0
    return mean.tolist(), std.tolist(), {"constant": int(constant.sum()) - masked}


def _is_constant(mean: Floats, std: Floats) -> Array:
    return np.asarray(std <= np.maximum(TINY, CONSTANT * np.abs(mean)))


def differing_rows(array: Array, normaliser: Any, split: Array, masked: bool) -> dict[str, int]:
    """Channel (its number) → samples outside train with another value, of the channels that are constant in
    train and not elsewhere. `array` `[N, C, …]`, `split` `[N]`, `normaliser` of `meta.json`, or None."""
    std = np.asarray(normaliser["std"] if normaliser else [])
    if normaliser is None or not len(constant := np.flatnonzero(std >= NO_INFORMATION)):
        return {}
    mean = np.asarray(normaliser["mean"])[constant].reshape(1, -1, 1)
    counts = np.zeros(len(constant), np.int64)
    for row in np.flatnonzero(split != "train").tolist():
        values = np.asarray(array[row : row + 1], np.float64)[:, constant].reshape(1, len(constant), -1)
        others = ~np.isclose(normaliser["scale"] * values, mean, 1e-6, 1e-9)
        counts += (others & (array[row, -1] == 1) if masked else others).any(axis=2)[0]
        release_pages(array)
    return {str(c): n for c, n in zip(constant.tolist(), counts.tolist(), strict=True) if n}


def _moments(array: Array, rows: Rows, scale: float, chunk: int | None, masked: bool) -> list[Floats]:
    chunk = chunk or max(1, 2**19 // math.prod(array.shape[1:]))
    count, mean, squares = 0, np.zeros(array.shape[1]), np.zeros(array.shape[1])
    for start in range(0, len(rows), chunk):
        part = array[rows[start : start + chunk]].astype(np.float64)
        if scale != 1:
            part *= scale
        release_pages(array)
        if masked:
            part = part.swapaxes(1, 2)[part[:, -1] == 1].T
        else:
            part = np.moveaxis(part, 1, 0).reshape(len(mean), -1)
        n = part.shape[1]
        new_mean = part.mean(axis=1)
        delta = new_mean - mean
        part -= new_mean[:, None]
        squares += np.square(part, out=part).sum(axis=1) + np.square(delta) * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
    return [mean, np.sqrt(squares / count)]


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
