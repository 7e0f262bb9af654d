"""Training from a store in a bucket: the same bits where the cache holds it, else windows."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline import remote
from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.config import SmallCNN, TargetSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features import FeatureStore, files, open_store
from g2d_pipeline.features.windows import Windows, windows_of
from g2d_pipeline.remote import SHARD, Remote, is_unfetched
from g2d_pipeline.training import Data, train_student, trainer
from g2d_pipeline.training.data import epoch_rows
from g2d_pipeline.training.resume import Checkpointer
from tests.storage.conftest import S3, Clips, forget
from tests.storage.test_artefacts import Killed, mirror

NAME = "04_feature/own/features-abc"
EPOCHS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """24 samples of three modalities, in blocks of 2 rows: 16 of train, 4 of val, 4 of test."""
    folder = tmp_path_factory.mktemp("made")
    clips = Clips(folder / "project", folder / "raw", n=24)
    store = clips.featurize(str(clips.raw), folder / "project/data" / NAME, shard_rows=2)
    write_card(store.path, {"stage": "featurize", "fingerprint": "abc"}, Clock.start(), "content")
    return store


@pytest.fixture
def bucket(s3: S3, made: FeatureStore) -> S3:
    made.path.with_name(f"{made.path.name}.uploaded.json").unlink(missing_ok=True)
    mirror(s3, made.path.parents[2]).push(made.path)
    return s3


def sizes(store: FeatureStore) -> tuple[int, int]:
    """Bytes of a block, and of what is not in shards."""
    every = [f for f in store.path.iterdir() if f.name != "stage.json"]
    block = sum(f.stat().st_size for f in every if f.name.endswith("-00000-of-00012.npy"))
    return block, sum(f.stat().st_size for f in every if not SHARD.fullmatch(f.name))


def there(s3: S3, folder: Path, limit: float) -> Data:
    """The store as another machine has it, whose cache has so many bytes."""
    forget()
    mirror(s3, folder, limit).find(folder / NAME)
    remote.fetch_folder(folder / NAME, lambda name: name.endswith(".npy"))
    return Data.from_store(open_store(folder / NAME), TargetSettings())


def train(data: Data, folder: Path | None = None, **changes: Any) -> Any:
    training = TrainingSettings(epochs=EPOCHS, batch_size=3)
    encoders: dict[str, Any] = {m: SmallCNN(widths=[2], grid=1) for m in ("sound", "photo")}
    return train_student(
        data.only("sound", "photo"), encoders, {}, method="joint", training=training, seed=3, progress=False,
        folder=folder, **changes,
    )  # fmt: skip


def same(a: Any, b: Any) -> bool:
    one, two = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def occupied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes in the cache whenever a shard has been fetched, and before it replaces its unfetched file."""
    seen: list[int] = []
    put = Remote._put

    def count(self: Remote, name: str, path: Path) -> None:
        here = [f for f in self.folder.iterdir() if f.stat().st_mode & 0o200 and f.name in self.files]
        seen.append(sum(f.stat().st_size for f in (*here, *self.folder.glob(".*.tmp"))))
        put(self, name, path)

    monkeypatch.setattr(Remote, "_put", count)
    return seen


def test_with_room_for_all_of_it_the_bits_are_those_of_a_local_store(bucket, made, tmp_path):
    own, other = (
        train(data) for data in (Data.from_store(made, TargetSettings()), there(bucket, tmp_path, 1e9))
    )
    assert same(own, other)
    assert "shuffle" not in other.info


@pytest.mark.parametrize("workers", [0, 2])
def test_a_smaller_cache_is_never_exceeded_and_the_bits_are_those_of_its_windows(
    bucket, made, tmp_path, monkeypatch, caplog, occupied, workers
):
    block, fixed = sizes(made)
    limit = fixed + 5 * block
    data = there(bucket, tmp_path, limit)
    bucket.asked.clear()
    with caplog.at_level("INFO"):
        trained = train(data, workers=workers)
    windows = windows_of(data.only("sound", "photo").arrays)
    assert windows is not None
    assert trained.info["shuffle"] == windows.numbers == {"block_rows": 2, "window_blocks": windows.count}
    assert 2 <= windows.count <= 3
    assert caplog.text.count(f"shuffled are {windows.count} blocks of 2 rows at a time") == 1
    assert block < max(occupied) <= limit
    shard = [
        Path(path).name.partition(".npy")[0] for path in bucket.gets() if SHARD.match(Path(path).name[:-33])
    ]
    times = Counter(name for name in shard if int(name.partition("-")[2][:5]) < 8)
    assert len(times) == 16
    assert max(times.values()) <= EPOCHS + 1  # no shard of train is fetched twice in an epoch
    assert remote._attached[f"{tmp_path / NAME}/"].keep == frozenset()

    none = Remote(tmp_path, "", {}, 0, {})
    local = Windows(2, windows.count, {}, none, 0)
    monkeypatch.setattr(trainer, "windows_of", lambda arrays: local)
    assert same(trained, train(Data.from_store(made, TargetSettings())))


