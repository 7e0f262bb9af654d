"""Numeric columns → standardised floats, with the statistics of train alone (datasets.md §5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error


def standardise(
    values: npt.NDArray[np.float64], fit_on: npt.NDArray[np.int64], columns: Sequence[str], sample_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Values `[N, F]` (NaN = blank) → float32 `[N, F]`: blanks become the train mean, then (x − mean) / std of train.

    `fit_on`: the rows of train. std is the population's; a constant column is divided by 1. Returns with it the
    statistics, a value a column: `mean`, `std`, `blanks` (in all rows), and `constant` (names of such columns). Raises
    DataError, naming columns and samples, where a column is blank throughout train or a value is infinite.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if (infinite := np.argwhere(np.isinf(values))).size:
        named = [f"{columns[f]!r} of sample {sample_ids[n]}: {values[n, f]}" for n, f in infinite.tolist()]
        raise data_error("Table columns hold infinite values", named, "correct these cells, or leave them blank.")
    blank = np.isnan(values)
    if empty := [repr(columns[f]) for f in np.flatnonzero(blank[fit_on].all(axis=0)).tolist()]:
        headline = "Table columns are blank in all of train, so that they have no mean"
        raise data_error(headline, empty, "remove them from the modality's `columns`, or fill them in the raw data.")
    imputer = SimpleImputer(strategy="mean").fit(values[fit_on])
    filled = imputer.transform(values)
    scaler = StandardScaler().fit(filled[fit_on])
    with np.errstate(over="ignore"):  # told below, by name
        result = scaler.transform(filled).astype(np.float32)
    if (broken := np.argwhere(~np.isfinite(result))).size:
        named = [f"{columns[f]!r} of sample {sample_ids[n]}: {values[n, f]}" for n, f in broken.tolist()]
        raise data_error("Table values are too large to be standardised", named, "correct these cells.")
    return result, {
        "columns": list(columns),
        "mean": scaler.mean_.tolist(),
        "std": scaler.scale_.tolist(),
        "blanks": blank.sum(axis=0).tolist(),
        "constant": [columns[f] for f in range(len(columns)) if np.ptp(filled[fit_on, f]) == 0],
    }
