"""A store in shards: the same numbers as in one file, and a shard is what is damaged and made again."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.catalog.features import FeatureStoreDataset
from g2d_pipeline.config import AudioFeatures, FeaturizeSettings, StorageSettings, TargetSettings
from g2d_pipeline.data_report.report import describe_data
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import media, open_store, write_store
from g2d_pipeline.features.files import Shards, checksums, create, fits, mapped, shard_names
from g2d_pipeline.features.kinds import audio
from g2d_pipeline.features.writing import repair_store
from g2d_pipeline.pipelines.featurize import featurize_modalities
from g2d_pipeline.training import Data, train_student, train_teacher
from g2d_pipeline.training.data import take
from tests.conftest import CNN, TINY, recipe
from tests.features.conftest import AUDIO, IMAGE
from tests.features.watching import watch_decode
from tests.plans import FixedPlan

MakeRaw = Callable[..., Any]
LOW = IMAGE.model_copy(update={"pca_energy": 0.6})
HALF = AUDIO.model_copy(update={"dtype": "float16"})


class Killed(BaseException):
    """As a signal would end the run."""


def in_shards(raw: Any, rows: int = 7, bad: float = 0.0) -> FeaturizeSettings:
    settings: FeaturizeSettings = raw.settings()
    options = settings.options.model_copy(update={"storage": StorageSettings(shard_rows=rows)})
    return settings.model_copy(update={"options": options, "max_bad_fraction": bad})


def write(raw: Any, folder: Path, rows: int = 7, bad: float = 0.0, previous: Sequence[Path] = ()) -> Path:
    write_store(folder, raw.manifest, raw.root, in_shards(raw, rows, bad), previous)
    return folder


def names(folder: Path, start: str) -> list[str]:
    return sorted(f.name for f in folder.glob(f"{start}*.npy"))


# -------------------------------------------------------------------------------------------------- the array
@given(st.data())
def test_rows_are_read_and_written_as_of_one_array(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("shards") / "a.npy"
    n, rows = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 11))
    array, expected = create(path, np.int16, (n, 2, 3), rows), np.zeros((n, 2, 3), np.int16)
    number = st.integers(-n, n - 1)
    index = st.one_of(
        number,
        st.slices(n),
        st.lists(number, max_size=9).map(lambda rows: np.array(rows, np.int64)),
        st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
    )
    for k in range(3):
        at = data.draw(st.integers(0, n - 1).flatmap(lambda a: st.integers(a, n).map(lambda b: slice(a, b))))
        array[at] = expected[at] = k + np.arange(6).reshape(2, 3)
        at = data.draw(index)
        assert np.array_equal(array[at], expected[at])
        assert np.array_equal(array[at, 1], expected[at, 1])
        assert np.array_equal(array[at, :, 2], expected[at, :, 2])
    order = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30)))
    assert np.array_equal(take(array, order).numpy(), expected[order])
    assert np.array_equal(np.asarray(array), expected)
    array.flush()
    again = mapped(path)
    assert np.array_equal(pickle.loads(pickle.dumps(again))[:], expected)
    assert fits(path, "int16", (n, 2, 3), rows)
    np.save(path.with_name("one.npy"), expected)
    assert checksums(path)["checksum"] == checksums(path.with_name("one.npy"))["checksum"]
    with pytest.raises(IndexError):
        array[[n]]


def test_large_arrays_let_their_pages_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g2d_pipeline.training.data.KEPT_MAPPED", 100)
    array = create(tmp_path / "a.npy", np.float32, (40, 8), 16)
    array[:] = np.arange(320).reshape(40, 8)
    rows = np.random.default_rng(0).permutation(40)
    assert np.array_equal(take(array, rows).numpy(), np.arange(320).reshape(40, 8)[rows])


def test_the_names_tell_number_and_count() -> None:
    assert shard_names("audio.npy", 10, 4) == [f"audio-0000{k}-of-00003.npy" for k in range(3)]
    assert shard_names("audio.npy", 4, 4) == shard_names("audio.npy", 9, None) == ["audio.npy"]


# -------------------------------------------------------------------------------------------------- the store
@pytest.mark.parametrize("change", [{}, {"image": LOW}, {"audio": HALF}])
@pytest.mark.parametrize("bad", [0, 1])
def test_it_has_the_numbers_and_the_content_of_one_file(
    make_raw: MakeRaw, tmp_path: Path, change: dict[str, Any], bad: int
) -> None:
    """Normalisers, notes and what is dropped included; what comes after is trained to the same bits."""
    raw = make_raw(24, **change)
    for i in range(bad):
        raw.wav(i + 2).write_bytes(b"no sound")
    one, several = (open_store(write(raw, tmp_path / f"{rows}", rows, 0.2)) for rows in (1000, 7))
    stored = 24 - 2 * bad
    assert names(several.path, "image-") == shard_names("image.npy", stored, 7)
    assert not names(several.path, "image.p") + names(several.path, "audio.k")
    for name, array in one.arrays.items():
        assert np.array_equal(np.asarray(several.arrays[name]), array)
    several.verify()
    dataset = FeatureStoreDataset(str(tmp_path), "featurize", FixedPlan(tmp_path, ""))
    assert dataset.content(one.path) == dataset.content(several.path)
    reports = [describe_data(raw_with_groups(raw), store, raw.root) for store in (one, several)]
    assert reports[0] == reports[1]

    def trained(store: Any) -> dict[str, torch.Tensor]:
        data = Data.from_store(store, TargetSettings())
        encoders = {m: TINY if m == "table" else CNN for m in data.modalities}
        teachers = {
            m: train_teacher(data, m, e, seed=0, training=recipe(1), progress=False)
            for m, e in encoders.items()
        }
        student = train_student(
            data, encoders, teachers, training=recipe(2), smp={"tau": [1, 1]}, progress=False
        )
        return student.model.state_dict()

    if not bad:
        weights = [trained(store) for store in (one, several)]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def raw_with_groups(raw: Any) -> Any:
    manifest = raw.manifest
    manifest.meta.update(dropped=[], notes=[], group_disjoint=False)
    return manifest


def test_an_interrupted_run_goes_on_and_another_size_starts_anew(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "CHUNK", 3)
    raw = make_raw(24, only=["audio"])
    whole = {f.name: f.read_bytes() for f in write(raw, tmp_path / "whole").iterdir()}
    calls: list[list[str]] = []

    def interrupt(cells: list[str]) -> None:
        calls.append(cells)
        if len(calls) > 2:
            raise Killed

    for rows, again in ((7, 2), (5, 4)):
        with monkeypatch.context() as patch:
            watch_decode(patch, audio.Audio, interrupt)
            with pytest.raises(Killed):
                write(raw, tmp_path / f"{rows}", rows)
        calls.clear()
        with monkeypatch.context() as patch:
            watch_decode(patch, audio.Audio, calls.append)
            folder = write(raw, tmp_path / f"{rows}", 7)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == whole
        assert len(calls) == again


def test_a_later_store_copies_from_shards(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw = make_raw(24, only=["audio", "image"])
    first = write(raw, tmp_path / "first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "read_audio", lambda *_: pytest.fail("a recording is decoded"))
        second = write(raw, tmp_path / "second", 5, previous=[first])
    for name, array in open_store(first).arrays.items():
        assert np.array_equal(open_store(second).arrays[name], np.asarray(array))


# --------------------------------------------------------------------------------------------- damaged shards
def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    {
        "changed": lambda: file.write_bytes(content),
        "truncated": lambda: file.write_bytes(content[:-9]),
        "missing": file.unlink,
    }[how]()


@pytest.mark.parametrize("how", ["changed", "truncated", "missing"])
@pytest.mark.parametrize("change", [{"image": LOW}, {"audio": HALF}])
def test_only_the_damaged_ones_are_made_again(
    make_raw: MakeRaw, tmp_path: Path, how: str, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    raw = make_raw(24, **change)
    raw.wav(1).write_bytes(b"no sound")
    manifest, plan = raw.manifest, FixedPlan(tmp_path / "features-aaa", "aaa")
    manifest.meta["raw_dir"] = str(raw.root)
    make = featurize_modalities({"": manifest}, in_shards(raw, bad=0.2))
    features = FeatureStoreDataset(plan.folders["featurize"], "featurize", plan)
    features.save(make)
    features.load()
    folder = Path(features.path)
    before = {f.name: (f.stat().st_ino, f.read_bytes()) for f in folder.iterdir()}
    for file in ("audio-00001-of-00004.npy", "image-00003-of-00004.npy", "table.npy"):
        damage(folder / file, how)
    words = {"changed": "has changed since", "truncated": "instead of", "missing": "is missing"}[how]
    assert not features.exists()
    assert any("audio-00001-of-00004.npy" in line and words in line for line in caplog.text.splitlines())
    features.save(make)
    assert features.exists()
    after = {f.name: (f.stat().st_ino, f.read_bytes()) for f in folder.iterdir()}
    assert {f: content for f, (_, content) in after.items()} == {f: c for f, (_, c) in before.items()}
    assert [f for f in before if before[f][0] == after[f][0]].count("audio-00000-of-00004.npy") == 1
    assert "audio-00001-of-00004.npy " in caplog.text
    assert "audio-00000-of-00004.npy" not in caplog.text
    open_store(folder).verify()


def test_what_can_not_be_made_again_is_told(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw = make_raw(24, only=["audio"])
    folder = write(raw, tmp_path / "store")
    content = (shard := folder / "audio-00001-of-00004.npy").read_bytes()
    raw.wav(4).write_bytes(raw.wav(5).read_bytes())
    damage(shard, "changed")
    damaged = shard.read_bytes()
    with pytest.raises(
        DataError, match=r"(?s)can not be repaired.*audio-00001.*raw files or the code have changed"
    ):
        repair_store(folder, raw.manifest, raw.root)
    assert shard.read_bytes() == damaged
    raw.wav(4).unlink()
    with pytest.raises(DataError, match=r"(?s)can not be repaired.*wav/4\.wav.* is missing"):
        repair_store(folder, raw.manifest, raw.root)
    shard.write_bytes(content)
    damage(folder / "audio.cells.npy", "changed")
    with pytest.raises(
        DataError, match=r"(?s)can not be repaired.*audio\.cells\.npy has changed.*delete the folder"
    ):
        repair_store(folder, raw.manifest, raw.root)


# ----------------------------------------------------------------------------------------------- the settings
def test_a_file_is_as_large_as_a_gigabyte_by_default(make_raw: MakeRaw) -> None:
    raw = make_raw(8)
    column = raw.table["audio"]
    of = AudioFeatures(sample_rate=16_000, seconds=10, n_fft=512, hop_length=353)
    own = media.Media.from_column("audio", audio.Audio(of), raw.root, column)
    assert own.rows_in_file * own.spec.bytes <= 2**30 < (own.rows_in_file + 1) * own.spec.bytes
    assert isinstance(create(raw.root / "a.npy", np.uint8, (9, 1), 4), Shards)


def test_the_size_of_shards_makes_nothing_stale() -> None:
    from tests.test_resolve import configure

    one, other = configure(), configure(storage={"shard_rows": 3})
    assert other.featurize().options.storage.shard_rows == 3
    assert one.featurize().model_dump(exclude={"options"}) == other.featurize().model_dump(
        exclude={"options"}
    )
    assert one.describe() == other.describe()
