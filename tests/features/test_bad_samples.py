"""Samples whose files can not be used: an error, or left out of the store altogether, and said so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2d_pipeline.config import DatasetSettings, ImageFeatures, TargetSettings, VideoFeatures
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import media, open_store, write_store
from g2d_pipeline.training import Data

MakeRaw = Callable[..., Any]
Contents = Callable[[Path], dict[str, str]]


def write(raw: Any, folder: Path, allowed: float, **changed: Any) -> Path:
    settings = raw.settings().model_copy(update={"max_bad_fraction": allowed})
    manifest = replace(raw.manifest, meta=raw.manifest.meta | changed)
    write_store(folder, manifest, raw.root, settings)
    return folder


@pytest.fixture
def broken(make_raw: MakeRaw, broken_media: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of 24 samples, a recording (of s004 and s005) and two pictures (of s005 and s009) fail while they are
    decoded."""
    monkeypatch.setattr(media, "CHUNK", 5)
    raw = make_raw(24)
    raw.wav(2).write_bytes(broken_media["wav truncated"].read_bytes())
    for i in (5, 9):
        raw.png(i).write_bytes(broken_media["png truncated"].read_bytes())
    return raw


def test_bad_samples_are_left_out_and_listed(broken: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        store = open_store(write(broken, tmp_path / "store", 0.2))
    assert [(d["sample_id"], d["modality"], d["file"]) for d in store.meta["dropped"]] == [
        ("s004", "audio", "wav/2.wav"), ("s005", "audio", "wav/2.wav"), ("s009", "image", "png/9.png"),
    ]  # fmt: skip
    assert "is truncated" in store.meta["dropped"][0]["reason"]
    assert store.index["sample_id"].tolist() == [f"s{i:03d}" for i in range(24) if i not in (4, 5, 9)]
    assert store.meta["counts"] == {"train": 17, "val": 2, "test": 2}
    assert {m: len(a) for m, a in store.arrays.items()} == {"audio": 21, "image": 21, "table": 21}
    assert store.meta["notes"][0].startswith(
        "3 of 24 samples are dropped, as their files can not be used: s004 (wav/2"
    )
    assert "meta.json lists them" in caplog.text
    store.verify()


@pytest.mark.parametrize("low", [False, True])
def test_the_others_are_as_if_the_bad_ones_had_never_been(
    broken: Any, tmp_path: Path, contents: Contents, low: bool
):
    """Their features, their statistics and their principal components, byte for byte."""
    if low:
        broken.modalities["image"] = ImageFeatures(size=[6, 5], channels=3, pca_energy=0.4, dtype="float16")
    dropped = write(broken, tmp_path / "dropped", 0.2)
    broken.table = broken.table.drop(index=[4, 5, 9]).reset_index(drop=True)
    never = write(broken, tmp_path / "never", 0.0)
    found, expected = contents(dropped), contents(never)
    assert {n: d for n, d in found.items() if n != "meta.json"} == {
        n: d for n, d in expected.items() if n != "meta.json"
    }
    a, b = open_store(dropped).meta, open_store(never).meta
    assert a["modalities"] == b["modalities"]
    assert a["counts"] == b["counts"]


def test_more_than_allowed_is_an_error_with_all_names(broken: Any, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        write(broken, tmp_path / "store", 0.12)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "1 of 12 recordings of modality 'audio' and 2 of 24 pictures of modality 'image' can not be used "
        "(3 of 24 samples, 12.50%; max_bad_fraction allows 12.00%):"
    )
    assert [line.split()[1] for line in lines[1:4]] == ["wav/2.wav", "png/5.png", "png/9.png"]
    assert "set max_bad_fraction to drop such samples" in lines[4]
    assert not (tmp_path / "store/meta.json").exists()


def test_missing_files_count_like_broken_ones(broken: Any, tmp_path: Path):
    broken.png(20).unlink()  # of val
    with pytest.raises(DataError, match=r"4 of 24 samples, 16.67%; max_bad_fraction allows 13.00%"):
        write(broken, tmp_path / "store", 0.13)
    store = open_store(write(broken, tmp_path / "store", 0.17))
    assert store.meta["dropped"][-1] == {
        "sample_id": "s020", "modality": "image", "file": "png/20.png", "reason": "is missing",
    }  # fmt: skip
    assert store.meta["counts"]["val"] == 1


def test_a_split_a_class_or_the_only_values_must_not_vanish(broken: Any, tmp_path: Path):
    for i in (22, 23):
        broken.png(i).unlink()
    with pytest.raises(DataError, match=r"(?s)Without the 5 samples that can not be used.*split test"):
        write(broken, tmp_path / "a", 0.5)
    broken.table.loc[22:, "image"] = "png/0.png"
    broken.table["target"] = np.where(broken.table.index == 4, 2, broken.table.index % 2)
    with pytest.raises(DataError, match=r"(?s)Without the 3 samples.*class c of train"):
        write(broken, tmp_path / "b", 0.5)
    broken.table["target"] = np.where(broken.table.index == 4, 2.0, 1.0)
    with pytest.raises(DataError, match=r"(?s)Without the 3 samples.*all values but one of the target"):
        write(broken, tmp_path / "c", 0.5, task="regression", class_names=[])


def test_the_target_of_a_regression_is_measured_on_what_is_left(broken: Any, tmp_path: Path):
    broken.table["target"] = np.arange(24.0)
    broken.table.loc[4, "target"] = 99.0
    train = broken.table["target"][:20].to_numpy()
    told = {"name": "y", "unit": "m", "mean": train.mean(), "std": train.std(), "min": 0.0, "max": 99.0}
    meta = open_store(write(broken, tmp_path / "s", 0.5, task="regression", class_names=[], target=told)).meta
    left = np.delete(train, [4, 5, 9])
    assert meta["target"] == {
        "name": "y", "unit": "m", "mean": left.mean(), "std": left.std(), "min": 0.0, "max": 19.0,
    }  # fmt: skip


def test_an_interrupted_run_drops_the_same(broken: Any, tmp_path: Path, contents: Contents, monkeypatch: Any):
    from g2d_pipeline.features import writing

    whole = contents(write(broken, tmp_path / "whole", 0.2))
    for step in ("_finish_all", "_write_index"):  # after decoding; after dropping
        with monkeypatch.context() as patch:
            patch.setattr(writing, step, None)
            with pytest.raises(TypeError):
                write(broken, tmp_path / step, 0.2)
        assert contents(write(broken, tmp_path / step, 0.2)) == whole


def test_a_clip_that_ends_in_the_middle_is_dropped_not_filled(
    make_raw: MakeRaw, make_clip: Any, tmp_path: Path
):
    raw = make_raw(10, image=VideoFeatures(frames=3, size=[8, 12]), only=["image"])
    for i in range(3):
        make_clip(f"{i}.mp4", pictures=24, gop=4).rename(raw.root / f"{i}.mp4")
    content = (raw.root / "1.mp4").read_bytes()
    (raw.root / "1.mp4").write_bytes(content[: len(content) // 2])
    raw.table["image"] = [f"{[0, 2, 0, 1, 2][i % 5]}.mp4" for i in range(10)]
    store = open_store(write(raw, tmp_path / "store", 0.2))
    assert [d["file"] for d in store.meta["dropped"]] == ["1.mp4", "1.mp4"]
    assert len(store.arrays["image"]) == 8
    assert (store.arrays["image"].reshape(8 * 3 * 3, -1).max(axis=1) > 0).all()  # no picture of zeros


def test_training_sees_the_rows_of_the_store(broken: Any, tmp_path: Path):
    data = Data.from_store(open_store(write(broken, tmp_path / "store", 0.2)), TargetSettings())
    assert {s: len(r) for s, r in data.rows.items()} == {"train": 17, "val": 2, "test": 2}
    assert data.sample_ids[data.rows["val"]].tolist() == ["s020", "s021"]
    assert data.target[data.rows["val"]].tolist() == [20 % 3, 21 % 3]
    heat = broken.table["heat"].to_numpy()[np.delete(np.arange(24), [4, 5, 9])]
    expected = (heat[17:19] - heat[:17].mean()) / heat[:17].std()
    assert np.allclose(data.arrays["table"][data.rows["val"], 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [({}, 0.0), ({"max_bad_fraction": 0.1}, 0.1), ({"max_bad_fraction": 0.1, "on_bad": "error"}, 0.0),
     ({"max_bad_fraction": 0.1, "on_bad": "drop"}, 0.1), ({"on_bad": "error"}, 0.0)],
)  # fmt: skip
def test_one_rule_for_ingest_and_featurize(given: dict[str, Any], allowed: float):
    from tests.test_resolve import configure

    configuration = configure(**given)
    assert configuration.ingest().max_bad_fraction == configuration.featurize().max_bad_fraction == allowed


def test_dropping_needs_a_limit():
    with pytest.raises(ValueError, match="on_bad = drop needs max_bad_fraction"):
        DatasetSettings(
            raw={"layout": "av_digits", "raw_dir": "x"}, task="classification",
            modalities={"a": {"kind": "vector"}}, on_bad="drop",
        )  # fmt: skip
