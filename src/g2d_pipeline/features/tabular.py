"""Columns of a table → floats, with what is learnt on train alone: numbers (datasets.md §5.2), dates,
categories."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import TabularFeatures
from g2d_pipeline.errors import SHOWN, data_error

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"columns": ("fiub", "numbers"), "dates": ("M", "dates"), "categorical": ("OTU", "text")}
BLANK = "<blank>"  # the name of the category of blank cells


def encode(
    table: pd.DataFrame, settings: TabularFeatures, fit_on: npt.NDArray[np.int64], sample_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], dict[str, Any], list[str]]:
    """The manifest's columns → float32 `[N, F]`: the numbers and those of dates standardised, then one-hot
    categories.

    `fit_on`: the rows of train. Returns with it the statistics: those of `standardise`, `categories` (column
    → what train has, in the order of the features) and `features` (F names); and notes. Raises DataError
    where a column is not of the kind it is listed under, and as `standardise` does."""
    for key, (kinds, what) in KINDS.items():
        if wrong := [
            f"{c!r} is {table[c].dtype}" for c in getattr(settings, key) if table[c].dtype.kind not in kinds
        ]:
            remedy = f"list them under another key of the modality than `{key}`."
            raise data_error(f"Table columns under `{key}` do not hold {what}", wrong, remedy)
    names, parts = list(settings.columns), [table[list(settings.columns)].to_numpy(np.float64)]
    for column in settings.dates:
        names += [f"{column} (year)", f"{column} (sine)", f"{column} (cosine)"]
        parts.append(year_and_season(table[column]))
    values, statistics = np.zeros((len(table), 0), np.float32), _no_numbers()
    notes: list[str] = []
    if names:
        values, statistics = standardise(np.concatenate(parts, axis=1), fit_on, names, sample_ids)
    if settings.categorical:
        cells = table[list(settings.categorical)].astype(object)
        found, categories, notes = one_hot(cells.where(cells.notna(), BLANK), fit_on)
        values = np.concatenate([values, found], axis=1)
        statistics["categories"] = categories
        names += [f"{column}={category}" for column, of in categories.items() for category in of]
    return values, statistics | {"features": names}, notes


def year_and_season(days: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Dates `[N]` → `[N, 3]`: the year, sine and cosine of the day in it (1 January: 0 and 1); NaN where
    missing."""
    year = days.dt.year.to_numpy(np.float64)
    length = np.where(days.dt.is_leap_year.to_numpy(bool), 366, 365)
    angle = 2 * np.pi * (days.dt.day_of_year.to_numpy(np.float64) - 1) / length
    return np.stack([year, np.sin(angle), np.cos(angle)], axis=1)


def one_hot(
    cells: pd.DataFrame, fit_on: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], dict[str, list[str]], list[str]]:
    """Categories `[N, columns]` → float32 `[N, categories of train]`, 1 where a sample is of one; with it
    column → its categories, sorted, and notes on categories that train lacks, which are 0 throughout."""
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    encoder.fit(cells.iloc[fit_on])
    categories = {
        str(c): list(map(str, of)) for c, of in zip(cells.columns, encoder.categories_, strict=True)
    }
    with warnings.catch_warnings():  # told below, by name
        warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
        found: npt.NDArray[np.float32] = encoder.transform(cells)
    notes = []
    for column, known in categories.items():
        unknown = cells.loc[~cells[column].isin(known), column]
        if len(unknown):
            named = sorted(set(unknown))
            shown = ", ".join(map(repr, named[:SHOWN])) + (", …" if len(named) > SHOWN else "")
            notes.append(
                f"{len(unknown)} samples have a category of {column!r} that train lacks, so 0: {shown}"
            )
    return found, categories, notes


def _no_numbers() -> dict[str, Any]:
    return {"columns": [], "mean": [], "std": [], "blanks": [], "constant": []}


def standardise(
    values: npt.NDArray[np.float64],
    fit_on: npt.NDArray[np.int64],
    columns: Sequence[str],
    sample_ids: Sequence[str],
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Values `[N, F]` (NaN = blank) → float32 `[N, F]`: blanks become the train mean, then (x − mean) / std
    of train.

    `fit_on`: the rows of train. std is the population's; a constant column is divided by 1. Returns with it
    the statistics, a value a column: `mean`, `std`, `blanks` (in all rows), and `constant` (names of such
    columns). Raises DataError, naming columns and samples, where a column is blank throughout train or a
    value is infinite."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    if (infinite := np.argwhere(np.isinf(values))).size:
        named = [f"{columns[f]!r} of sample {sample_ids[n]}: {values[n, f]}" for n, f in infinite.tolist()]
        raise data_error(
            "Table columns hold infinite values", named, "correct these cells, or leave them blank."
        )
    blank = np.isnan(values)
    if empty := [repr(columns[f]) for f in np.flatnonzero(blank[fit_on].all(axis=0)).tolist()]:
        headline = "Table columns are blank in all of train, so that they have no mean"
        raise data_error(
            headline, empty, "remove them from the modality's `columns`, or fill them in the raw data."
        )
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
