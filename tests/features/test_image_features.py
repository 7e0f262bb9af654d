"""Pictures → bytes, their low-energy form, and rows of array files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from g2d_pipeline.errors import DataError
from g2d_pipeline.features.cells import open_cell, split_cell
from g2d_pipeline.features.kinds.image import LowEnergy, read_floats, read_image, resize

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (5, 4, 3), np.uint8)


def low_energy(images: np.ndarray, energy: float, fit_on: np.ndarray) -> np.ndarray:
    return LowEnergy.fit(images[fit_on], energy).apply(images)


def read(path: Path, channels: int = 3) -> np.ndarray:
    return read_image(path.name, path.parent, channels).numpy()  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- decoding
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "is missing"),
        ("empty", r"is empty \(0 bytes\)"),
        ("lfs", "is a Git-LFS pointer"),
        ("html", "is a web page"),
        ("noise", "can not be decoded"),
        ("folder", "is a folder"),
        ("jpg truncated", "is truncated"),
        ("png truncated", "is truncated"),
        ("png floats", "has 32-bit pixels"),
        ("wav nan", "can not be decoded"),
    ],
)
def test_a_bad_picture_is_told(broken_media: dict[str, Path], what: str, message: str):
    with pytest.raises(DataError, match=f"(?s){broken_media[what].name} {message}.*What to do"):
        read(broken_media[what])


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png is too large, perhaps a decompression bomb"):
        read(tmp_path / "bomb.png")


def test_rgb_and_grey(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), PIXELS.transpose(2, 0, 1))
    grey = read(tmp_path / "a.png", 1)
    assert grey.shape == (1, 5, 4)
    assert np.abs(grey[0] - PIXELS @ [0.299, 0.587, 0.114]).max() <= 1
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png"), np.stack([PIXELS[..., 0]] * 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1", "transparent P"])
def test_other_modes_are_converted(tmp_path: Path, mode: str):
    picture = Image.new("RGB", (4, 5), (255, 255, 255))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "transparent P":
        picture.convert("P").save(path, transparency=bytes([0] * 256))
    else:
        picture.convert(mode).save(path)
    assert np.array_equal(read(path), np.full((3, 5, 4), 255))
    assert np.array_equal(read(path, 1), np.full((1, 5, 4), 255))


def test_16_bit_grey_keeps_its_high_byte(tmp_path: Path):
    deep = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read(tmp_path / "deep.png", 1).tolist() == [[[0, 0, 1, 156, 255]]]


def test_pictures_are_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise to be seen upright
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png"), np.rot90(PIXELS, -1).transpose(2, 0, 1))


def test_resizing_ignores_the_aspect_ratio_and_antialiases():
    stripes = torch.zeros(1, 4, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = resize(stripes, (8, 8))
    assert (small.shape, small.dtype) == ((1, 8, 8), torch.uint8)
    assert (small[..., 1:-1].int() - 127).abs().max() <= 2  # without antialiasing: stripes of another width
    assert resize(stripes, (4, 64)) is stripes


# ------------------------------------------------------------------------------------------------ array files
@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a/b.npy#12", ("a/b.npy", 12)),
        ("t10k.gz#0", ("t10k.gz", 0)),
        ("take #3.wav", ("take #3.wav", None)),
        ("song#3", ("song#3", None)),
        ("b.npy", ("b.npy", None)),
    ],
)
def test_cells(cell: str, expected: tuple[str, int | None]):
    assert split_cell(cell) == expected


@pytest.mark.parametrize("axes", ["HW", "HW1", "1HW", "HW3", "3HW"])
def test_rows_of_arrays(tmp_path: Path, axes: str):
    many = RNG.integers(0, 256, (3, 3, 6, 5), np.uint8)
    stored = {"HW": many[:, 0], "HW1": many[:, 0, ..., None], "1HW": many[:, :1], "3HW": many,
              "HW3": many.transpose(0, 2, 3, 1)}[axes]  # fmt: skip
    np.save(tmp_path / "x.npy", stored)
    expected = many[2] if "3" in axes else many[2, :1]
    assert np.array_equal(read_image("x.npy#2", tmp_path, 3 if "3" in axes else 1).numpy(), expected)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


def test_idx_rows(tmp_path: Path):
    many = RNG.integers(0, 256, (4, 6, 5), np.uint8)
    (tmp_path / "i.gz").write_bytes(gzip.compress(idx(many)))
    assert np.array_equal(read_image("i.gz#3", tmp_path, 1).numpy()[0], many[3])


def test_a_changed_array_is_read_anew(tmp_path: Path):
    for value in (1, 2):
        np.save(tmp_path / "x.npy", np.full((2, 3), value, np.uint8))
        os.utime(tmp_path / "x.npy", ns=(value, value))
        assert open_cell("x.npy#1", tmp_path).tolist() == [value] * 3


def test_bad_array_files_are_told(tmp_path: Path):
    many = np.zeros((4, 6, 5), np.uint8)
    np.save(tmp_path / "whole.npy", many)
    whole, packed = (tmp_path / "whole.npy").read_bytes(), gzip.compress(idx(many))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], object), allow_pickle=True)
    np.save(tmp_path / "floats.npy", many.astype(np.float64))
    np.save(tmp_path / "flat.npy", many.reshape(4, -1))
    (tmp_path / "short.npy").write_bytes(whole[:-1])
    (tmp_path / "text.npy").write_bytes(b"not an array at all")
    (tmp_path / "short.gz").write_bytes(packed[:-12])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(idx(many)[:-3]))
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd"))
    (tmp_path / "none.gz").write_bytes(packed[10:])
    for cell, message in [
        ("whole.npy#4", r"has no row 4: its shape is \[4, 6, 5\]"),
        ("short.npy#0", r"is truncated: its header \(4, 6, 5\) promises 248 bytes, it holds 247"),
        ("text.npy#0", "is not a .npy array"),
        ("objects.npy#0", "holds pickled Python objects, which are never loaded"),
        ("floats.npy#0", "is float64; pictures in array files are bytes"),
        ("flat.npy#0", r"has shape \[30\], not \[H, W\]"),
        ("short.gz#0", "is truncated or not gzip"),
        ("cut.gz#0", r"is truncated: its header \(4, 6, 5\) promises more than its 117 bytes"),
        ("other.gz#0", "is no IDX array of bytes: it starts with 00 00 0d 01"),
        ("none.gz#0", "is truncated or not gzip"),
        ("missing.npy#0", "is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            read_image(cell, tmp_path, 1)


# ------------------------------------------------------------------------------------------------- low energy
def with_shares(*shares: float) -> np.ndarray:
    """Pictures `[2K, K]` whose K principal components have these shares of the variance."""
    axes = np.diag(np.sqrt(shares))
    return np.concatenate([axes, -axes]) * 0.2 + 0.5


@pytest.mark.parametrize(
    ("energy", "count"), [(0.3, 1), (0.5, 1), (0.7, 1), (0.75, 2), (0.76, 2), (0.9, 3), (0.99, 3), (1.0, 4)]
)
def test_how_many_components(energy: float, count: int):
    """0.5, 0.75, 0.9, 1: the largest count that stays at or below, at least one even where the first is
    above."""
    fitted = LowEnergy.fit(with_shares(0.5, 0.25, 0.15, 0.1), energy)
    assert len(fitted.components) == count
    assert fitted.energy == pytest.approx([0.5, 0.75, 0.9, 1.0][count - 1])


def test_the_mean_is_not_added_back():
    images = with_shares(0.5, 0.25, 0.15, 0.1)
    everything = low_energy(images, 1.0, np.arange(8))
    assert everything.dtype == np.float32
    assert np.allclose(everything, images - images.mean(axis=0), atol=1e-6)
    first = low_energy(images, 0.5, np.arange(8))
    assert np.allclose(first, (images - 0.5) * [1, 0, 0, 0], atol=1e-6)


@settings(max_examples=30)
@given(hnp.arrays(np.float64, (12, 6), elements=st.floats(0, 1, width=16)), st.floats(0.05, 1.0))
def test_the_components_of_any_pictures(images: np.ndarray, energy: float):
    fit_on = np.arange(8)
    if np.ptp(images[fit_on], axis=0).max() < 1e-3:
        return
    found = low_energy(images, energy, fit_on)
    centred = images[fit_on] - images[fit_on].mean(axis=0)
    shares = np.cumsum(np.linalg.svd(centred, compute_uv=False) ** 2) / (centred**2).sum()
    count = max(1, int((shares <= energy + 1e-9).sum()))
    kept = (found[fit_on].astype(np.float64) ** 2).sum() / (centred**2).sum()
    assert kept == pytest.approx(shares[min(count, 6) - 1], abs=1e-5)
    changed = images.copy()
    changed[9:] = 1 - changed[9:]
    assert np.array_equal(low_energy(changed, energy, fit_on)[:9], found[:9])  # fitted on train alone


def test_pictures_all_alike_have_no_components():
    with pytest.raises(DataError, match="5 train pictures, all alike"):
        low_energy(np.full((5, 4), 0.5), 0.25, np.arange(5))


def test_real_handwriting_has_three_components(shared_data: Path):
    """As AV-MNIST's generator finds on MNIST (datasets.md §2.1)."""
    cells = [f"mnist_t10k/t10k-images-idx3-ubyte.gz#{i}" for i in range(1500)]
    images = np.stack([read_image(cell, shared_data, 1).numpy().ravel() for cell in cells]) / 255
    fitted = LowEnergy.fit(images, 0.25)
    assert len(fitted.components) == 3
    assert np.linalg.matrix_rank(fitted.apply(images[:200]), tol=1e-3) == 3
    assert fitted.apply(images[:200]).min() < -0.1


