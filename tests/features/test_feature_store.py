"""What is in a store, and how a store is opened."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, ImageFeatures, RunOptions
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.features.kinds import audio
from g2d_pipeline.features.kinds.image import LowEnergy, read_image, resize
from tests.conftest import prepare_wave, read_audio

MakeRaw = Callable[..., Any]


def test_the_room_is_imported_without_torch_pandas_and_scikit_learn():
    heavy = "{'torch', 'pandas', 'sklearn', 'kedro'}"
    code = f"import sys, g2d_pipeline.features; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_arrays_are_the_transforms_of_the_samples(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(11)
    store = open_store(raw.write(tmp_path / "store"))
    assert store.modalities == ("audio", "image", "table") == tuple(store.arrays)
    assert {m: (a.shape, str(a.dtype)) for m, a in store.arrays.items()} == {
        "audio": ((11, 1, 33, 16), "float32"),
        "image": ((11, 3, 6, 5), "uint8"),
        "table": ((11, 2), "float32"),
    }
    of = raw.modalities["audio"]
    for i in (0, 7, 10):
        wave = prepare_wave(*read_audio(raw.wav(i // 2)), of, f"wav/{i // 2}.wav")
        assert np.allclose(store.arrays["audio"][i], audio.spectrogram(wave[None], of)[0], atol=1e-5)
        pixels = resize(read_image(f"png/{i}.png", raw.root, 3), (6, 5))
        assert np.array_equal(store.arrays["image"][i], pixels)
    heat = raw.table["heat"].to_numpy()
    assert np.allclose(store.arrays["table"][:, 0], (heat - heat[:7].mean()) / heat[:7].std(), atol=1e-6)


def test_rows_and_targets(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(10, only=["table"])
    raw.table = raw.table.iloc[np.random.default_rng(0).permutation(10)]  # an index of its own, splits mixed
    store = open_store(raw.write(tmp_path / "store"))
    assert store.index["sample_id"].tolist() == raw.table["sample_id"].tolist()
    rows = {s: store.rows(s) for s in ("train", "val", "test")}
    assert {s: len(r) for s, r in rows.items()} == {"train": 6, "val": 2, "test": 2}
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(10))
    assert all(r.dtype == np.int64 and set(store.index["split"].iloc[r]) == {s} for s, r in rows.items())
    assert store.targets().dtype == np.int64
    assert store.targets().tolist() == raw.table["target"].tolist()
    with pytest.raises(ValueError, match="no split 'tests'"):
        store.rows("tests")
    raw.table["target"] = np.linspace(0, 1, 10)
    assert open_store(raw.write(tmp_path / "regression")).targets().dtype == np.float64


def test_meta(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(11)
    meta = open_store(raw.write(tmp_path / "store")).meta
    assert {k: meta[k] for k in ("dataset", "task", "class_names", "source", "counts", "notes")} == {
        "dataset": "made_up", "task": "classification", "class_names": ["a", "b", "c"], "source": "raw",
        "counts": {"train": 7, "val": 2, "test": 2}, "notes": [],
    }  # fmt: skip
    assert meta["modalities"]["audio"]["settings"] == raw.modalities["audio"].model_dump(mode="json")
    assert [m["kind"] for m in meta["modalities"].values()] == ["audio", "image", "tabular"]
    assert meta["modalities"]["audio"]["statistics"] == {"distinct": 6}
    assert meta["modalities"]["table"]["statistics"]["blanks"] == [0, 3]
    assert sorted(f.name for f in (tmp_path / "store").iterdir()) == [
        "audio.cells.npy", "audio.npy", "image.cells.npy", "image.npy", "index.parquet", "meta.json",
        "table.npy",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- normaliser
def test_normalisers(make_raw: MakeRaw, tmp_path: Path):
    """Stored numbers of train, normalised as the model does it, have mean 0 and std 1 in each channel."""
    low = ImageFeatures(size=[5], channels=1, pca_energy=0.4)
    raw = make_raw(30, low=low, only=None)
    raw.table["low"] = raw.table["image"]
    store = open_store(raw.write(tmp_path / "store"))
    for m in store.modalities:
        of = store.meta["modalities"][m]["normaliser"]
        train = np.asarray(store.arrays[m][store.rows("train")], np.float64)
        shape = (1, -1) + (1,) * (train.ndim - 2)
        seen = (train * of["scale"] - np.reshape(of["mean"], shape)) / np.reshape(of["std"], shape)
        over = (0, *range(2, train.ndim))
        assert np.allclose(seen.mean(axis=over), 0, atol=1e-6), m
        assert np.allclose(seen.std(axis=over), 1, atol=1e-6), m
    assert store.meta["modalities"]["image"]["normaliser"]["scale"] == 1 / 255
    assert store.meta["modalities"]["low"]["normaliser"]["scale"] == 1.0
    assert store.meta["modalities"]["table"]["normaliser"] == {
        "scale": 1.0,
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
    }


def test_a_given_normaliser_is_kept(make_raw: MakeRaw, tmp_path: Path):
    of = ImageFeatures(size=[6], mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3])
    store = open_store(make_raw(8, image=of, only=["image"]).write(tmp_path / "store"))
    expected = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    assert store.meta["modalities"]["image"]["normaliser"] == expected


def test_nothing_of_val_and_test_is_in_the_statistics(make_raw: MakeRaw, tmp_path: Path):
    low = ImageFeatures(size=[5], channels=1, pca_energy=0.4)
    raw = make_raw(12, low=low)
    raw.table["low"] = raw.table["image"]
    before = open_store(raw.write(tmp_path / "before"))
    for i in (8, 9, 10, 11):  # val and test; recordings are shared by two samples of a split each
        soundfile.write(raw.wav(i // 2), np.full(1000, 0.9), 4000)
        Image.new("RGB", (8, 7), (255, 0, i)).save(raw.png(i))
    raw.table.loc[8:, ["heat", "rain"]] = [[1000.0, np.nan]] * 4
    after = open_store(raw.write(tmp_path / "after"))
    for m in before.modalities:
        assert not np.array_equal(before.arrays[m][8:], after.arrays[m][8:])
        assert np.array_equal(before.arrays[m][:8], after.arrays[m][:8])
        assert before.meta["modalities"][m]["normaliser"] == after.meta["modalities"][m]["normaliser"]
    for key in ("mean", "std"):
        found = [s.meta["modalities"]["table"]["statistics"][key] for s in (before, after)]
        assert found[0] == found[1]


def test_low_energy_pictures(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(20, image=ImageFeatures(size=[6, 5], channels=3, pca_energy=0.5), only=["image"])
    store = open_store(raw.write(tmp_path / "store"))
    pixels = np.stack([resize(read_image(c, raw.root, 3), (6, 5)).numpy() for c in raw.table["image"]]) / 255
    flat = pixels.reshape(20, -1)
    expected = LowEnergy.fit(flat[:16], 0.5).apply(flat).reshape(20, 3, 6, 5)
    assert store.arrays["image"].dtype == np.float32
    assert np.allclose(store.arrays["image"], expected, atol=1e-6)
    statistics = store.meta["modalities"]["image"]["statistics"]
    assert statistics["components"] >= 1
    assert statistics["energy"] <= 0.5


# ---------------------------------------------------------------------------------------------------- opening
@pytest.fixture
def store_folder(make_raw: MakeRaw, tmp_path: Path) -> Path:
    return make_raw(8).write(tmp_path / "store")  # type: ignore[no-any-return]


def test_arrays_are_read_only_maps_and_survive_a_process_border(store_folder: Path):
    store = open_store(store_folder)
    assert all(isinstance(a, np.memmap) and not a.flags.writeable for a in store.arrays.values())
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    assert np.array_equal(pickle.loads(sent).arrays["audio"], store.arrays["audio"])


def test_opening_reads_next_to_nothing(store_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("an array is opened"))
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: pytest.fail("the index is read"))
    open_store(store_folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("rm meta.json", "meta.json is missing"),
        ("rm audio.npy", "audio.npy is missing"),
        ("rm index.parquet", "index.parquet is missing"),
        ("cut audio.npy", "audio.npy holds 8447 bytes instead of 17024: it is truncated or damaged"),
        ("empty index.parquet", "index.parquet is empty"),
        ("empty image.npy", "image.npy is not an array"),
        ("text meta.json", "meta.json is not JSON"),
        ("swap image.npy", r"image.npy holds float32 \[8, 2\], meta.json says uint8 \[8, 3, 6, 5\]"),
        ("format meta.json", "meta.json is of another version"),
        ("gap meta.json", "meta.json lacks 'index'"),
    ],
)
def test_a_broken_store_is_told(store_folder: Path, harm: str, message: str):
    action, name = harm.split()
    file = store_folder / name
    if action == "rm":
        file.unlink()
    elif action == "cut":
        file.write_bytes(file.read_bytes()[:8447])
    elif action == "empty":
        file.write_bytes(b"")
    elif action == "text":
        file.write_text("no json")
    elif action == "swap":
        shutil.copy(store_folder / "table.npy", file)
    else:
        meta = json.loads(file.read_text())
        meta |= {"format": 99} if action == "format" else {}
        if action == "gap":
            del meta["index"]
        file.write_text(json.dumps(meta))
    with pytest.raises(DataError, match=f"(?s){message}.*delete the folder .*rebuild=true"):
        open_store(store_folder)


def test_a_store_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="There is no feature store"):
        open_store(tmp_path / "nowhere")


def test_broken_indices_are_told_when_read(store_folder: Path):
    pd.read_parquet(store_folder / "index.parquet").iloc[:5].to_parquet(store_folder / "index.parquet")
    with pytest.raises(DataError, match=r"index.parquet has 5 rows, meta.json says 8"):
        open_store(store_folder).rows("train")
    (store_folder / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"index.parquet is not a parquet table"):
        open_store(store_folder).targets()


@pytest.mark.parametrize("name", ["audio.npy", "index.parquet"])
def test_verify_finds_a_flipped_bit(store_folder: Path, name: str):
    open_store(store_folder).verify()
    content = bytearray((store_folder / name).read_bytes())
    content[-20] ^= 1
    (store_folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} has changed since it was written"):
        open_store(store_folder).verify()


# -------------------------------------------------------------------------------------------------- real data
def test_real_digits(shared_data: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]]):
    """FSDD × MNIST, 24 pairs; each recording in two of them."""
    wavs = sorted(f.name for f in (shared_data / "fsdd/recordings").glob("*_theo_1.wav"))
    table = pd.DataFrame({
        "sample_id": [f"p{i}" for i in range(24)],
        "split": ["train"] * 18 + ["val"] * 3 + ["test"] * 3,
        "target": np.arange(24) % 10,
        "audio": [f"fsdd/recordings/{wavs[i % len(wavs)]}" for i in range(24)],
        "image": [f"mnist_t10k/t10k-images-idx3-ubyte.gz#{i}" for i in range(24)],
    })  # fmt: skip
    modalities = {
        "audio": AudioFeatures(sample_rate=8000, noise=0.3, n_fft=256, hop_length=128),
        "image": ImageFeatures(size=[28], channels=1, pca_energy=0.25),
    }

    meta = {
        "dataset": "digits", "task": "classification", "class_names": list("0123456789"), "source": "raw",
        "target": {"name": "digit", "unit": ""}, "counts": {"train": 18, "val": 3, "test": 3},
        "columns": {"audio": ["audio"], "image": ["image"]},
    }  # fmt: skip
    manifest = SimpleNamespace(table=table, meta=meta)
    options = RunOptions(device="cpu", progress=False)
    settings = FeaturizeSettings(dataset="digits", modalities=modalities, options=options)
    for name in ("one", "two"):
        write_store(tmp_path / name, manifest, shared_data, settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    store = open_store(tmp_path / "one")
    store.verify()
    assert store.arrays["audio"].shape == (24, 1, 129, 63)
    assert np.array_equal(
        store.arrays["audio"][0], store.arrays["audio"][len(wavs)]
    )  # the noise is the recording's
    loud = torch.from_numpy(np.array(store.arrays["audio"])).exp().mean(dim=(1, 2, 3))
    assert (loud > 1).all()
