"""Table columns, standardised on train; dates as numbers; categories one-hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from g2d_pipeline.config import TabularFeatures
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store
from g2d_pipeline.features.kinds.tabular import encode, standardise, year_and_season
from g2d_pipeline.features.statistics import NO_INFORMATION, channel_statistics

NAN = np.nan
IDS = [f"s{i}" for i in range(20)]


def test_a_hand_made_table():
    values = np.array([[1.0, 5.0, NAN], [3.0, 5.0, 4.0], [NAN, 5.0, 8.0], [9.0, NAN, NAN]])
    found, statistics = standardise(values, np.arange(3), ["a", "b", "c"], IDS)
    root = np.sqrt(2 / 3)  # of a: 1, 3 and the mean 2; of c: 6 (the mean), 4, 8
    expected = [
        [-1 / root, 0, 0],
        [1 / root, 0, -2 / np.sqrt(8 / 3)],
        [0, 0, 2 / np.sqrt(8 / 3)],
        [7 / root, 0, 0],
    ]
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)
    assert statistics["mean"] == [2.0, 5.0, 6.0]
    assert statistics["std"] == pytest.approx([root, 1.0, np.sqrt(8 / 3)])
    assert statistics["blanks"] == [1, 1, 2]
    assert statistics["constant"] == ["b"]
    assert statistics["differing"] == {}


@pytest.mark.parametrize("rounding", [0.0, 1e-17])
def test_a_column_constant_in_train_is_nothing_to_the_model(rounding: float):
    values = np.array([[0.1, 1.0], [0.1 + rounding, 2.0], [0.1, 3.0], [1e12, 4.0], [0.1, 5.0], [-3.0, NAN]])
    found, statistics = standardise(values, np.arange(3), ["x", "y"], IDS)
    assert not found[:, 0].any()
    assert (statistics["constant"], statistics["differing"]) == (["x"], {"x": 2})


def test_a_column_of_variance_one_is_not_constant():
    """√(1 + ε) is 1: scikit-learn divides by 1 here, too, and rightly so."""
    values = np.array([[-1.0], [1.0], [-1.0], [1.0 + 4e-16], [3.0]])
    found, statistics = standardise(values, np.arange(4), ["x"], IDS)
    assert statistics["std"] == [1.0]
    assert statistics["constant"] == []
    assert found[:, 0].tolist() == [-1, 1, -1, 1, 3]


def test_bad_columns_are_told():
    values = np.array([[1.0, NAN, NAN], [2.0, NAN, NAN], [3.0, 4.0, 5.0]])
    with pytest.raises(
        DataError, match=r"(?s)blank in all of train.*'rain'.*'wind'.*What to do: remove them"
    ):
        standardise(values, np.arange(2), ["heat", "rain", "wind"], IDS)
    values = np.full((9, 1), 1.0)
    values[1:8] = np.inf
    with pytest.raises(DataError, match=r"(?s)infinite.*'heat' of sample s1: inf.*and 2 more, 7 in all"):
        standardise(values, np.arange(9), ["heat"], IDS)
    values = np.array([[0.0], [1e-3], [1e300]])
    with pytest.raises(DataError, match=r"(?s)too large to be standardised.*sample s2: 1e\+300"):
        standardise(values, np.arange(2), ["heat"], IDS)


@settings(max_examples=30)
@given(hnp.arrays(np.float64, (10, 3), elements=st.one_of(st.floats(-100, 100), st.just(NAN))))
def test_any_table(values: np.ndarray):
    values[0] = 1.0
    found, statistics = standardise(values, np.arange(7), ["a", "b", "c"], IDS)
    assert np.isfinite(found).all()
    for f in range(3):
        mean = np.nanmean(values[:7, f])
        assert statistics["mean"][f] == pytest.approx(mean, abs=1e-9)
        assert np.allclose(found[np.isnan(values[:, f]), f], 0, atol=1e-5)
        assert abs(found[:7, f].mean()) < 1e-4
    changed = values.copy()
    changed[7:] = 42.0
    again = standardise(changed, np.arange(7), ["a", "b", "c"], IDS)
    assert np.array_equal(again[0][:7], found[:7])
    assert again[1]["mean"] == statistics["mean"]


MIXED = TabularFeatures(columns=["heat"], dates=["day"], categorical=["soil"])


def mixed() -> pd.DataFrame:
    """Six rows, of which the first four are train."""
    days = ["2020-01-01", "2021-01-01", None, "2022-07-02", "1999-12-31", None]
    return pd.DataFrame({
        "heat": [1.0, 3.0, NAN, 5.0, 99.0, NAN],
        "day": pd.to_datetime(pd.Series(days)).astype("datetime64[ms]"),
        "soil": pd.Series(["sand", "clay", None, "sand", "peat", "clay"], dtype="str"),
    })  # fmt: skip


def test_numbers_dates_and_categories_side_by_side():
    found, statistics, notes = encode(mixed(), MIXED, np.arange(4), IDS)
    assert statistics["features"] == [
        "heat", "day (year)", "day (sine)", "day (cosine)", "soil=<blank>", "soil=clay", "soil=sand",
    ]  # fmt: skip
    assert (found.dtype, found.shape) == (np.float32, (6, 7))
    plain = standardise(mixed()[["heat"]].to_numpy(), np.arange(4), ["heat"], IDS)
    assert np.array_equal(found[:, :1], plain[0])
    assert statistics["mean"][:2] == [3.0, 2021.0]
    assert found[[2, 5], 1:4] == pytest.approx(np.zeros((2, 3)), abs=1e-6)  # no date: the train mean
    assert found[:, 4:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert statistics["categories"] == {"soil": ["<blank>", "clay", "sand"]}
    assert notes == ["1 samples have a category of 'soil' that train lacks, so 0: 'peat'"]


def test_nothing_is_learnt_outside_of_train():
    found, statistics, _ = encode(mixed(), MIXED, np.arange(4), IDS)
    other = mixed()
    other.loc[4:, "heat"] = -7.0
    other.loc[4:, "soil"] = "chalk"
    other.loc[4:, "day"] = pd.Timestamp("1800-05-05")
    again, statistics_again, _ = encode(other, MIXED, np.arange(4), IDS)
    assert np.array_equal(again[:4], found[:4])
    for key in ("mean", "std", "categories", "features"):
        assert statistics_again[key] == statistics[key]


def test_numbers_alone_are_what_they_were():
    table = mixed()[["heat"]].assign(rain=[1.0, NAN, 2.0, 4.0, 8.0, 16.0])
    found, statistics, notes = encode(table, TabularFeatures(columns=["rain", "heat"]), np.arange(4), IDS)
    values, plain = standardise(table[["rain", "heat"]].to_numpy(), np.arange(4), ["rain", "heat"], IDS)
    assert np.array_equal(found, values)
    assert statistics == plain | {"features": ["rain", "heat"]}
    assert notes == []


def test_categories_alone():
    found, statistics, _ = encode(mixed(), TabularFeatures(categorical=["soil"]), np.arange(4), IDS)
    assert found.shape == (6, 3)
    assert statistics["mean"] == []


def test_the_year_is_a_circle():
    days = pd.Series(pd.to_datetime(["2023-01-01", "2023-12-31", "2024-12-31", "2023-07-02"]))
    year, sine, cosine = year_and_season(days).T
    assert year.tolist() == [2023, 2023, 2024, 2023]
    assert sine == pytest.approx(
        [0, -np.sin(2 * np.pi / 365), -np.sin(2 * np.pi / 366), np.sin(2 * np.pi * 182 / 365)]
    )
    assert cosine == pytest.approx([1, np.cos(2 * np.pi / 365), np.cos(2 * np.pi / 366), -1], abs=1e-4)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (
            {"columns": ["soil"]},
            r"under `columns` do not hold numbers.*'soil' is str.*another key of the modality",
        ),
        ({"categorical": ["heat"]}, r"under `categorical` do not hold text.*'heat' is float64"),
        ({"dates": ["soil"]}, r"under `dates` do not hold dates.*'soil' is str"),
    ],
)
def test_columns_under_the_wrong_key_are_told(of: dict[str, list[str]], words: str):
    with pytest.raises(DataError, match=f"(?s){words}"):
        encode(mixed(), TabularFeatures(**of), np.arange(4), IDS)


def test_settings_of_columns():
    assert TabularFeatures(categorical="soil/place", dates="day").all_columns == ["day", "soil", "place"]
    with pytest.raises(ValueError, match="at least one column under `columns`"):
        TabularFeatures()
    with pytest.raises(ValueError, match="more than once: soil"):
        TabularFeatures(columns=["soil"], categorical=["soil"])


def test_a_store_of_a_mixed_table(make_raw: Callable[..., Any]):
    raw = make_raw(12, only=["table"], table=TabularFeatures(columns=["heat", "rain"], categorical=["soil"]))
    raw.table["soil"] = pd.Series(["sand", "clay", None] * 4, dtype="str")
    raw.table.loc[11, "soil"] = "peat"
    store = open_store(raw.write(raw.root / "store"))
    assert store.arrays["table"].shape == (12, 5)
    about = store.meta["modalities"]["table"]
    assert about["shape"] == [5]
    assert about["statistics"]["features"] == ["heat", "rain", "soil=<blank>", "soil=clay", "soil=sand"]
    assert about["normaliser"] == {"scale": 1.0, "mean": [0.0] * 5, "std": [1.0] * 5}
    assert "table: 1 samples have a category of 'soil' that train lacks, so 0: 'peat'." in store.meta["notes"]


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-9, 9, width=32)
    ),
    st.integers(1, 7),
    st.floats(-1e6, 1e6),
)
def test_statistics_in_one_pass(array: np.ndarray, chunk: int, offset: float):
    shifted = array.astype(np.float64) + offset
    rows = np.arange(0, len(array), 2)
    mean, std, _ = channel_statistics(shifted, rows, 0.5, chunk)
    over = (0, *range(2, array.ndim))
    assert np.allclose(mean, 0.5 * shifted[rows].mean(axis=over), atol=1e-9, rtol=1e-12)
    expected = 0.5 * shifted[rows].std(axis=over)
    constant = expected <= np.maximum(1e-30, 1e-12 * np.abs(mean))
    assert np.allclose(std, np.where(constant, NO_INFORMATION, np.maximum(expected, 1e-6)), atol=1e-8)
