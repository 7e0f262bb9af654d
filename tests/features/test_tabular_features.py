"""Table columns, standardised on train."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.statistics import channel_statistics
from g2d_pipeline.features.tabular import standardise

NAN = np.nan
IDS = [f"s{i}" for i in range(20)]


def test_a_hand_made_table():
    values = np.array([[1.0, 5.0, NAN], [3.0, 5.0, 4.0], [NAN, 5.0, 8.0], [9.0, NAN, NAN]])
    found, statistics = standardise(values, np.arange(3), ["a", "b", "c"], IDS)
    root = np.sqrt(2 / 3)  # of a: 1, 3 and the mean 2; of c: 6 (the mean), 4, 8
    expected = [[-1 / root, 0, 0], [1 / root, 0, -2 / np.sqrt(8 / 3)], [0, 0, 2 / np.sqrt(8 / 3)], [7 / root, 0, 0]]
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)
    assert statistics["mean"] == [2.0, 5.0, 6.0]
    assert statistics["std"] == pytest.approx([root, 1.0, np.sqrt(8 / 3)])
    assert statistics["blanks"] == [1, 1, 2]
    assert statistics["constant"] == ["b"]


def test_bad_columns_are_told():
    values = np.array([[1.0, NAN, NAN], [2.0, NAN, NAN], [3.0, 4.0, 5.0]])
    with pytest.raises(DataError, match=r"(?s)blank in all of train.*'rain'.*'wind'.*What to do: remove them"):
        standardise(values, np.arange(2), ["heat", "rain", "wind"], IDS)
    values = np.full((9, 1), 1.0)
    values[1:8] = np.inf
    with pytest.raises(DataError, match=r"(?s)infinite.*'heat' of sample s1: inf.*and 2 more, 7 in all"):
        standardise(values, np.arange(9), ["heat"], IDS)
    values = np.array([[0.0], [1e-3], [1e300]])
    with pytest.raises(DataError, match=r"(?s)too large to be standardised.*sample s2: 1e\+300"):
        standardise(values, np.arange(2), ["heat"], IDS)


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-9, 9, width=32)),
    st.integers(1, 7),
    st.floats(-1e6, 1e6),
)
def test_statistics_in_one_pass(array: np.ndarray, chunk: int, offset: float):
    shifted = array.astype(np.float64) + offset
    rows = np.arange(0, len(array), 2)
    mean, std = channel_statistics(shifted, rows, 0.5, chunk)
    over = (0, *range(2, array.ndim))
    assert np.allclose(mean, 0.5 * shifted[rows].mean(axis=over), atol=1e-9, rtol=1e-12)
    assert np.allclose(std, np.maximum(0.5 * shifted[rows].std(axis=over), 1e-6), atol=1e-8)