# --------------------------------------------------------------------------------------------- rows of floats
@pytest.mark.parametrize("shape", [(20,), (5, 4), (1, 5, 4), (5, 4, 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_rows_of_floats_are_kept(tmp_path: Path, shape: tuple[int, ...], dtype: str):
    """AV-MNIST's pictures: centred floats, flat or not (datasets.md §2.2, §2.6)."""
    values = RNG.normal(0, 40, (3, 20)).astype(dtype)
    np.save(tmp_path / "a.npy", values.reshape(3, *shape))
    found = read_floats("a.npy#1", tmp_path, 1, (5, 4))
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (1, 5, 4))
    assert np.array_equal(found.numpy().ravel(), values[1].astype(np.float32))


def test_rows_of_floats_of_another_size_are_resized(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.full((1, 10, 8), -3.5))
    found = resize(read_floats("a.npy#0", tmp_path, 1, (5, 4)), (5, 4))
    assert torch.allclose(found, torch.full((1, 5, 4), -3.5))


def test_flat_rows_of_bytes(tmp_path: Path):
    values = RNG.integers(0, 256, (2, 20), np.uint8)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(read_image("a.npy#1", tmp_path, 1, (5, 4))[0].numpy(), values[1].reshape(5, 4))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 21)), r"has shape \[21\], not that of 1 channels of floats"),
        (np.zeros((1, 3, 5, 4)), r"has shape \[3, 5, 4\], not that of 1 channels"),
        (np.zeros((1, 5, 4), np.uint8), "is uint8, while the modality's first picture holds floats"),
        (np.full((1, 5, 4), np.nan), "holds 20 values that are not finite"),
        (np.full((1, 5, 4), 1e300), "holds 20 values that are not finite"),
    ],
)
def test_bad_rows_of_floats_are_told(tmp_path: Path, array: np.ndarray, message: str):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=f"a.npy#0 {message}"):
        read_floats("a.npy#0", tmp_path, 1, (5, 4))
