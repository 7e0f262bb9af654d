"""Arrays of features → sequences with a mask, and vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from g2d_pipeline.config import SequenceFeatures
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.features.kinds.sequence import read_sequence
from g2d_pipeline.features.kinds.vector import read_vector, width
from g2d_pipeline.features.statistics import NO_INFORMATION, differing_rows, feature_statistics
from g2d_pipeline.models.encoders.base import Normaliser

ROWS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-9, 9, width=32)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


@given(ROWS, st.integers(1, 12))
def test_padding_adds_zeros_and_a_mask(folder: Path, array: np.ndarray, steps: int):
    np.save(folder / "a.npy", array)
    of = SequenceFeatures(steps=steps)
    values, replaced, left_out = read_sequence("a.npy", folder, of, array.shape[1])
    real = min(steps, len(array))
    assert (values.dtype, values.shape) == (np.float32, (array.shape[1] + 1, steps))
    assert np.array_equal(values[:-1, :real], array[:real].T)
    assert not values[:, real:].any()
    assert values[-1].tolist() == [1] * real + [0] * (steps - real)
    assert (replaced, left_out) == (0, len(array) - real)
    longer = read_sequence("a.npy", folder, SequenceFeatures(steps=steps + 3), array.shape[1])[0]
    assert np.array_equal(longer[:, :real], values[:, :real])


@given(ROWS, st.integers(0, 5))
def test_leading_zeros_are_cut_where_asked_for(folder: Path, array: np.ndarray, zeros: int):
    padded = np.concatenate([np.zeros((zeros, array.shape[1]), np.float32), array])
    np.save(folder / "a.npy", array)
    np.save(folder / "padded.npy", padded)
    cut = SequenceFeatures(steps=20, cut_leading_zeros=True)
    found = read_sequence("padded.npy", folder, cut, array.shape[1])[0]
    assert np.array_equal(found, read_sequence("a.npy", folder, cut, array.shape[1])[0])
    kept = read_sequence("padded.npy", folder, SequenceFeatures(steps=20), array.shape[1])[0]
    assert kept[-1].sum() == len(padded)


def test_a_parquet_table_is_a_sequence(folder: Path):
    rows = np.array([[1.5, 2], [np.nan, 4], [5, 6], [np.nan, np.nan]])
    table = pd.DataFrame({"speed": rows[:, 0], "turn": pd.array([2, 4, 6, None], dtype="Int32")})
    table.to_parquet(folder / "walk.parquet")
    assert width(["walk.parquet"], folder, 2) == 2
    np.save(folder / "walk.npy", rows)
    found = read_sequence("walk.parquet", folder, SequenceFeatures(steps=5), 2)
    plain = read_sequence("walk.npy", folder, SequenceFeatures(steps=5), 2)
    assert np.array_equal(found[0], plain[0])
    assert found[1:] == plain[1:] == (1, 0)
    table.assign(gait="trot").to_parquet(folder / "walk.parquet")
    with pytest.raises(MediaError, match=r"columns that are no numbers: 'gait' is (large_)?string"):
        read_sequence("walk.parquet", folder, SequenceFeatures(steps=5), 2)
    pd.DataFrame({"id": [10**18 + 2]}).to_parquet(folder / "walk.parquet")
    assert width(["walk.parquet", "walk.npy"], folder, 2) == 2
    with pytest.raises(MediaError, match=r"whole numbers that are too large \(Integer value 10{17}2"):
        read_sequence("walk.parquet", folder, SequenceFeatures(steps=5), 1)


def test_only_zeros_in_front_are_padding(folder: Path):
    np.save(folder / "a.npy", np.array([[0, 0], [0, 3], [0, 0], [4, 0], [0, 0]]))
    of = SequenceFeatures(steps=6, cut_leading_zeros=True)
    assert read_sequence("a.npy", folder, of, 2)[0].tolist() == [
        [0, 0, 4, 0, 0, 0],
        [3, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    np.save(folder / "zero.npy", np.zeros((5, 2)))
    assert read_sequence("zero.npy", folder, of, 2)[0].tolist() == [[0] * 6, [0] * 6, [1, 0, 0, 0, 0, 0]]


def test_what_is_not_finite_becomes_zero_and_is_counted(folder: Path):
    """-inf is no padding; a number that float32 can not hold is infinite there."""
    np.save(folder / "a.npy", np.array([[-np.inf, 0], [1, np.nan], [1e300, 2], [np.inf, np.inf]]))
    values, replaced, left_out = read_sequence(
        "a.npy", folder, SequenceFeatures(steps=3, cut_leading_zeros=True), 2
    )
    assert values.tolist() == [[0, 1, 0], [0, 0, 2], [1, 1, 1]]
    assert (replaced, left_out) == (3, 1)


@given(ROWS, st.integers(0, 5))
def test_a_blank_end_is_no_part_of_a_sequence(folder: Path, array: np.ndarray, blank: int):
    """Rows of one array file are as long as the longest: the others end with steps of NaN."""
    many = np.full((2, len(array) + blank, array.shape[1]), np.nan)
    many[:, : len(array)] = array
    np.save(folder / "many.npy", many)
    np.save(folder / "a.npy", array)
    of = SequenceFeatures(steps=8)
    found, expected = (read_sequence(cell, folder, of, array.shape[1]) for cell in ("many.npy#1", "a.npy"))
    assert np.array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_a_blank_step_before_others_is_a_step(folder: Path):
    np.save(folder / "a.npy", np.array([[np.nan, np.nan], [1, np.nan], [np.nan, np.nan]]))
    values, replaced, _ = read_sequence("a.npy", folder, SequenceFeatures(steps=3), 2)
    assert (values.tolist(), replaced) == ([[0, 1, 0], [0, 0, 0], [1, 1, 0]], 3)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool", ">f4"])
def test_numbers_of_any_type_in_rows(folder: Path, dtype: str):
    whole = np.arange(12).reshape(2, 3, 2) % 2
    np.save(folder / "many.npy", whole.astype(dtype))
    assert np.array_equal(
        read_sequence("many.npy#1", folder, SequenceFeatures(steps=3), 2)[0][:-1], whole[1].T
    )
    np.save(folder / "vectors.npy", whole[0].astype(dtype))
    assert np.array_equal(read_vector("vectors.npy#2", folder, 2), whole[0][2])


def test_the_width_is_that_of_the_first_usable_cell(folder: Path):
    np.save(folder / "object.npy", np.array([[1, "a"]], object), allow_pickle=True)
    np.save(folder / "a.npy", np.zeros((4, 7)))
    assert width(["missing.npy", "object.npy", "a.npy"], folder, 2) == 7
    assert width(["missing.npy"], folder, 2) == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), "has 4 features a step, the first sequence of the modality 2"),
        (np.zeros((0, 2)), "has no steps: its length is 0"),
        (np.full((3, 2), np.nan), "has no steps: its length is 0"),
        (np.zeros((3, 0)), r"is float64 \[3, 0\], not a sequence \[L, F\] of numbers"),
        (np.zeros(3), r"is float64 \[3\], not a sequence"),
        (np.zeros((5, 3, 2)), r"is float64 \[5, 3, 2\].*a row of it is written bad.npy#0"),
        (np.zeros((3, 2), complex), r"is complex128 \[3, 2\], not a sequence"),
        (np.array([["a", "b"]]), r"is <U1 \[1, 2\], not a sequence"),
        (np.array([[1, None]], object), "holds pickled Python objects, which are never loaded"),
    ],
)
def test_a_bad_sequence_is_told(tmp_path: Path, array: Any, message: str):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(MediaError, match=f"bad.npy {message}"):
        read_sequence("bad.npy", tmp_path, SequenceFeatures(), 2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "has 4 features, the first vector of the modality 2"),
        (
            np.zeros((3, 2)),
            r"is float64 \[3, 2\], not a vector \[F\] of numbers; a row of it is written bad.npy#0",
        ),
        (np.array([np.nan, 1e300]), "holds 2 values that are not finite"),
    ],
)
def test_a_bad_vector_is_told(tmp_path: Path, array: Any, message: str):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(MediaError, match=f"bad.npy {message}"):
        read_vector("bad.npy", tmp_path, 2)


@pytest.mark.parametrize(
    ("cell", "content", "message"),
    [
        ("a.npy", b"", r"is empty \(0 bytes\)"),
        ("a.npy", b"version https://git-lfs.github.com/spec/v1\n", "is a Git-LFS pointer"),
        ("a.npy", b"noise" * 99, r"is not a \.npy array"),
        ("a.csv", b"1,2\n", r"is no array file: its name does not end in \.npy or \.parquet"),
        ("a.parquet", b"PAR1xxxx", r"is no parquet table"),
        ("a.npy#7", None, r"has no row 7: its shape is \[3, 2\]"),
        ("b.npy", None, "is missing"),
    ],
)
def test_a_bad_array_file_is_told(tmp_path: Path, cell: str, content: bytes | None, message: str):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    if content is not None:
        (tmp_path / cell).write_bytes(content)
    with pytest.raises(MediaError, match=message):
        read_sequence(cell, tmp_path, SequenceFeatures(), 2)


def test_a_truncated_array_is_told(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((30, 2)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    with pytest.raises(MediaError, match="is truncated: its header"):
        read_sequence("a.npy", tmp_path, SequenceFeatures(), 2)


def test_real_vectors(shared_data: Path):
    root = shared_data / "cremad_features"
    found = read_vector("audio_features.npy#703", root, 512)
    assert np.array_equal(found, np.load(root / "audio_features.npy")[703].astype(np.float32))


# ------------------------------------------------------------------------------------------------- normaliser
@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
def test_statistics_are_those_of_the_real_steps(lengths: list[int], centre: float, spread: float):
    rng = np.random.default_rng(0)
    array = np.zeros((len(lengths), 4, 6), np.float32)
    real = []
    for k, length in enumerate(lengths):
        values = (centre + spread * rng.standard_normal((3, length))).astype(np.float32)
        array[k, :3, :length], array[k, 3, :length] = values, 1
        real.append(values)
    mean, std, _ = feature_statistics(array, np.arange(len(lengths)), masked=True)
    steps = np.concatenate(real, axis=1).astype(np.float64)
    expected = np.std(steps, axis=1)
    expected[expected <= 1e-12 * np.abs(steps.mean(axis=1))] = NO_INFORMATION
    np.testing.assert_allclose(mean[:3], steps.mean(axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(std[:3], expected, rtol=1e-6)
    assert (mean[3], std[3]) == (0, 1)


def test_constant_features_carry_nothing_whatever_they_are_outside_train():
    array = np.full((50, 3), 0.1, np.float32)
    array[:, 1] = np.arange(50) * 1e-9
    mean, std, constant = feature_statistics(array, np.arange(50), masked=False)
    assert (std[0], std[2], constant) == (NO_INFORMATION, NO_INFORMATION, {"constant": 2})
    assert std[1] == pytest.approx(1e-9 * np.std(np.arange(50)))
    assert mean[0] == pytest.approx(0.1)
    seen = Normaliser(1.0, mean, std)(torch.tensor([[1e12, 0.0, -5.0]]))
    assert seen[0, [0, 2]].abs().max() < 1e-20
    split = np.array(["train"] * 40 + ["val"] * 5 + ["test"] * 5)
    array[45:, 0], array[41, 2] = 1e12, 7
    about = {"scale": 1.0, "mean": mean, "std": std}
    assert differing_rows(array, about, split, masked=False) == {"0": 5, "2": 1}
