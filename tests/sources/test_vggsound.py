"""VGGSound as users really hold it (datasets.md §3.5): part of the clips, names of any form, lists of two kinds."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import (
    AudioFeatures,
    DatasetSettings,
    FeaturizeSettings,
    IngestSettings,
    Machine,
    TargetSettings,
    VGGSound,
    VideoFeatures,
)
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import write_store
from g2d_pipeline.features.audio import shape
from g2d_pipeline.samples import vggsound as simulation
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.manifest import Manifest
from g2d_pipeline.sources.vggsound import held_out
from g2d_pipeline.sources.vggsound_clips import NAME, resolve
from g2d_pipeline.sources.vggsound_list import FILE, Clip, class_names, read_lists

RAW = VGGSound(raw_dir="raw", val_fraction=0.2, sample_clips=60)
BOTH = {"audio": ["audio"], "visual": ["visual"]}
AUDIO = {"audio": ["audio"]}
IDS = st.text("abzABZ019-_", min_size=11, max_size=11)
A, B = "---g-f_I2yQ", "ab_000012_Z"


def settings(**changes: Any) -> IngestSettings:
    fields: dict[str, Any] = {
        "dataset": "vggsound",
        "source": "raw",
        "task": "classification",
        "target": TargetSettings(name="sound"),
        "raw": RAW,
        "columns": BOTH,
        "max_bad_fraction": 0.3,
        "machine": Machine(device="cpu", progress=False),
    }
    return IngestSettings(**fields | changes)


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


def read(folder: Path, **changes: Any) -> Manifest:
    return read_raw(settings(**changes), folder.parent)


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "vggsound.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def sounds(project: Path, rows: list[list[str]], names: list[str]) -> Path:
    """A raw folder with a list and sounds of a few bytes: their content is not looked at before featurize."""
    raw = project / "raw"
    (raw / "clips").mkdir(parents=True)
    write_rows(raw / "vggsound.csv", rows)
    for name in names:
        (raw / "clips" / name).write_bytes(b"RIFF....WAVE")
    return raw


FEW = [[A, "1", "airplane", "train"], [B, "30", "airplane", "train"], [B, "170", "air horn", "train"]]
FEW += [["Q" * 11, "5", "air horn", "train"], ["q" * 11, "5", "air horn", "test"]]
FEW += [["W" * 11, "0", "air horn", "train"], ["V" * 11, "10", "air horn", "train"]]
FEW_NAMES = [f"{row[0]}_{int(row[1]):06d}.wav" for row in FEW]


# ------------------------------------------------------------------------------------------------------ a partial copy
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
    assert sum("1 pictures at one a second; 4 are the least" in reason for reason in reasons) == 1
    rows = rows_of(folder)
    assert all("".join(rows[row["row"] - 1][0]) in row["reason"] for row in meta["dropped"])


def test_more_missing_than_allowed_is_one_readable_summary(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(folder, max_bad_fraction=0.05)
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 of the 60 clips in the lists can not be used (13.33%; max_bad_fraction allows 5.00%):"
    assert lines[1:3] == [
        "  Clips found: train 37 of 45, test 15 of 15.",
        "  Clips left out: no file 6, no sound 1, too few pictures 1.",
    ]
    assert sum(line.startswith("  - vggsound.csv, row ") for line in lines) == 8
    assert "set max_bad_fraction to go on without" in lines[-1]


def test_films_alone_pictures_alone_and_one_modality(folder: Path) -> None:
    with_both = len(read(folder).table)
    assert len(read(folder, columns=AUDIO).table) == with_both + 1  # the short one has a sound
    assert len(read(folder, columns={"visual": ["visual"]}).table) == with_both + 1  # the one without a sound track
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
    tree = yaml.safe_load((repository / "conf/base/parameters_vggsound.yml").read_text("utf-8"))["datasets"]["vggsound"]
    return DatasetSettings.model_validate({k: v for k, v in tree.items() if k not in ("smp", "sample")})


def test_the_constants_give_the_published_shapes(repository: Path) -> None:
    audio, visual = (published(repository).modalities[m] for m in ("audio", "visual"))
    assert isinstance(audio, AudioFeatures)
    assert shape(audio) == (1, 129, 626)
    assert isinstance(visual, VideoFeatures)
    assert (visual.frames, visual.pick, visual.height_width) == (3, "published", (224, 224))


def test_every_clip_that_is_not_left_out_gets_into_the_store(folder: Path, repository: Path) -> None:
    tree = {m: s.model_dump(exclude={"encoder", "augment"}) for m, s in published(repository).modalities.items()}
    tree["audio"] |= {"sample_rate": 8000, "n_mels": 16}
    tree["visual"] |= {"size": [24]}
    machine = Machine(device="cpu", progress=False, workers=1)
    manifest = read(folder)
    store = folder.parent / "store"
    write_store(store, manifest, folder, FeaturizeSettings(dataset="vggsound", modalities=tree, machine=machine))
    assert np.load(store / "visual.npy", mmap_mode="r").shape == (len(manifest.table), 3, 3, 24, 24)
    audio = np.load(store / "audio.npy")
    assert len(audio) == len(manifest.table)
    assert (audio.std(axis=(1, 2, 3)) < 1e-3).sum() == 1  # the mute one


# --------------------------------------------------------------------------------------------------------------- lists
def test_with_a_header_without_and_as_two_lists_of_file_names(folder: Path) -> None:
    rows, plain = rows_of(folder), read(folder)
    write_rows(folder / "vggsound.csv", [["youtube_id", "time", "label", "split"], *rows])
    with_header = read(folder)
    assert with_header.table.equals(plain.table)
    assert any("first line is a header (youtube_id, time, label, split)" in n for n in with_header.meta["notes"])
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


def test_a_byte_order_mark_blank_lines_and_carriage_returns_do_no_harm(tmp_path: Path) -> None:
    raw = sounds(tmp_path, FEW, FEW_NAMES)
    before = read(raw, columns=AUDIO).table
    lines = (raw / "vggsound.csv").read_text("utf-8").splitlines()
    (raw / "vggsound.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert read(raw, columns=AUDIO).table.equals(before)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#NAME?,30,airplane,train", r"id '#NAME\?' is not 11 letters.*spreadsheet"),
        ("1.00E+23,30,airplane,train", "id '1.00E\\+23' is not 11 letters"),
        ("=--CC5pH97q,30,air plane,train", "id '=--CC5pH97q' is not 11"),
        ("CC5pH97q4xx,ten,airplane,train", "start 'ten' is no whole number of seconds"),
        ("CC5pH97q4xx,3.5,airplane,train", "start '3.5' is no whole number"),
        ("CC5pH97q4xx,30,aeroplane,train", "label 'aeroplane' is not one of the 309 .nearest: 'airplane'"),
        ("CC5pH97q4xx,30,playing violin,train", "cut at its comma: 'playing violin, fiddle'"),
        ("CC5pH97q4xx,30,playing violin, fiddle,train", "has 5 cells, not 4 .*a label with a comma stands in quotes"),
        ("CC5pH97q4xx;30;airplane;train", "has 1 cells, not 4 .*commas part cells"),
        ("CC5pH97q4xx,30,airplane,trian", "split 'trian' is neither train nor test .nearest: 'train'"),
        (f"{A},1,air horn,train", "is 'air horn' in train; vggsound.csv, row 1 has it as 'airplane' in train"),
        (f"{A},1,airplane,test", "is 'airplane' in test; vggsound.csv, row 1 has it as 'airplane' in train"),
    ],
)
def test_rows_that_can_not_be_read_are_told(tmp_path: Path, line: str, words: str) -> None:
    raw = sounds(tmp_path, FEW, FEW_NAMES)
    with (raw / "vggsound.csv").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=rf"(?s)rows of the lists that can not be read 1\..*row 8: .*{words}"):
        read(raw, columns=AUDIO, max_bad_fraction=0.0)
    manifest = read(raw, columns=AUDIO)
    assert [row["row"] for row in manifest.meta["dropped"]] == [8]
    assert len(manifest.table) == len(FEW)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "vggsound.csv is empty"),
        (b"\n\n", "no row in the lists"),
        (b"<!DOCTYPE html>", r"is a web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
        ("é,1,airplane,train".encode("utf-16"), "no CSV text in UTF-8"),
    ],
)
def test_lists_that_can_not_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    raw = sounds(tmp_path, FEW, FEW_NAMES)
    (raw / "vggsound.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"(?s){words}.*hche11/VGGSound"):
        read(raw, columns=AUDIO)


def test_clips_without_a_list_are_no_raw_data(tmp_path: Path) -> None:
    raw = sounds(tmp_path, FEW, FEW_NAMES)
    (raw / "vggsound.csv").unlink()
    with pytest.raises(DataError, match=r"(?s)not those of layout vggsound.*\.wav.*put vggsound\.csv"):
        locate(RAW, "raw", tmp_path)


# --------------------------------------------------------------------------------------------------------------- names
@given(IDS, st.integers(0, 9000))
def test_every_form_of_name_leads_to_id_and_second(video: str, start: int) -> None:
    starts = {video: {start}}
    for name in (
        f"{video}_{start:06d}",
        f"{video}_{start}",
        f"{video}_{start * 1000}_{(start + 10) * 1000}",
        f"{video}_{start}_{start + 10}",
        video,
    ):
        match = NAME.fullmatch(name)
        assert match is not None
        assert resolve(match, starts)[:2] == (video, start)
    in_list = FILE.fullmatch(f"{video}_{start:06d}.mp4")
    assert in_list is not None
    assert (in_list["video"], int(in_list["start"])) == (video, start)


def test_names_of_all_forms_in_one_folder(tmp_path: Path) -> None:
    names = [f"{A}.wav", f"{B}_30.wav", f"{B}_170000_180000.wav", *FEW_NAMES[3:], f"{B}.wav", "unknown0000_000001.wav"]
    manifest = read(sounds(tmp_path, FEW, names), columns=AUDIO)
    assert len(manifest.table) == len(FEW)
    told = " ".join(manifest.meta["notes"])
    for words in (
        "<id>_<ssssss> 4",
        "<id> 1",
        "<id>_<start> 1",
        "<id>_<start ms>_<end ms> 1",
        "2 media files are of no",
    ):
        assert words in told


def test_a_bare_id_of_a_video_with_two_clips_is_not_guessed(tmp_path: Path) -> None:
    names = [name for name in FEW_NAMES if not name.startswith(B)] + [f"{B}.wav"]
    with pytest.raises(DataError, match=rf"(?s)train 4 of 6.*{B}_000030 \(train\): no file"):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.0)


def test_a_name_in_the_wrong_case_is_pointed_at(tmp_path: Path) -> None:
    names = [FEW_NAMES[0].lower(), *FEW_NAMES[1:]]
    with pytest.raises(DataError, match=rf"(?s)no file; upper and lower case differ in clips/{FEW_NAMES[0].lower()}"):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.0)


# -------------------------------------------------------------------------------------------------------- broken clips
def a_film(folder: Path) -> Path:
    sizes = {p.stat().st_size: p for p in sorted((folder / "video").glob("*.mp4"))}
    return sizes[max(sizes)]


def zero_bytes(folder: Path) -> None:
    a_film(folder).write_bytes(b"")


def web_page(folder: Path) -> None:
    a_film(folder).write_bytes(b"<html>Sign in to confirm you are not a bot")


def without_index(folder: Path) -> None:
    a_film(folder).write_bytes(a_film(folder).read_bytes()[:9000])


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
        (without_index, r"video/\S+\.mp4 can not be decoded \(Invalid data"),
        (few_pictures, r"holds 2 pictures; 4 are the least, as published"),
        (no_pictures, r"sound \(audio/train/\S+\.wav\) but no pictures"),
    ],
)
def test_broken_clips_are_told_and_dropped_as_far_as_allowed(
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
    with pytest.raises(DataError, match=r"(?s)None of the 7 clips.*train 0 of 6, test 0 of 1.*put the clips below"):
        read(sounds(tmp_path, FEW, []), columns=AUDIO, max_bad_fraction=1.0)


def test_a_class_without_a_clip_in_train(tmp_path: Path) -> None:
    names = [n for n in FEW_NAMES if n not in FEW_NAMES[:2]]
    with pytest.raises(DataError, match=r"(?s)1 of the 2 classes in the lists have no clip in train.*- airplane"):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "regression"}, "is a classification"),
        ({"columns": {"video": ["video"]}}, r"no modality 'video'.*it has audio, visual"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(folder, **changes)


# ----------------------------------------------------------------------------------------------------------- held out
CLIPS = st.lists(
    st.builds(
        Clip,
        st.integers(0, 40).map(lambda k: f"{k:011d}"),
        st.integers(0, 3),
        st.sampled_from(class_names()[:4]),
        st.just("train"),
        st.just("vggsound.csv"),
        st.just(1),
    ),
    min_size=1,
    max_size=80,
    unique_by=lambda clip: (clip.video, clip.start),
)


@given(CLIPS, st.floats(0.01, 0.9), st.integers(0, 3))
def test_whole_videos_are_held_out_and_every_class_stays_in_train(clips: list[Clip], share: float, seed: int) -> None:
    labels: dict[str, set[str]] = {}
    for clip in clips:
        labels.setdefault(clip.video, set()).add(clip.label)
    if max(Counter(next(iter(of)) for of in labels.values() if len(of) == 1).values(), default=0) < 2:
        with pytest.raises(DataError, match="No class has two videos"):
            held_out(clips, share, seed)
        return
    val = held_out(clips, share, seed)
    assert val
    assert val <= {clip.video for clip in clips}
    assert {clip.label for clip in clips if clip.video not in val} == {clip.label for clip in clips}
    assert held_out(clips[::-1], share, seed) == val


def test_the_share_is_held_to_and_stratified() -> None:
    names = class_names()[:5]
    clips = [Clip(f"{n:011d}", 0, names[n % 5], "train", "vggsound.csv", n) for n in range(1000)]
    val = held_out(clips, 0.05, 0)
    assert Counter(clip.label for clip in clips if clip.video in val) == dict.fromkeys(names, 10)
    assert held_out(clips, 0.05, 1) != val


# ------------------------------------------------------------------------------------------------------ the real lists
@pytest.fixture
def real(shared_data: Path) -> Path:
    if not (shared_data / "vggsound_meta/test.csv").is_file():
        pytest.skip(f"no vggsound_meta in {shared_data}")
    return shared_data / "vggsound_meta"


def test_the_309_names_are_the_published_ones(real: Path) -> None:
    with (real / "stat.csv").open(encoding="utf-8", newline="") as file:
        assert sorted(row[0] for row in csv.reader(file)) == list(class_names())
    assert len(class_names()) == 309
    assert sum("," in name for name in class_names()) == 23


def test_every_row_of_the_real_lists_is_read(real: Path) -> None:
    lists = read_lists(real, ["test.csv", "vggsound_head.csv"])
    assert lists.bad == []
    assert Counter(clip.split for clip in lists.clips) == {"test": 15_446, "train": 93}
    assert lists.notes == ["7 rows of the lists repeat an earlier one."]
    assert len({clip.video for clip in lists.clips if clip.split == "test"}) == 14_851
    assert sum(clip.video.startswith("-") for clip in lists.clips if clip.file == "test.csv") == 299
    assert lists.clips[0] == Clip("glLQrEijrKg", 300, "playing hammond organ", "test", "test.csv", 1)


def test_every_missing_clip_of_the_real_lists_is_in_one_summary(real: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copyfile(real / "test.csv", raw / "test.csv")
    with pytest.raises(DataError) as caught:
        read(raw, max_bad_fraction=1.0)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "None of the 15,446 clips in the lists can be used:",
        "  Clips found: train 0 of 0, test 0 of 15,446.",
        "  Clips left out: no file 15,446.",
    ]
    assert lines[3] == "  - test.csv, row 1: glLQrEijrKg_000300 (test): no file"
    assert len(lines) == 3 + 10 + 1 + 1
    assert "15,436 more, 15,446 in all" in lines[-2]
    assert lines[-1].startswith("What to do: put the clips below")


def test_the_real_sound_is_found_where_it_lies(real: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)None of the 15,539.*no file 15,538, no picture 1"):
        read_raw(settings(raw=VGGSound(raw_dir=str(real))), real)
    with pytest.raises(DataError, match=r"15,538 of the 15,539 clips"):
        read_raw(settings(raw=VGGSound(raw_dir=str(real)), columns=AUDIO), real)


def test_real_films_of_all_kinds_are_kept_or_told(shared_data: Path, tmp_path: Path) -> None:
    films = sorted(p for p in (shared_data / "video_samples").glob("*.*") if p.suffix in (".mp4", ".webm"))
    if not films:
        pytest.skip(f"no video_samples in {shared_data}")
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [[f"video{n:06d}", "0", "airplane", "test" if n % 3 == 0 else "train"] for n in range(len(films))]
    write_rows(raw / "vggsound.csv", rows)
    for row, film in zip(rows, films, strict=True):
        shutil.copyfile(film, raw / f"{row[0]}_000000{film.suffix}")
    manifest = read(raw, max_bad_fraction=0.9, raw=VGGSound(raw_dir="raw", val_fraction=0.4))
    name = {f"{row[0]}_000000": film.name for row, film in zip(rows, films, strict=True)}
    told = {name[row["reason"].split()[0]]: row["reason"] for row in manifest.meta["dropped"]}
    kept = {name[sample] for sample in manifest.table["sample_id"]}
    assert kept | set(told) == {film.name for film in films}
    assert {"smpte_1080p.mp4", "nasa_two_video_two_audio.mp4", "bigbuckbunny_6ch.mp4"} <= kept
    for film, words in {
        "no_audio.mp4": "has no sound track",
        "carphone_no_audio.mp4": "has no sound track",
        "corrupted.mp4": "has no sound track",
        "realshort.mp4": "2 pictures at one a second; 4 are the least",
    }.items():
        assert words in told[film]
