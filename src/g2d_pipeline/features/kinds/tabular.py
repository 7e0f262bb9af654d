"""Columns of a table → floats: numbers (datasets.md §5.2), dates, categories, all learnt on train alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.config import SPLITS, TabularFeatures
from g2d_pipeline.config.modalities import is_selector
from g2d_pipeline.errors import data_error, enumerated
from g2d_pipeline.features.files import Array, Floats, Rows, create
from g2d_pipeline.features.kinds.base import ColumnKind, Corruption, first_few

DTYPES = {"columns": ("fiub", "numbers"), "dates": ("M", "dates"), "categorical": ("OTU", "text")}
BLANK = "<blank>"  # the name of the category of blank cells


class Tabular(ColumnKind):
    """Columns of a table as floats `[F]`."""

    settings: TabularFeatures
    settings_class = TabularFeatures
    corruptions: ClassVar = {"cells missing": ("{:.0%}", (0.1, 0.3, 0.6))}

    @property
    def columns(self) -> list[str]:
        return self.settings.all_columns

    def expand_columns(self, table: pd.DataFrame, columns: Sequence[str]) -> TabularFeatures:
        """The settings with the columns that patterns have selected, each under the key of its type."""
        s = self.settings
        if list(columns) == s.all_columns or not any(map(is_selector, s.all_columns)):
            return s
        of_kind = {c: table[c].dtype.kind for c in columns}
        by_key = {key: [c for c in columns if of_kind[c] in kinds] for key, (kinds, _) in DTYPES.items()}
        return s.model_copy(update=by_key)

    @property
    def bytes_each(self) -> int:
        return 4 * (len(self.settings.columns) + 3 * len(self.settings.dates))  # categories are few

    def write(
        self, folder: Path, name: str, table: pd.DataFrame, train: Rows, ids: Sequence[str], notes: list[str]
    ) -> dict[str, Any]:
        """Encode the columns and write them; notes constant columns."""
        values, statistics, unknown = encode(table, self.settings, train, ids)
        notes += [f"{name}: {note}." for note in unknown]
        array = create(folder / f"{name}.npy", values.dtype, values.shape)
        array[:] = values
        array.flush()
        if statistics["constant"]:
            notes.append(f"{name}: constant in train: {enumerated(statistics['constant'])}.")
        statistics["blank_rows"] = int(table[self.columns].isna().all(axis=1).sum())
        width = values.shape[1]
        return {
            "shape": [width],
            "dtype": str(values.dtype),
            "normaliser": {"scale": 1.0, "mean": [0.0] * width, "std": [1.0] * width},
            "statistics": statistics,
        }

    def corrupt(self, values: Array, corruption: Corruption, rng: np.random.Generator) -> Array:
        """Cells of the table are missing at random, and get what a blank one has: numbers and dates the train
        mean, 0; categories the one of blank cells, where train has some, else none."""
        s, categories = self.settings, corruption.about["statistics"].get("categories", {})
        widths = [1] * len(s.columns) + [3] * len(s.dates) + [len(names) for names in categories.values()]
        blank = [0] * (len(s.columns) + 3 * len(s.dates))
        blank += [name == BLANK for names in categories.values() for name in names]
        missing = rng.random((len(values), len(widths))) < corruption.strength
        return np.where(np.repeat(missing, widths, axis=1), np.asarray(blank, values.dtype), values)

    def encode(self, table: pd.DataFrame, about: Mapping[str, Any], folder: Path) -> Array:
        return transform(table, self.settings, about["statistics"])[0]

    def facts(self, about: Mapping[str, Any], table: pd.DataFrame, split: Array) -> dict[str, Any]:
        """By split the samples, missing values, and samples with one.

        `missing`: column → split → missing values, of the ten columns that lack most; `missing_in`: how many
        lack some; `constant`: columns constant in train, and the samples of val and test that differ."""
        blank = table.isna() | (table == "")
        blanks = {name: blank[split == name] for name in SPLITS}
        splits = {
            name: {"samples": len(b), "missing": int(b.sum().sum()), "incomplete": int(b.any(axis=1).sum())}
            for name, b in blanks.items()
        }
        lacking = blank.sum()[lambda counts: counts > 0].sort_values(ascending=False, kind="stable")
        most = {str(c): {name: int(b[c].sum()) for name, b in blanks.items()} for c in lacking.index[:10]}
        statistics = about.get("statistics", {})
        constant = list(statistics.get("constant", []))
        few = {"columns": len(constant), "first": constant[:10], "differing": statistics.get("differing", {})}
        return {"splits": splits, "missing": most, "missing_in": len(lacking), "constant": few}


def encode(
    table: pd.DataFrame, settings: TabularFeatures, fit_on: Rows, sample_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], dict[str, Any], list[str]]:
    """The manifest's columns → float32 `[N, F]`: numbers and dates standardised, then one-hot categories.

    `fit_on`: the rows of train. Returns with it the statistics: those of `standardise`, `categories` (column
    → what train has, in the order of the features) and `features` (F names); and notes. Raises DataError
    where a column is not of the kind it is listed under, and as `standardise` does."""
    for key, (kinds, what) in DTYPES.items():
        dtypes = {c: table[c].dtype for c in getattr(settings, key)}
        if wrong := [f"{c!r} is {dtype}" for c, dtype in dtypes.items() if dtype.kind not in kinds]:
            remedy = f"list them under another key of the modality than `{key}`."
            raise data_error(f"Table columns under `{key}` do not hold {what}", wrong, remedy)
    names = list(settings.columns)
    for column in settings.dates:
        names += [f"{column} (year)", f"{column} (sine)", f"{column} (cosine)"]
    statistics: dict[str, Any] = {key: [] for key in ("columns", "mean", "std", "blanks", "constant")}
    if names:
        _, statistics = standardise(numbers(table, settings), fit_on, names, sample_ids)
    if settings.categorical:
        of_train = categories(table.iloc[fit_on], settings)
        statistics["categories"] = {str(c): sorted(set(of_train[c])) for c in of_train}
        names += [f"{c}={level}" for c, levels in statistics["categories"].items() for level in levels]
    values, notes = transform(table, settings, statistics)
    return values, statistics | {"features": names}, notes


def transform(
    table: pd.DataFrame, settings: TabularFeatures, statistics: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """The manifest's columns of any samples → float32 `[N, F]`, by the `statistics` of `encode`; values that
    are too large are infinite. With it notes on categories that train lacks."""
    values, notes = np.zeros((len(table), 0), np.float32), list[str]()
    if statistics["columns"]:
        values = scale(numbers(table, settings), statistics)
    if settings.categorical:
        flags, notes = one_hot(categories(table, settings), statistics["categories"])
        values = np.concatenate([values, flags], axis=1)
    return values, notes


def numbers(table: pd.DataFrame, settings: TabularFeatures) -> Floats:
    """The columns of numbers, then three of each of dates `[N, F]`; NaN where missing."""
    columns = table[list(settings.columns)].to_numpy(np.float64)
    return np.concatenate([columns, *(year_and_season(table[c]) for c in settings.dates)], axis=1)


def categories(table: pd.DataFrame, settings: TabularFeatures) -> pd.DataFrame:
    """The columns of categories; blank cells are one of their own."""
    cells = table[list(settings.categorical)].astype(object)
    return cells.where(cells.notna(), BLANK)


def year_and_season(days: pd.Series[Any]) -> Floats:
    """Dates `[N]` → `[N, 3]`: year, sine and cosine of the day in it (1 January: 0, 1); NaN where missing."""
    year = days.dt.year.to_numpy(np.float64)
    length = np.where(days.dt.is_leap_year.to_numpy(bool), 366, 365)
    angle = 2 * np.pi * (days.dt.day_of_year.to_numpy(np.float64) - 1) / length
    return np.stack([year, np.sin(angle), np.cos(angle)], axis=1)


def one_hot(
    cells: pd.DataFrame, known: Mapping[str, Sequence[str]]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Categories `[N, columns]` → float32 `[N, categories of train]`, 1 where a sample is of one; with it
    notes on categories that train lacks, which are 0 throughout. `known`: column → those of train."""
    flags, notes = [], []
    for column, of_train in known.items():
        flags.append(cells[column].to_numpy()[:, None] == np.array(of_train, object))
        unknown = cells.loc[~flags[-1].any(axis=1), column]
        if len(unknown):
            listed = first_few([repr(category) for category in sorted(set(unknown))])
            what = f"have a category of {column!r} that train lacks, so 0"
            notes.append(f"{len(unknown)} samples {what}: {listed}")
    return np.concatenate(flags, axis=1).astype(np.float32), notes


