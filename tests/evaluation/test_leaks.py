"""Columns that give the target away are named, honest ones are not, and thousands of columns cost seconds."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.data_report.leakage import suspected_leaks

N = 300
RNG = np.random.default_rng(0)
TRAIN = np.arange(N) < 200
CLASS = RNG.integers(0, 4, N)
NUMBER = RNG.lognormal(size=N)
COLUMNS = {
    "noise": RNG.normal(size=N),
    "good": CLASS + RNG.normal(size=N) * 0.4,
    "constant": np.ones(N),
    "code": np.array([7, 1, 9, 3])[CLASS],
    "shifted": 10 * CLASS + RNG.uniform(size=N),
    "word": np.array(["oak", "elm", "fir", "ash"], object)[CLASS],
    "id": np.array([f"s{i}" for i in range(N)], object),
    "holes": np.where(RNG.random(N) < 0.3, np.nan, CLASS + 0.0),
}


def leaks(columns: dict, target: np.ndarray, classes: int) -> list[str]:
    table = pd.DataFrame(columns)
    return sorted(one["column"] for one in suspected_leaks(table, list(columns), target, TRAIN, classes))


def test_of_classes():
    assert leaks(COLUMNS, CLASS, 4) == ["code", "shifted", "word"]


def test_a_rare_class_that_is_missed_is_no_leak():
    rare = (np.arange(N) % 50 == 0).astype(int)  # always "no" is right for 98 %
    assert leaks({"noise": COLUMNS["noise"]}, rare, 2) == []


def test_of_numbers():
    columns = {
        "log": np.log(NUMBER),
        "negative": -3 * NUMBER + 1e-9 * RNG.normal(size=N),
        "good": NUMBER + 0.3 * RNG.normal(size=N),
        "constant": np.zeros(N),
    }
    assert leaks(columns, NUMBER, 0) == ["log", "negative"]


@pytest.mark.parametrize("rows", [0, 5, 19])
def test_few_samples_tell_nothing(rows: int):
    table = pd.DataFrame({"code": CLASS[:rows]})
    assert suspected_leaks(table, ["code"], CLASS[:rows], TRAIN[:rows], 4) == []


def test_ten_thousand_columns_in_seconds():
    table = pd.DataFrame(RNG.normal(size=(N, 10_000)).astype(np.float32))
    table.columns = [f"band_{i}" for i in range(10_000)]
    table["band_77"] = CLASS
    start = time.process_time()
    found = suspected_leaks(table, list(table), CLASS, TRAIN, 4)
    assert [one["column"] for one in found] == ["band_77"]
    assert time.process_time() - start < 10
