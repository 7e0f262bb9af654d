"""A store is whole or not there: full disks, forbidden folders, other settings."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.catalog.features import FeatureStoreDataset, verify_once
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import files, media, open_store
from g2d_pipeline.features import store as store_module
from g2d_pipeline.files import atomic_write, load_npy
from tests.plans import FixedPlan

MakeRaw = Callable[..., Any]
Contents = Callable[[Path], dict[str, str]]


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# -------------------------------------------------------------------------------------------- before training
@pytest.mark.parametrize("noted", [True, False])
def test_a_flipped_byte_is_told_before_anything_is_trained(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: bool
):
    """A store that the catalog loads is read whole once, and again where one of its files was touched."""
    looks: list[str] = []
    original = store_module.content_hash
    monkeypatch.setattr(
        store_module, "content_hash", lambda path: looks.append(Path(path).name) or original(path)
    )
    raw = make_raw(8, only=["audio", "table"])
    plan = FixedPlan(tmp_path / "features-aaa", "aaa")
    features = FeatureStoreDataset(plan.folders["featurize"], "featurize", plan)
    features.save({"": lambda folder, previous: raw.write(folder)})
    looks.clear()
    assert features.load()[""].modalities == ("audio", "table")
    assert sorted(looks) == ["audio.cells.npy", "audio.npy", "index.parquet", "table.npy"]
    features.preview()
    if noted:
        features.load()
    assert len(looks) == 4
    array = Path(features.path) / "audio.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    for _ in range(2):
        with pytest.raises(
            DatasetError, match=r"(?s)is broken.*audio\.npy has changed.*delete the folder.*rebuild=true"
        ):
            features.load()


def test_a_note_of_what_is_whole_that_can_not_be_written_is_done_without(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    store = open_store(make_raw(8, only=["table"]).write(tmp_path / "features-aaa"))
    monkeypatch.setattr(Path, "write_text", no_space)
    verify_once(store, tmp_path / "features-aaa.verified.json")
    assert "features-aaa.verified.json can not be written" in caplog.text
    assert [f.name for f in tmp_path.glob("features-*")] == ["features-aaa"]


# ------------------------------------------------------------------------------------------------- full disks
def test_a_disk_without_room_for_the_arrays(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is told before anything is decoded, and no array stays that is not whole."""
    monkeypatch.setattr(media.chunks, "run", lambda _: pytest.fail("something is decoded"))
    monkeypatch.setattr(files, "reserve", no_space)
    with pytest.raises(
        DataError, match=rf"The feature store {tmp_path / 'store'} needs 0.0 MB, the disk has .* free"
    ):
        make_raw(8).write(tmp_path / "store")
    assert [f.name for f in (tmp_path / "store").iterdir()] == ["progress.json"]


def test_the_room_of_an_array_is_taken_at_once(tmp_path: Path):
    """So that a write through a memory map can not kill the process without a word."""
    files.create(tmp_path / "a.npy", "float32", (1000, 1000))
    if hasattr(os, "posix_fallocate"):
        assert files.allocated(tmp_path / "a.npy") >= 4_000_000
    assert not np.load(tmp_path / "a.npy").any()


@pytest.mark.parametrize("what", ["the index", "components", "the journal", "meta.json"])
def test_a_disk_that_fills_up_on_the_way(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, what: str
):
    raw = make_raw(12, only=["audio", "image"])
    if what == "components":
        raw.modalities["image"] = raw.modalities["image"].model_copy(update={"pca_energy": 0.4})
    whole = contents(raw.write(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        if what == "the index":
            patch.setattr(pd.DataFrame, "to_parquet", no_space)
        elif what == "components":
            patch.setattr("g2d_pipeline.features.kinds.image.create", no_space)
        elif what == "the journal":
            patch.setattr("g2d_pipeline.features.chunks.os.fsync", no_space)
        else:
            patch.setattr(Path, "write_bytes", no_space)
        with pytest.raises(
            DataError, match=rf"(?s){tmp_path / 'store'} needs .* MB, the disk has .*run again"
        ):
            raw.write(tmp_path / "store")
    assert not (tmp_path / "store/meta.json").exists()
    assert not list((tmp_path / "store").glob("meta.json*"))
    assert contents(raw.write(tmp_path / "store")) == whole


def test_half_a_file_never_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        original(self, content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    full = pytest.raises(OSError, match="No space left")
    with full, atomic_write(tmp_path / "meta.json") as temporary:
        temporary.write_bytes(b"{'a': 'whole'}")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ forbidden folders
@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that any user may enter, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_a_user() -> Iterator[None]:
    """Without the rights of root, to whom nothing is forbidden."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no users to change to")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_must_not_be_written(make_raw: MakeRaw, elsewhere: Path):
    raw = make_raw(8, only=["image"])
    shutil.copytree(raw.root, elsewhere / "raw")
    raw.root = elsewhere / "raw"
    (elsewhere / "closed").mkdir()
    (elsewhere / "closed").chmod(0o555)
    with as_a_user(), pytest.raises(DataError) as caught:
        raw.write(elsewhere / "closed/store")
    message = str(caught.value)
    assert f"The feature store {elsewhere / 'closed/store'} can not be written (Permission denied" in message
    assert "run in a copy of the project that is yours" in message
    assert list((elsewhere / "closed").iterdir()) == []


# ----------------------------------------------------------------------------------- --- other settings
def test_a_store_of_other_settings_is_never_read(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(8, only=["table"])
    folder = raw.write(tmp_path / "features-new")
    write_card(folder, {"stage": "featurize", "fingerprint": "old"}, Clock.start(), "content")
    dataset = FeatureStoreDataset(str(folder), "featurize", FixedPlan(folder, "new"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"featurize: .*features-new does not hold the artefact new"):
        dataset.load()
    assert FeatureStoreDataset(str(folder), "featurize", FixedPlan(folder, "old")).exists()


def test_the_files_that_can_be_copied_from_are_verified_too(make_raw: MakeRaw, tmp_path: Path):
    store = open_store(make_raw(8, only=["image"]).write(tmp_path / "store"))
    content = bytearray((store.path / "image.cells.npy").read_bytes())
    content[-9] ^= 1
    (store.path / "image.cells.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"image.cells.npy has changed since it was written"):
        store.verify()
    (store.path / "image.cells.npy").unlink()
    with pytest.raises(DataError, match=r"image.cells.npy is missing"):
        open_store(store.path)


def test_a_flipped_bit_in_a_header_is_an_error_that_readers_expect_or_another_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6.0))
    whole = path.read_bytes()
    for at, bit in product(range(6, 128), range(8)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with suppress(ValueError, OSError, EOFError):
            assert load_npy(path).dtype != object
