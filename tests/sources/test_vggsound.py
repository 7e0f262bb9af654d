"""VGGSound as users really hold it (datasets.md §3.5): part of the clips, names of any form, lists of two
kinds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from g2d_pipeline.config import (
    AudioFeatures,
    DatasetSettings,
    FeaturizeSettings,
    RunOptions,
    VGGSound,
    VideoFeatures,
)
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import write_store
from g2d_pipeline.features.kinds.audio import Audio
from g2d_pipeline.sources import read_raw, signature
from g2d_pipeline.sources.vggsound import simulated as simulation
from tests.sources.vggsound_raw import AUDIO, FEW, FEW_NAMES, RAW, read, rows_of, settings, sounds, write_rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vggsound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "SECONDS", 4)
        simulation.make(folder, 60, seed=0)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "raw"))


# --------------------------------------------------------------------------------------------- a partial copy
def test_clips_that_are_there_keep_label_split_and_paths(folder: Path) -> None:
    manifest = read(folder)
    table, meta = manifest.table, manifest.meta
    known = {f"{video}_{int(start):06d}": (label, split) for video, start, label, split in rows_of(folder)}
    assert meta["class_names"] == sorted(simulation.CLASSES)
    for row in table.to_dict("records"):
        label, split = known[row["sample_id"]]
        assert meta["class_names"][row["target"]] == label
        assert row["split"] in {"train": ("train", "val"), "test": ("test",)}[split]
        assert (folder / row["audio"]).is_file()
        assert (folder / row["visual"]).exists()
        assert row["group"] == row["sample_id"][:11]
    extracted = table[table["audio"].str.endswith(".wav")]
    assert len(extracted)
    assert all(path.startswith("video/frames/train/Image-01-FPS/") for path in extracted["visual"])
    assert (table["audio"] == table["visual"]).sum() == len(table) - len(extracted)


def test_what_is_missing_is_counted_and_listed(folder: Path) -> None:
    meta = read(folder).meta
    assert meta["notes"][:2] == [
        "Clips found: train 37 of 45, test 15 of 15.",
        "Clips left out: no file 6, no sound 1, too few pictures 1.",
    ]
    assert meta["notes"][2].startswith("Hash of the clips: ")
    assert any("1 videos have clips in both train and test" in note for note in meta["notes"])
    assert any("<id>_<start ms>_<end ms> 1" in note for note in meta["notes"])
    assert any("10 of the 309 classes" in note for note in meta["notes"])
    reasons = [row["reason"] for row in meta["dropped"]]
    assert len(reasons) == 8
    assert sum("no file" in reason for reason in reasons) == 6
    assert sum("has no sound track" in reason for reason in reasons) == 1
    assert sum("1 picture at one a second; 4 are the least" in reason for reason in reasons) == 1
    rows = rows_of(folder)
    assert all("".join(rows[row["row"] - 1][0]) in row["reason"] for row in meta["dropped"])


def test_more_missing_than_allowed_is_one_readable_summary(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(folder, max_bad_fraction=0.05)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "8 of the 60 clips in the lists can not be used (13.33%; max_bad_fraction allows 5.00%). "
        "Clips found: train 37 of 45, test 15 of 15. "
        "Clips left out: no file 6, no sound 1, too few pictures 1:"
    )
    assert sum(line.startswith("  - vggsound.csv, row ") for line in lines) == 5
    assert "3 more, 8 in all" in lines[-2]
    assert "set max_bad_fraction to go on without" in lines[-1]


def test_videos_alone_images_alone_and_one_modality(folder: Path) -> None:
    with_both = len(read(folder).table)
    assert len(read(folder, columns=AUDIO).table) == with_both + 1  # the short one has a sound
    assert (
        len(read(folder, columns={"visual": ["visual"]}).table) == with_both + 1
    )  # the one without a sound track
    shutil.rmtree(folder / "audio")
    reasons = [row["reason"] for row in read(folder).meta["dropped"]]
    assert any("but no sound" in reason for reason in reasons)
    shutil.rmtree(folder / "video/frames")
    assert with_both - len(read(folder).table) == sum("but no sound" in reason for reason in reasons)


def test_the_hash_tells_which_clips_there_are_and_nothing_else(folder: Path) -> None:
    def hashed(**changes: Any) -> str:
        return next(str(n) for n in read(folder, **changes).meta["notes"] if n.startswith("Hash"))

    first = hashed()
    assert hashed(raw=VGGSound(raw_dir="raw", val_fraction=0.3, seed=5)) == first
    write_rows(folder / "vggsound.csv", rows_of(folder)[::-1])
    assert hashed() == first
    next((folder / "video").glob("*.mp4")).unlink()
    assert hashed() != first


def test_a_nested_archive_is_searched_and_the_signature_follows_the_files(folder: Path) -> None:
    before, table = signature(RAW, "raw", folder), read(folder).table
    deep = folder / "scratch/shared/hchen/VGGSound_final/video"
    deep.parent.mkdir(parents=True)
    (folder / "video").rename(deep)
    after = read(folder).table
    assert list(after["sample_id"]) == list(table["sample_id"])
    assert after["visual"].str.startswith("scratch/").all()
    assert signature(RAW, "raw", folder) != before


def test_the_sample_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "SECONDS", 4)
    manifest = read_raw(settings(source="sample"), tmp_path)
    assert manifest.meta["notes"][0].startswith("SAMPLE")
    assert manifest.meta["raw_dir"] == "raw/sample"
    assert (tmp_path / "raw/sample/SAMPLE.txt").read_text("utf-8").startswith("SAMPLE")


def published(repository: Path) -> DatasetSettings:
    tree = yaml.safe_load((repository / "conf/base/parameters_vggsound.yml").read_text("utf-8"))["datasets"][
        "vggsound"
    ]
    return DatasetSettings.model_validate(
        {k: v for k, v in tree.items() if k not in ("smp", "sample", "methods")}
    )


def test_the_constants_give_the_published_shapes(repository: Path) -> None:
    audio, visual = (published(repository).modalities[m] for m in ("audio", "visual"))
    assert isinstance(audio, AudioFeatures)
    assert Audio(audio).spec([], Path()).shape == (
        1,
        129,
        1251,
    )  # all ten seconds; what an encoder sees is five of them
    assert audio.augment is not None
    assert audio.augment.window_frames == 626
    assert isinstance(visual, VideoFeatures)
    assert (visual.frames, visual.pick, visual.height_width) == (3, "published", (224, 224))


def test_every_clip_that_is_not_left_out_gets_into_the_store(folder: Path, repository: Path) -> None:
    tree = {
        m: s.model_dump(exclude={"encoder", "teacher_encoder", "augment"})
        for m, s in published(repository).modalities.items()
    }
    tree["audio"] |= {"sample_rate": 8000, "n_mels": 16}
    tree["visual"] |= {"size": [24]}
    options = RunOptions(device="cpu", progress=False, workers=1)
    manifest = read(folder)
    store = folder.parent / "store"
    write_store(
        store, manifest, folder, FeaturizeSettings(dataset="vggsound", modalities=tree, options=options)
    )
    assert np.load(store / "visual.npy", mmap_mode="r").shape == (len(manifest.table), 3, 3, 24, 24)
    audio = np.load(store / "audio.npy")
    assert len(audio) == len(manifest.table)
    assert (audio.std(axis=(1, 2, 3)) < 1e-3).sum() == 1  # the mute one


def test_with_a_header_without_and_as_two_lists_of_file_names(folder: Path) -> None:
    rows, plain = rows_of(folder), read(folder)
    write_rows(folder / "vggsound.csv", [["youtube_id", "time", "label", "split"], *rows])
    with_header = read(folder)
    assert with_header.table.equals(plain.table)
    assert any(
        "first line is a header (youtube_id, time, label, split)" in n for n in with_header.meta["notes"]
    )
    (folder / "vggsound.csv").unlink()
    for split in ("train", "test"):
        named = [[f"{v}_{int(s):06d}.mp4", label] for v, s, label, of in rows if of == split]
        write_rows(folder / f"{split}.csv", named)
    table = read(folder).table
    assert table.sort_values("sample_id", ignore_index=True).equals(
        plain.table.sort_values("sample_id", ignore_index=True)
    )
    write_rows(folder / "vggsound.csv", rows)
    assert "60 rows of the lists repeat an earlier one." in read(folder).meta["notes"]


# ----------------------------------------------------------------------------------------------- broken clips
def a_video(folder: Path) -> Path:
    sizes = {p.stat().st_size: p for p in sorted((folder / "video").glob("*.mp4"))}
    return sizes[max(sizes)]


def zero_bytes(folder: Path) -> None:
    a_video(folder).write_bytes(b"")


def web_page(folder: Path) -> None:
    a_video(folder).write_bytes(b"<html>Sign in to confirm you are not a bot")


def without_index(folder: Path) -> None:
    a_video(folder).write_bytes(a_video(folder).read_bytes()[:9000])


def few_pictures(folder: Path) -> None:
    pictures = next(p.parent for p in sorted((folder / "video/frames").rglob("*.jpg")))
    for path in sorted(pictures.iterdir())[2:]:
        path.unlink()
    (pictures / ".DS_Store").write_bytes(b"")


def no_pictures(folder: Path) -> None:
    shutil.rmtree(next(p.parent for p in sorted((folder / "video/frames").rglob("*.jpg"))))


@pytest.mark.parametrize(
    ("breaking", "words"),
    [
        (zero_bytes, r"video/\S+\.mp4 is empty \(0 bytes\)"),
        (web_page, r"is a web page \(HTML\)"),
        (without_index, r"video/\S+\.mp4 can not be decoded \(.*Invalid data"),
        (few_pictures, r"holds 2 pictures; 4 are the least, as published"),
        (no_pictures, r"sound \(audio/train/\S+\.wav\) but no pictures"),
    ],
)
def test_broken_clips_are_reported_and_dropped_as_far_as_allowed(
    folder: Path, breaking: Callable[[Path], None], words: str
) -> None:
    before = len(read(folder).table)
    breaking(folder)
    with pytest.raises(DataError, match=r"9 of the 60 clips"):
        read(folder, max_bad_fraction=0.14)
    manifest = read(folder)
    assert len(manifest.table) == before - 1
    assert any(re.search(words, row["reason"]) for row in manifest.meta["dropped"])


def test_no_clip_at_all_is_never_dropped_silently(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)None of the 7 clips.*train 0 of 6, test 0 of 1.*put the clips below"
    ):
        read(sounds(tmp_path, FEW, []), columns=AUDIO, max_bad_fraction=1.0)


def test_a_class_without_a_clip_in_train(tmp_path: Path) -> None:
    names = [n for n in FEW_NAMES if n not in FEW_NAMES[:2]]
    with pytest.raises(DataError, match=r"(?s)classes without a sample in train.*- 1 \(airplane\)"):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "regression"}, "is a classification"),
        ({"columns": {"video": ["video"]}}, r"no modality 'video'.*It has audio, visual"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(folder, **changes)


def test_real_videos_of_all_kinds_are_kept_or_told(shared_data: Path, tmp_path: Path) -> None:
    videos = sorted(p for p in (shared_data / "video_samples").glob("*.*") if p.suffix in (".mp4", ".webm"))
    if not videos:
        pytest.skip(f"no video_samples in {shared_data}")
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [[f"video{n:06d}", "0", "airplane", "test" if n % 3 == 0 else "train"] for n in range(len(videos))]
    write_rows(raw / "vggsound.csv", rows)
    for row, video in zip(rows, videos, strict=True):
        shutil.copyfile(video, raw / f"{row[0]}_000000{video.suffix}")
    manifest = read(raw, max_bad_fraction=0.9, raw=VGGSound(raw_dir="raw", val_fraction=0.4))
    name = {f"{row[0]}_000000": video.name for row, video in zip(rows, videos, strict=True)}
    reasons = {name[row["reason"].split()[0]]: row["reason"] for row in manifest.meta["dropped"]}
    kept = {name[sample] for sample in manifest.table["sample_id"]}
    assert kept | set(reasons) == {video.name for video in videos}
    assert {"smpte_1080p.mp4", "nasa_two_video_two_audio.mp4", "bigbuckbunny_6ch.mp4"} <= kept
    for short, words in {
        "no_audio.mp4": "has no sound track",
        "carphone_no_audio.mp4": "has no sound track",
        "corrupted.mp4": "has no sound track",
        "realshort.mp4": "2 pictures at one a second; 4 are the least",
    }.items():
        assert words in reasons[short]