def test_each_row_is_in_an_epoch_once_and_windows_hold_whole_blocks():
    windows = Windows(10, 3, {}, Remote(Path(), "", {}, 0, {}), 0)
    rows = np.random.default_rng(0).permutation(205)[:160]
    orders = [epoch_rows(np.sort(rows), 7, epoch, windows) for epoch in (1, 1, 2)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    for order in orders:
        assert np.array_equal(np.sort(order), np.sort(rows))
        blocks, ended, window = order // 10, set[int](), set[int]()
        for block in blocks.tolist():
            assert block not in ended
            if block not in window and len(window) == 3:
                ended, window = ended | window, set()
            window.add(block)
    whole = Windows(10, 21, {}, Remote(Path(), "", {}, 0, {}), 0)
    assert np.array_equal(epoch_rows(rows, 7, 1, whole), epoch_rows(rows, 7, 1))


def test_a_training_that_ends_in_the_middle_of_an_epoch_goes_on_to_the_same_bits(
    bucket, made, tmp_path, monkeypatch
):
    block, fixed = sizes(made)
    data, end_step, steps = (
        there(bucket, tmp_path / "a", fixed + 4 * block),
        Checkpointer.end_step,
        list[int](),
    )
    whole = train(data)

    def killed(self: Checkpointer) -> None:
        end_step(self)
        steps.append(self.loop.batch)
        if len(steps) == 8:
            raise Killed

    monkeypatch.setattr(Checkpointer, "end_step", killed)
    with pytest.raises(Killed):
        train(data, tmp_path / "run", checkpoint_minutes=0)
    assert 1 < steps[-1] < 5
    data = there(bucket, tmp_path / "b", fixed + 4 * block)
    assert same(train(data, tmp_path / "run", checkpoint_minutes=0), whole)
    assert len(steps) < 2 * EPOCHS * 5
    with pytest.raises(ConfigError, match="another shuffle"):
        train(there(bucket, tmp_path / "c", 1e9), tmp_path / "run", checkpoint_minutes=0)


def test_a_cache_without_room_for_two_blocks_is_refused_before_anything_is_fetched(
    bucket, made, tmp_path, monkeypatch
):
    block, fixed = sizes(made)
    message = (
        r"storage.cache_gb = [\d.e-]+: the feature store s3://clips/lab/.* has [\d.e-]+ GB, of which 0.\d+ "
        r"have to be in the cache at once \(two blocks of 2 rows.*Set storage.cache_gb to 0.\d+ or more"
    )
    with pytest.raises(ConfigError, match=message):
        there(bucket, tmp_path, fixed + 1.9 * block)
    assert not [path for path in bucket.gets() if "-of-00012" in path]
    assert (
        there(bucket, tmp_path, fixed + 2 * block).arrays["sound"][0].shape
    )  # a larger cache counts at once


def test_a_shard_that_is_given_up_before_it_is_mapped_is_fetched_again(bucket, made, tmp_path, monkeypatch):
    sound: Any = there(bucket, tmp_path, 1e9).arrays["sound"]
    fetch, given_up = files.fetch, list[Path]()

    def once(paths: list[Path]) -> None:
        fetch(paths)
        if not given_up:
            given_up.extend(paths)
            behind = remote.find_remote(paths[0])
            assert behind is not None
            remote.make_unfetched(paths[0], *behind[0].files[behind[1]])

    monkeypatch.setattr(files, "fetch", once)
    assert np.array_equal(sound[:], made.arrays["sound"][:])
    assert not is_unfetched(given_up[0])


def test_another_process_fetches_what_it_reads(bucket, made, tmp_path):
    sent = pickle.dumps(there(bucket, tmp_path, 1e9).arrays["sound"])
    forget()
    assert np.array_equal(pickle.loads(sent)[:], made.arrays["sound"][:])