def standardise(
    values: Floats, fit_on: Rows, columns: Sequence[str], sample_ids: Sequence[str]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Values `[N, F]` (NaN: blank) → float32 `[N, F]`: blanks are the train mean; (x − mean) / std of train.

    `fit_on`: the rows of train. std is the population's. A column that is constant in train carries nothing
    that could be learnt, and is 0 everywhere. Returns with it the statistics, a value a column: `fill` (of
    blanks), `mean`, `std`, `blanks` (in all rows), `constant` (names of such columns), and `differing` (of
    them: name → rows whose value is another one). Raises DataError, naming columns and samples, where a
    column is blank throughout train or a value is infinite."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    def cells(wrong: Array) -> list[str]:
        places = np.argwhere(wrong).tolist()
        return [f"{columns[f]!r} of sample {sample_ids[n]}: {values[n, f]}" for n, f in places]

    if infinite := cells(np.isinf(values)):
        remedy = "correct these cells, or leave them blank."
        raise data_error("Table columns hold infinite values", infinite, remedy)
    blank = np.isnan(values)
    if empty := [repr(columns[f]) for f in np.flatnonzero(blank[fit_on].all(axis=0)).tolist()]:
        headline = "Table columns are blank in all of train, so that they have no mean"
        remedy = "remove them from the modality's `columns`, or fill them in the raw data."
        raise data_error(headline, empty, remedy)
    imputer = SimpleImputer(strategy="mean").fit(values[fit_on])
    filled = imputer.transform(values)
    scaler = StandardScaler().fit(filled[fit_on])
    # scikit-learn divides by 1 where the variance is rounding.
    constant = np.flatnonzero((scaler.scale_ == 1) & ~np.isclose(scaler.var_, 1)).tolist()
    same = {columns[f]: np.isclose(filled[:, f], scaler.mean_[f], 1e-9, 0) for f in constant}
    statistics = {
        "columns": list(columns),
        "fill": imputer.statistics_.tolist(),
        "mean": scaler.mean_.tolist(),
        "std": scaler.scale_.tolist(),
        "blanks": blank.sum(axis=0).tolist(),
        "constant": [columns[f] for f in constant],
        "differing": {name: int((~rows).sum()) for name, rows in same.items() if not rows.all()},
    }
    result = scale(values, statistics)
    if large := cells(~np.isfinite(result)):
        raise data_error("Table values are too large to be standardised", large, "correct these cells.")
    return result, statistics


def scale(values: Floats, statistics: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Values `[N, F]` (NaN: blank), filled and standardised by the `statistics` of `standardise`; infinite
    where they are too large."""
    filled = np.where(np.isnan(values), statistics["fill"], values)
    with np.errstate(over="ignore"):
        result = np.asarray((filled - statistics["mean"]) / statistics["std"], np.float32)
    result[:, [name in set(statistics["constant"]) for name in statistics["columns"]]] = 0
    return result
