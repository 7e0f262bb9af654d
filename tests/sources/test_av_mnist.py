"""AV-MNIST copies as users really hold them (datasets.md §2.6): read, noted or told by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import (
    AVMNIST,
    DatasetSettings,
    FeaturizeSettings,
    IngestSettings,
    RunOptions,
    TargetSettings,
)
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import write_store
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.av_mnist import ARRAYS, folder_of
from g2d_pipeline.sources.av_mnist import simulated as simulation
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import ingest_settings

TRAIN, TEST, VAL = 300, 40, 60
RAW = AVMNIST(raw_dir="raw", val_rows=VAL, sample_rows={"train": 80, "val": 10, "test": 10})
NAMES = sorted(ARRAYS.values())


def settings(**changes: Any) -> IngestSettings:
    return ingest_settings(RAW, ["audio", "image"], **{"target": TargetSettings(name="digit")} | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("av_mnist")
    simulation.make(folder, {"train": TRAIN - VAL, "val": VAL, "test": TEST}, seed=0)
    return folder


@pytest.fixture
def raw(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "raw"))


def read(folder: Path, **changes: Any) -> Manifest:
    return read_raw(settings(**changes), folder.parent)


def change(path: Path, how: Callable[[Any], Any]) -> None:
    np.save(path, how(np.load(path)), allow_pickle=True)


# ----------------------------------------------------------------------------------------------- whole copies
def test_rows_splits_and_labels_are_those_of_the_arrays(raw: Path) -> None:
    manifest = read(raw)
    table = manifest.table
    assert manifest.meta["counts"] == {"train": TRAIN - VAL, "val": VAL, "test": TEST}
    assert manifest.meta["class_names"] == list("0123456789")
    assert list(table["split"][:TRAIN]) == ["train"] * (TRAIN - VAL) + ["val"] * VAL
    for file, part in (("train", table[:TRAIN]), ("test", table[TRAIN:])):
        assert list(part["image"]) == [f"image/{file}_data.npy#{i}" for i in range(len(part))]
        assert list(part["audio"]) == [f"audio/{file}_data.npy#{i}" for i in range(len(part))]
        assert (part["target"].to_numpy() == np.load(raw / f"{file}_labels.npy")).all()
    assert any("train 300 of the published 60,000" in note for note in manifest.meta["notes"])


def test_arrays_are_told_by_content_not_by_time(raw: Path) -> None:
    before = signature(RAW, "raw", raw)
    assert read(raw).table["audio"].nunique() == TRAIN + TEST
    assert signature(RAW, "raw", raw) == before
    change(raw / "test_labels.npy", lambda y: (y + 1) % 10)
    assert signature(RAW, "raw", raw) != before


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("train_labels.npy", lambda y: y[:, None]),
        ("test_labels.npy", lambda y: y.astype(np.int64)),
        ("image/train_data.npy", lambda x: x.reshape(-1, 28, 28)),
        ("image/test_data.npy", lambda x: x.reshape(-1, 1, 28, 28).astype(np.float32)),
        ("audio/train_data.npy", lambda x: x[:, None]),
    ],
    ids=[
        "labels (N, 1)",
        "labels int64",
        "image (N, 28, 28)",
        "image (N, 1, 28, 28)",
        "audio (N, 1, 112, 112)",
    ],
)
def test_harmless_variants_are_read_alike(raw: Path, name: str, how: Callable[[Any], Any]) -> None:
    before = read(raw)
    change(raw / name, how)
    after = read(raw)
    assert after.table.equals(before.table)
    assert after.meta == before.meta


def test_a_folder_within_a_folder_is_found_and_noted(raw: Path) -> None:
    shutil.copytree(raw, raw.parent / "outer/avmnist/avmnist")
    shutil.rmtree(raw)
    (raw.parent / "outer").rename(raw)
    assert locate(RAW, "auto", raw.parent) == ("raw", raw)
    manifest = read(raw)
    assert manifest.table["image"][3] == "avmnist/avmnist/image/train_data.npy#3"
    assert manifest.meta["notes"][-1] == "The arrays lie deeper, in avmnist/avmnist/."


def test_one_modality_alone_needs_its_arrays_only(raw: Path) -> None:
    shutil.rmtree(raw / "image")
    assert "image" not in read(raw, columns={"audio": ["audio"]}).table


@given(
    st.sets(st.sampled_from(NAMES), min_size=1), st.lists(st.sampled_from(["a", "b c", "image"]), max_size=2)
)
def test_the_folder_is_found_at_any_depth(held: set[str], above: list[str]) -> None:
    prefix = "".join(f"{name}/" for name in above)
    files = sorted(f"{prefix}{name}" for name in held)
    assert folder_of([*files, "notes.txt", "image/old/train_data.npy"], Path("raw")) == prefix


def test_the_network_sees_both_arrays_divided_by_255(raw: Path, repository: Path) -> None:
    from g2d_pipeline.models.encoders import Normaliser

    tree = yaml.safe_load((repository / "conf/base/parameters_av_mnist.yml").read_text("utf-8"))
    modalities = DatasetSettings.model_validate(
        {k: v for k, v in tree["datasets"]["av_mnist"].items() if k not in ("smp", "sample", "methods")}
    ).modalities
    features = {
        m: s.model_dump(exclude={"encoder", "teacher_encoder", "augment"}) for m, s in modalities.items()
    }
    options = RunOptions(device="cpu", progress=False, workers=1)
    store = raw.parent / "store"
    write_store(
        store, read(raw), raw, FeaturizeSettings(dataset="av_mnist", modalities=features, options=options)
    )
    meta = json.loads((store / "meta.json").read_text("utf-8"))["modalities"]
    for name, shape in (("audio", (1, 112, 112)), ("image", (1, 28, 28))):
        stored = torch.from_numpy(np.load(store / f"{name}.npy"))
        assert stored.shape == (TRAIN + TEST, *shape)
        array = np.concatenate([np.load(raw / f"{name}/{file}_data.npy") for file in ("train", "test")])
        seen = Normaliser(**meta[name]["normaliser"])(stored).numpy()
        np.testing.assert_allclose(seen, (array / 255).reshape(seen.shape), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------ copies to be told
def html(raw: Path) -> None:
    (raw / "image/train_data.npy").write_bytes(b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")


def truncated(raw: Path) -> None:
    path = raw / "audio/train_data.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(raw: Path) -> None:
    (raw / "train_labels.npy").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 60128\n"
    )


def pickled(raw: Path) -> None:
    change(raw / "image/test_data.npy", lambda x: np.array([*x, None], dtype=object)[:-1])


def one_hot(raw: Path) -> None:
    change(raw / "train_labels.npy", lambda y: np.eye(10)[y].astype(np.uint8))


def float_labels(raw: Path) -> None:
    change(raw / "train_labels.npy", lambda y: y.astype(float))


def fewer(raw: Path) -> None:
    change(raw / "audio/train_data.npy", lambda x: x[:-7])


def float_audio(raw: Path) -> None:
    change(raw / "audio/test_data.npy", lambda x: x[:].astype(np.float32) / 255)


def coloured(raw: Path) -> None:
    change(raw / "audio/test_data.npy", lambda x: np.stack([x, x, x], axis=-1))


def exchanged(raw: Path) -> None:
    (raw / "image/test_data.npy").rename(raw / "x.npy")
    (raw / "audio/test_data.npy").rename(raw / "image/test_data.npy")
    (raw / "x.npy").rename(raw / "audio/test_data.npy")


def shifted(raw: Path) -> None:
    change(raw / "test_labels.npy", lambda y: y + 1)


def byte_images(raw: Path) -> None:
    change(raw / "image/train_data.npy", lambda x: (x - x.min()).astype(np.uint8))


def zipped(raw: Path) -> None:
    (raw / "test_labels.npy").write_bytes(b"PK\3\4 an npz")


BROKEN = [
    (html, r"image/train_data\.npy is a web page \(HTML\).*a few kB is a saved web page"),
    (truncated, r"audio/train_data\.npy is truncated: its header \(300, 112, 112\) promises"),
    (pointer, r"train_labels\.npy is a Git-LFS pointer.*git lfs pull"),
    (
        pickled,
        r"image/test_data\.npy holds pickled Python objects.*np\.save\(path, np\.stack\(list\(array\)\)\)",
    ),
    (one_hot, r"train_labels\.npy is one-hot \(300, 10\).*argmax\(1\)"),
    (float_labels, r"train_labels\.npy is float64; labels are whole numbers"),
    (
        fewer,
        r"(?s)train arrays differ in their numbers of rows.*audio/train_data\.npy: 293 rows.*from one copy",
    ),
    (float_audio, r"audio/test_data\.npy is float32; spectrograms are bytes from 0 to 255.*np\.round"),
    (coloured, r"audio/test_data\.npy has rows of shape \(112, 112, 3\).*colour channels: keep one"),
    (
        exchanged,
        r"(?s)image/test_data\.npy has rows of shape \(112, 112\).*audio/test_data\.npy has rows of shape",
    ),
    (byte_images, r"image/train_data\.npy is uint8; images are floats, centred.*astype\('float64'\)"),
    (zipped, r"test_labels\.npy is not a \.npy array"),
    (shifted, r"(?s)rows can not be used.*test_labels\.npy, row \d+: label 10 is not one of 0 to 9.*shifted"),
]


@pytest.mark.parametrize(("breaking", "words"), BROKEN, ids=[b.__name__ for b, _ in BROKEN])
def test_broken_copies_are_told(raw: Path, breaking: Callable[[Path], None], words: str) -> None:
    breaking(raw)
    with pytest.raises(DataError, match=f"(?s){words}") as caught:
        read(raw)
    assert "What to do: " in str(caught.value)


def test_labels_in_the_wrong_folder_and_missing_arrays(raw: Path) -> None:
    (raw / "train_labels.npy").rename(raw / "image/train_labels.npy")
    (raw / "audio/test_data.npy").unlink()
    with pytest.raises(DataError) as caught:
        read(raw)
    for words in (
        "train_labels.npy (there is image/train_labels.npy: move it)",
        "- audio/test_data.npy\n",
        "unpack",
    ):
        assert words in str(caught.value)


def test_two_copies(raw: Path) -> None:
    shutil.copytree(raw, raw / "copy")
    with pytest.raises(DataError, match=r"(?s)Several copies.*keep one"):
        read(raw)


def test_only_the_archive_is_there(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/avmnist.tar.gz").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"(?s)avmnist\.tar\.gz.*unpack avmnist\.tar\.gz.*source=sample"):
        locate(RAW, "auto", tmp_path)


def test_labels_outside_are_dropped_only_as_far_as_allowed(raw: Path) -> None:
    change(raw / "train_labels.npy", lambda y: np.where(np.arange(len(y)) == 5, 77, y).astype(np.uint8))
    manifest = read(raw, max_bad_fraction=0.01)
    assert manifest.meta["dropped"] == [
        {"file": "train_labels.npy", "row": 5, "reason": "label 77 is not one of 0 to 9 (rows count from 0)"}
    ]
    assert "train00005" not in set(manifest.table["sample_id"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "regression"}, "is a classification"),
        (
            {"columns": {"audio": ["audio"], "picture": ["picture"]}},
            r"no modality 'picture'.*It has audio, image",
        ),
        ({"raw": AVMNIST(raw_dir="raw")}, r"val_rows=5000 leaves nothing for train of the 300 rows"),
    ],
)
def test_settings_that_do_not_fit(raw: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(raw, **changes)


# ------------------------------------------------------------------------ copies whose numbers do not compare
def whole_pictures(raw: Path) -> None:
    change(raw / "image/train_data.npy", lambda x: x - x.min())


def richer(raw: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 60, (TRAIN, 784))
    change(raw / "image/train_data.npy", lambda x: x + noise)


def other_order(raw: Path) -> None:
    change(raw / "image/train_data.npy", lambda x: x[np.random.default_rng(0).permutation(len(x))])


def in_step(raw: Path) -> None:
    bands = np.array([np.roll(np.linspace(0, 255, 112), 11 * d) for d in range(10)]).astype(np.uint8)
    y = np.load(raw / "train_labels.npy")
    np.save(raw / "audio/train_data.npy", np.repeat(bands[y][:, :, None], 112, axis=2))


@pytest.mark.parametrize(
    ("changing", "words"),
    [
        (whole_pictures, "no value is negative"),
        (richer, "components, the published ones 3"),
        (other_order, "seem to be in different orders"),
        (in_step, "made by another generator, and numbers are not comparable"),
    ],
)
def test_content_that_is_not_the_published_one_is_noted(
    raw: Path, changing: Callable[[Path], None], words: str
) -> None:
    changing(raw)
    assert any(words in note for note in read(raw).meta["notes"])
