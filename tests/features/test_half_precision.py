"""dtype: float16: what is stored, how far it is from what was computed, and that training computes in
float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from g2d_pipeline.config import (
    AudioAugment,
    AudioFeatures,
    FeaturizeSettings,
    ImageFeatures,
    RunOptions,
    SequenceFeatures,
    TargetSettings,
    VectorFeatures,
)
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.features.statistics import relative_errors, to_half
from g2d_pipeline.models.encoders import build_encoder
from g2d_pipeline.training import Data
from g2d_pipeline.training.augment import augment
from g2d_pipeline.training.data import take
from tests.conftest import CNN

MakeRaw = Callable[..., Any]
SOUND = AudioFeatures(sample_rate=4000, seconds=0.25, noise=0.1, n_fft=64, hop_length=64)


class Arrays:
    """Vectors and sequences of features of very different sizes, some of them missing."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(1)
        root.mkdir()
        self.root, n = root, 300  # more than a chunk
        np.save(root / "v.npy", rng.normal([0, 1000, 1e-3], [1, 5, 1e-4], (n, 3)).astype(np.float32))
        steps = rng.normal([2, -300], [1, 9], (n, 5, 2)).astype(np.float32)
        steps[::7, 3:] = np.nan
        np.save(root / "s.npy", steps)
        self.table = pd.DataFrame({
            "sample_id": [f"s{i}" for i in range(n)],
            "split": ["train"] * (n - 4) + ["val", "val", "test", "test"], "target": np.arange(n) % 2,
            "v": [f"v.npy#{i}" for i in range(n)], "s": [f"s.npy#{i}" for i in range(n)],
        })  # fmt: skip
        self.meta = {
            "dataset": "made_up", "task": "classification", "class_names": ["a", "b"], "source": "raw",
            "target": {"name": "label", "unit": ""}, "columns": {"v": ["v"], "s": ["s"]},
            "counts": {"train": n - 4, "val": 2, "test": 2},
        }  # fmt: skip

    def write(self, folder: Path, dtype: Any) -> Any:
        modalities = {"v": VectorFeatures(dtype=dtype), "s": SequenceFeatures(steps=5, dtype=dtype)}
        options = RunOptions(device="cpu", progress=False)
        settings = FeaturizeSettings(dataset="made_up", modalities=modalities, options=options)
        write_store(folder, self, self.root, settings)
        return open_store(folder)


def measured(exact: np.ndarray, stored: np.ndarray, std: list[float]) -> tuple[float, float]:
    """(largest, root mean square) of the rounding in units of std, the plain way."""
    shape = (1, -1) + (1,) * (exact.ndim - 2)
    error = np.abs(exact.astype(np.float64) - stored.astype(np.float64)) / np.reshape(std, shape)
    return float(error.max()), float(np.sqrt(np.square(error).mean()))


@pytest.mark.parametrize("modality", ["v", "s"])
def test_arrays_are_rounded_and_the_error_is_measured(tmp_path: Path, modality: str):
    raw = Arrays(tmp_path / "raw")
    exact, half = (raw.write(tmp_path / dtype, dtype) for dtype in ("float32", "float16"))
    about = half.meta["modalities"][modality]
    assert half.arrays[modality].dtype == np.float16
    assert (half.arrays[modality] == exact.arrays[modality].astype(np.float16)).all()
    largest, rms = measured(exact.arrays[modality], half.arrays[modality], about["normaliser"]["std"])
    assert about["rounding"]["max"] == pytest.approx(largest, rel=1e-9)
    assert about["rounding"]["rms"] == pytest.approx(rms, rel=1e-9)
    assert (
        largest > 0.01
    )  # 1000 ± 5 and −300 ± 9: float16 has steps of 0.5 and 0.25 there; the note tells what it costs
    assert f"{modality}: stored as float16, which rounds by at most {largest:.2g}" in " ".join(
        half.meta["notes"]
    )
    assert (
        exact.meta["notes"]
        == []
        == [key for of in exact.meta["modalities"].values() for key in of if key == "rounding"]
    )


def test_spectrograms_and_components(make_raw: MakeRaw, tmp_path: Path):
    low = ImageFeatures(size=[6, 5], channels=3, pca_energy=0.5)
    raw = make_raw(24, audio=SOUND, low=low, only=["audio", "low"])
    raw.table["low"] = raw.table["image"]
    exact = open_store(raw.write(tmp_path / "exact"))
    raw.modalities = {m: of.model_copy(update={"dtype": "float16"}) for m, of in raw.modalities.items()}
    half = open_store(raw.write(tmp_path / "half"))
    for m in half.modalities:
        about = half.meta["modalities"][m]
        assert about["dtype"] == "float16"
        assert (half.arrays[m] == exact.arrays[m].astype(np.float16)).all()
        assert np.allclose(
            about["normaliser"]["std"], exact.meta["modalities"][m]["normaliser"]["std"], rtol=1e-3
        )
        distinct = slice(None, None, 2 if m == "audio" else 1)  # each recording is in two samples
        largest, rms = measured(
            exact.arrays[m][distinct], half.arrays[m][distinct], about["normaliser"]["std"]
        )
        assert about["rounding"]["max"] == pytest.approx(largest, rel=1e-9)
        assert about["rounding"]["rms"] == pytest.approx(rms, rel=1e-9)
        assert rms < 1e-3
    sizes = [(tmp_path / of / "audio.npy").stat().st_size for of in ("half", "exact")]
    assert sizes[0] < 0.51 * sizes[1]


