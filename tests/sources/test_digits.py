"""The two digit layouts: the bundled sample and the real one, whole and broken."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from g2d_pipeline.config import AVDigits, SpokenMNIST
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources import read_raw
from tests.sources.raw_folders import PROJECT, digits_settings, write_idx

BUNDLED = AVDigits(raw_dir="data/01_raw/av_digits")


# -------------------------------------------------------------------------------------------------- av_digits
def test_the_bundled_sample_uses_every_picture_once_and_no_voice_crosses_splits() -> None:
    manifest = read_raw(digits_settings(BUNDLED), PROJECT)
    table, meta = manifest.table, manifest.meta
    assert meta["source"] == "sample"
    assert meta["counts"] == {"train": 1207, "val": 290, "test": 300}
    assert meta["group_disjoint"]
    assert "synthetic" in meta["notes"][0]
    assert sorted(int(cell.split("#")[1]) for cell in table["image"]) == list(range(1797))
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert table.groupby("split")["group"].nunique().to_dict() == {"train": 25, "val": 5, "test": 6}
    truth = np.load(PROJECT / "data/01_raw/av_digits/digits_target.npy", allow_pickle=False)
    assert (truth[[int(cell.split("#")[1]) for cell in table["image"]]] == table["target"]).all()
    assert (table["audio"].str.extract(r"speech/(\d)_", expand=False).astype(int) == table["target"]).all()
    root = PROJECT / meta["raw_dir"]
    assert all((root / path).is_file() for path in table["audio"].unique())


def test_equal_seeds_give_equal_manifests_and_others_do_not() -> None:
    first, second = (read_raw(digits_settings(BUNDLED), PROJECT) for _ in range(2))
    assert first.table.equals(second.table)
    other = read_raw(digits_settings(AVDigits(raw_dir=BUNDLED.raw_dir, seed=1)), PROJECT)
    assert not first.table.equals(other.table)


def test_the_bundled_recordings_are_short_distinct_and_fit_in_the_repository() -> None:
    import soundfile

    folder = PROJECT / "data/01_raw/av_digits"
    files = sorted((folder / "speech").glob("*.flac"))
    assert len(files) == 360
    assert len({f.read_bytes() for f in files}) == len(files)
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 1_400_000
    for file in files:
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")
        assert 0.1 < info.duration <= 1.0


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / BUNDLED.raw_dir, tmp_path / "raw")
    return tmp_path / "raw"


def flip(path: Path, sign: bytes) -> None:
    """A bit of the first such sign, in the header."""
    path.write_bytes(path.read_bytes().replace(sign, bytes([sign[0] ^ 2]), 1))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: (r / "digits.npy").unlink(), ["digits.npy"]),
        (lambda r: (r / "digits.npy").write_bytes(b"\x93NUMPY"), ["digits.npy", "can not be read"]),
        (lambda r: np.save(r / "digits.npy", np.array([{}])), ["digits.npy", "can not be read"]),
        (lambda r: flip(r / "digits.npy", b"}"), ["digits.npy", "can not be read"]),
        (lambda r: np.save(r / "digits.npy", np.zeros((9, 8, 8), np.uint8)), ["[9, 8, 8]", "uint8 [1797]"]),
        (
            lambda r: np.save(r / "digits_target.npy", np.full(1797, 10, np.uint8)),
            ["digits_target.npy", "0 to 9"],
        ),
        (lambda r: (r / "speech/3_m1.flac").write_bytes(b""), ["speech/3_m1.flac", "0 bytes", "1 of 360"]),
        (
            lambda r: (r / "speech/3_m1.flac").rename(r / "speech/three.flac"),
            ["speech/three.flac", "{digit}_{voice}"],
        ),
        (lambda r: [f.unlink() for f in (r / "speech").glob("3_*")], ["digit 3 in train"]),
        (shutil.rmtree, ["not in 'raw'"]),
    ],
)
def test_damage_to_the_bundled_sample_is_told(
    bundled: Path, damage: Callable[[Path], object], said: list[str]
) -> None:
    damage(bundled)
    with pytest.raises(DataError) as caught:
        read_raw(digits_settings(AVDigits(raw_dir="raw")), bundled.parent)
    for words in [*said, "git checkout"]:
        assert words in str(caught.value)


# ----------------------------------------------------------------------------------------------- spoken_mnist
def test_real_digits_follow_the_official_takes(digits_data: Path) -> None:
    raw = SpokenMNIST(raw_dir=str(digits_data))
    table = read_raw(digits_settings(raw), PROJECT).table
    assert table["split"].value_counts().to_dict() == {"train": 2000, "test": 1000, "val": 500}
    assert (table.groupby(["split", "target"]).size().unstack().std(axis=1) == 0).all()
    assert table["image"].is_unique
    takes = table["audio"].str.extract(r"_(\d+)\.wav", expand=False).astype(int)
    assert set(takes[table["split"] == "test"]) == {0, 1, 2, 3, 4}
    assert set(takes[table["split"] == "val"]) == {5, 6, 7, 8, 9}
    assert set(takes[table["split"] == "train"]) == set(range(10, 50))
    assert table["speaker"].nunique() == 4
    assert table["audio"].nunique() == 2000
    labels = gzip.decompress((digits_data / "mnist_t10k/t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert [labels[int(cell.split("#")[1])] for cell in table["image"]] == table["target"].tolist()
    assert (
        table["audio"].str.extract(r"recordings/(\d)_", expand=False).astype(int) == table["target"]
    ).all()


def test_all_ten_thousand_images_can_be_paired(digits_data: Path) -> None:
    raw = SpokenMNIST(raw_dir=str(digits_data), pairs={"train": 7000, "val": 1000, "test": 2000})
    table = read_raw(digits_settings(raw), PROJECT).table
    assert table["image"].nunique() == 10_000
    assert (table[table["split"] == "test"]["target"].value_counts() == 200).all()


def test_one_modality_alone_has_one_column(spoken: tuple[Path, SpokenMNIST]) -> None:
    root, raw = spoken
    table = read_raw(digits_settings(raw, columns={"image": ["image"]}), root.parent).table
    assert list(table.columns) == ["sample_id", "split", "target", "image", "speaker"]


REC, IMG, LAB = (
    "fsdd/recordings",
    "mnist_t10k/t10k-images-idx3-ubyte.gz",
    "mnist_t10k/t10k-labels-idx1-ubyte.gz",
)


def rename_upper(root: Path) -> None:
    (root / REC / "3_ann_7.wav").rename(root / REC / "3_ann_7.WAV")


def cut(root: Path) -> None:
    (root / IMG).write_bytes((root / IMG).read_bytes()[:-12])


def short_payload(root: Path) -> None:
    (root / IMG).write_bytes(gzip.compress(gzip.decompress((root / IMG).read_bytes())[:-5]))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda r: (r / REC / "readme.txt").write_text("x"),
            ["recordings/readme.txt", "7_jackson_12.wav", "1 of 201"],
        ),
        (rename_upper, ["3_ann_7.WAV", "the name is not"]),
        (lambda r: (r / REC / "3_ann_7.wav").write_bytes(b""), ["3_ann_7.wav", "0 bytes"]),
        (lambda r: (r / REC / "3_ann_7.wav").write_bytes(POINTER), ["3_ann_7.wav", "Git-LFS"]),
        (lambda r: (r / REC / "3_ann_7.wav").write_bytes(b"<!DOCTYPE html>"), ["3_ann_7.wav", "HTML"]),
        (
            lambda r: [(r / REC / f"4_ann_{t}.wav").unlink() for t in range(5)],
            ["digit 4 in test", "test_takes"],
        ),
        (lambda r: (r / IMG).write_bytes(b""), ["t10k-images", "0 bytes"]),
        (cut, ["t10k-images", "truncated"]),
        (short_payload, ["t10k-images", "truncated", "promises"]),
        (lambda r: (r / IMG).write_bytes(b"hello hello"), ["t10k-images", "not gzip"]),
        (lambda r: shutil.copy(r / LAB, r / IMG), ["t10k-images", "exchanged"]),
        (lambda r: write_idx(r / IMG, np.zeros((0, 4, 4))), ["t10k-images", "empty"]),
        (lambda r: write_idx(r / LAB, np.zeros(299)), ["300 images", "299 labels", "same copy"]),
        (lambda r: write_idx(r / LAB, np.full(300, 12)), ["t10k-labels", "12", "download"]),
        (lambda r: (r / LAB).unlink(), ["missing", "t10k-labels", "G2D_SHARED_DATA"]),
        (lambda r: shutil.rmtree(r / "fsdd"), ["missing", "fsdd/recordings", "G2D_SHARED_DATA"]),
    ],
)
def test_a_broken_copy_is_told(
    spoken: tuple[Path, SpokenMNIST], damage: Callable[[Path], object], said: list[str]
) -> None:
    root, raw = spoken
    damage(root)
    with pytest.raises(DataError) as caught:
        read_raw(digits_settings(raw), root.parent)
    for words in [*said, "What to do:"]:
        assert words in str(caught.value)


def test_a_few_bad_recordings_are_dropped_where_that_is_allowed(spoken: tuple[Path, SpokenMNIST]) -> None:
    root, raw = spoken
    (root / REC / "3_ann_17.wav").write_bytes(b"")
    meta = read_raw(digits_settings(raw, max_bad_fraction=0.01), root.parent).meta
    assert meta["dropped"] == [{"file": f"{REC}/3_ann_17.wav", "row": None, "reason": "is empty (0 bytes)"}]


def test_too_few_images_are_told_before_anything_is_paired(spoken: tuple[Path, SpokenMNIST]) -> None:
    root, _ = spoken
    with pytest.raises(DataError, match=r"(?s)asks for 3500 pairs; there are 300 images.*lower `pairs`"):
        read_raw(digits_settings(SpokenMNIST(raw_dir="raw")), root.parent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {"adio": ["adio"]}}, "no modality 'adio'.*'audio'"),
        ({"columns": {"audio": ["a", "b"]}}, "one column of paths"),
        ({"task": "regression"}, "is a classification"),
    ],
)
def test_settings_that_the_layout_can_not_serve_are_refused(
    spoken: tuple[Path, SpokenMNIST], changes: dict[str, object], said: str
) -> None:
    root, raw = spoken
    with pytest.raises(ConfigError, match=said):
        read_raw(digits_settings(raw, **changes), root.parent)
    with pytest.raises(ConfigError, match=said):
        read_raw(digits_settings(BUNDLED, **changes), PROJECT)


def test_a_copy_one_folder_too_deep_is_pointed_at(spoken: tuple[Path, SpokenMNIST]) -> None:
    root, raw = spoken
    (root.parent / "outer").mkdir()
    root.rename(root.parent / "outer/raw")
    with pytest.raises(DataError, match="set raw_dir to outer/raw"):
        read_raw(digits_settings(SpokenMNIST(raw_dir="outer", pairs=raw.pairs)), root.parent)