def test_what_float16_can_not_hold_is_told_with_its_sample(make_raw: MakeRaw, tmp_path: Path):
    raw = Arrays(tmp_path / "raw")
    values = np.load(raw.root / "v.npy")
    values[7, 1] = 70_000
    np.save(raw.root / "v.npy", values)
    with pytest.raises(DataError, match=r"v.npy#7 \(sample s7\) holds values beyond ±65504, which float16"):
        raw.write(tmp_path / "store", "float16")
    assert raw.write(tmp_path / "store", "float32").arrays["v"][7, 1] == 70_000
    of = ImageFeatures(size=[4], channels=1, pca_energy=0.9, dtype="float16")
    raw = make_raw(8, image=of, only=["image"])
    floats = np.random.default_rng(0).normal(0, 1e5, (8, 4, 4))
    np.save(raw.root / "floats.npy", floats)
    raw.table["image"] = [f"floats.npy#{i}" for i in range(8)]
    with pytest.raises(DataError, match=r"(?s)Pictures of 'image'.*sample s00\d holds values beyond ±65504"):
        raw.write(tmp_path / "low")


def test_bytes_stay_bytes(make_raw: MakeRaw, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"modalities.image.dtype=float16: its pictures are bytes"):
        make_raw(8, image=ImageFeatures(size=[6], dtype="float16"), only=["image"]).write(tmp_path / "store")


def test_training_computes_in_float32(make_raw: MakeRaw, tmp_path: Path):
    """A float16 store trains as one that holds the same numbers in float32, to the bit, augmented or not."""
    raw = make_raw(24, audio=SOUND.model_copy(update={"dtype": "float16"}), only=["audio"])
    data = Data.from_store(open_store(raw.write(tmp_path / "store")), TargetSettings())
    rows = data.rows["train"]
    stored = take(data.arrays["audio"], rows)
    assert stored.dtype == torch.float16
    of = data.normalisers["audio"]
    assert of is not None
    changes = AudioAugment(time_masks=1, noise=0.1)
    changed = [augment(x, changes, of, torch.Generator().manual_seed(0)) for x in (stored, stored.float())]
    assert changed[0].dtype == torch.float32
    assert torch.equal(*changed)
    from g2d_pipeline.models.encoders import Normaliser

    torch.manual_seed(0)
    encoder = build_encoder(CNN, data.shape("audio"), Normaliser(of["scale"], of["mean"], of["std"])).eval()
    with torch.no_grad():
        features = [encoder(x) for x in (stored, stored.float())]
    assert features[0].dtype == torch.float32
    assert torch.equal(*features)


def test_rounding_by_hand():
    values = np.array([[[1.0, 2049.0]], [[-0.1, 0.0]]], np.float32)
    half, errors = to_half(values)
    assert half.tolist() == [[[1.0, 2048.0]], [[np.float16(-0.1), 0.0]]]
    tenth = abs(float(np.float32(-0.1)) - float(np.float16(-0.1)))
    assert np.allclose(errors, [[[1.0], [1.0]], [[tenth], [tenth**2]]], rtol=1e-12, atol=0)
    found = relative_errors(errors, 4, [2.0])
    assert found == pytest.approx({"max": 0.5, "rms": np.sqrt((1 + tenth**2) / 4) / 2})


def test_real_digits_lose_next_to_nothing(shared_data: Path, tmp_path: Path, make_raw: MakeRaw):
    """FSDD's recordings as AV-MNIST's recipe stores them."""
    wavs = sorted((shared_data / "fsdd/recordings").glob("*_theo_*.wav"))[:60]
    raw = make_raw(
        60, only=["audio"], audio=AudioFeatures(sample_rate=8000, n_fft=256, hop_length=128, dtype="float16")
    )
    raw.root, raw.table["audio"] = shared_data, [f"fsdd/recordings/{w.name}" for w in wavs]
    store = open_store(raw.write(tmp_path / "store"))
    about = store.meta["modalities"]["audio"]
    error, std = about["rounding"], about["normaliser"]["std"][0]
    assert 0 < error["rms"] < 1e-3
    assert (
        error["max"] * std <= 2**-7
    )  # half a step of float16 from 16 to 32; log 1e-7 = -16.1 is the lowest number
