"""CREMA-D copies as users really hold them (datasets.md §1.5): each blemish is read, noted or told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import CremaD
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import read_raw, signature
from g2d_pipeline.sources.crema_d import CremaDLayout
from g2d_pipeline.sources.crema_d import simulated as simulation
from g2d_pipeline.sources.crema_d.clips import BROKEN_VIDEO, EMOTIONS, SENTENCES, Clip
from g2d_pipeline.sources.crema_d.lists import PUBLISHED, digest, published, speakers
from tests.sources.raw_folders import (
    POINTER,
    CremaDCopy,
    all_but,
    broken_picture,
    byte_order_mark,
    empty_pictures,
    first,
    hashed,
    litter,
    missing_pictures,
    mp4,
    nest,
    other_rate_alone,
    pointers,
    same_clip_in_both,
    to_known,
    two_lists,
    upper_case,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crema_d")
    simulation.make(folder, 36, seed=0)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> CremaDCopy:
    shutil.copytree(whole, tmp_path / "raw")
    return CremaDCopy(tmp_path)


# ----------------------------------------------------------------------------------------------- whole copies
def test_a_whole_copy_gives_the_lists_splits_and_the_labels_of_the_names(copy: CremaDCopy) -> None:
    manifest = read_raw(copy.settings(), copy.project)
    table, meta = manifest.table, manifest.meta
    assert meta["counts"] == {"train": 24, "val": 6, "test": 6}
    assert meta["class_names"] == ["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"]
    assert not meta["group_disjoint"]
    assert set(table["sample_id"][table["split"] == "test"]) == set(copy.names("test"))
    assert table["sample_id"].is_monotonic_increasing
    assert (table[table["split"] == "val"].groupby("target").size() == 1).all()
    for row in table.itertuples():
        assert str(row.sample_id).split("_") == [
            row.group,
            row.sentence,
            EMOTIONS[int(str(row.target))],
            row.level,
        ]
        assert (row.audio, row.visual) == (f"AudioWAV/{row.sample_id}.wav", f"VideoFlash/{row.sample_id}.flv")
    assert any(
        "NOT the field's published split" in n and digest(copy.names("test")) in n for n in meta["notes"]
    )


def test_no_actor_is_in_two_splits_where_speakers_are_asked_for(copy: CremaDCopy) -> None:
    manifest = read_raw(copy.settings(split="speakers"), copy.project)
    assert manifest.meta["group_disjoint"]
    assert manifest.meta["counts"] == {"train": 24, "val": 6, "test": 6}
    assert (manifest.table.groupby("group")["split"].nunique() == 1).all()
    again = read_raw(copy.settings(split="speakers", seed=1), copy.project)
    assert any("no actor in two splits (4 / 1 / 1 actors)" in n for n in again.meta["notes"])


def test_pictures_are_read_instead_of_films_and_their_folder_is_the_cell(copy: CremaDCopy) -> None:
    copy.pictures()
    (copy.root / "Image-01-FPS/1001_IEO_NEU_XX/.DS_Store").write_bytes(b"litter")
    manifest = read_raw(copy.settings(), copy.project)
    assert set(manifest.table["visual"]) == {f"Image-01-FPS/{name}" for name in manifest.table["sample_id"]}
    assert any("films in VideoFlash are not used" in n for n in manifest.meta["notes"])
    files = CremaDLayout(copy.settings().raw, copy.root).raw_files()
    assert not any(f.suffix == ".flv" for f in files)
    assert sum(f.suffix == ".jpg" for f in files) == 72


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_one_modality_alone(copy: CremaDCopy, modality: str) -> None:
    shutil.rmtree(copy.root / ("VideoFlash" if modality == "audio" else "AudioWAV"))
    table = read_raw(copy.settings(columns={modality: [modality]}), copy.project).table
    assert list(table.columns) == ["sample_id", "split", "target", modality, "group", "sentence", "level"]


def test_the_field_s_split_comes_with_us_where_there_are_no_lists(tmp_path: Path) -> None:
    lists = published(tmp_path, [], 0.1, 0)
    table = pd.DataFrame(
        [(r.clip.name, r.split, r.clip.target) for r in lists.rows], columns=["clip", "split", "k"]
    )
    assert table["split"].value_counts().to_dict() == {"train": 6028, "test": 744, "val": 670}
    assert table[table["split"] == "test"]["k"].value_counts().sort_index().tolist() == [
        114,
        123,
        140,
        133,
        129,
        105,
    ]
    assert table[table["split"] != "test"]["k"].value_counts().sort_index().tolist() == [
        973,
        1148,
        1131,
        1138,
        1142,
        1166,
    ]
    assert digest(table["clip"][table["split"] == "test"].tolist()) == PUBLISHED
    assert set(BROKEN_VIDEO) <= set(table["clip"][table["split"] != "test"])
    assert (
        "6,698 train clips, of which 670 are held out as val (stratified), and 744 test clips"
        in lists.notes[0]
    )


def test_the_real_lists_are_the_ones_that_come_with_us(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "cremad_meta"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    theirs = published(folder, ["stat.csv", "test.csv", "train.csv"], 0.1, 0)
    ours = published(tmp_path, [], 0.1, 0)
    assert not theirs.bad
    assert [(r.clip, r.split) for r in theirs.rows] == [(r.clip, r.split) for r in ours.rows]
    assert len(theirs.notes) == 1  # the class list, byte-order mark and all, is the same
    assert "the field's published split, from train.csv and test.csv" in theirs.notes[0]


def test_the_real_clips_all_get_through_by_sound_and_the_real_pointers_are_told(
    shared_data: Path, tmp_path: Path
) -> None:
    clips, pointers = shared_data / "cremad_clips", shared_data / "cremad_meta/lfs_pointers"
    if not clips.is_dir() or not pointers.is_dir():
        pytest.skip(f"no cremad_clips in {shared_data}")
    sound = CremaDCopy(tmp_path).settings(columns={"audio": ["audio"]}, raw_dir=str(clips))
    files = CremaDLayout(sound.raw, clips).raw_files()
    assert [f.stem for f in files] == [
        "1001_DFA_ANG_XX",
        *(f"1001_IOM_{e}_XX" for e in ("ANG", "DIS", "FEA", "HAP", "NEU")),
        "1050_TIE_SAD_XX",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"7435 of 7442 clips can not be used.*\n.*AudioWAV/.*is missing"):
        CremaDLayout(sound.raw, clips).read(sound)
    few = sound.model_copy(update={"raw": CremaD(raw_dir=str(clips), split="speakers")})
    with pytest.raises(DataError, match=r"needs three actors at least; .* holds 7 clips of 2"):
        CremaDLayout(few.raw, clips).read(few)
    with pytest.raises(
        DataError, match=r"4 of 7,442 files in AudioWAV are Git-LFS pointers, 0 are whole, 7,438 are"
    ):
        CremaDLayout(CremaD(raw_dir=str(pointers)), pointers).read(sound)
    # thrice, under the names of other actors: every file passes, with its own label
    (tmp_path / "raw/AudioWAV").mkdir(parents=True)
    for file in files:
        for actor in ("1001", "1002", "1003"):
            shutil.copy(file, tmp_path / f"raw/AudioWAV/{actor}{file.name[4:]}")
    table = read_raw(
        CremaDCopy(tmp_path).settings(columns={"audio": ["audio"]}, split="speakers"), tmp_path
    ).table
    assert len(table) == 21
    assert table.groupby("split")["target"].nunique().to_dict() == {"train": 6, "val": 6, "test": 6}


@pytest.mark.parametrize("source", ["raw", "sample"])
def test_the_parameters_are_the_published_ones_and_a_sample_shrinks_them(
    repository: Path, tmp_path: Path, source: Literal["raw", "sample"]
) -> None:
    from g2d_pipeline.config import AudioFeatures, ResNet18, VideoFeatures
    from g2d_pipeline.features.kinds.audio import Audio

    files = yaml.safe_load((repository / "conf/base/parameters_crema_d.yml").read_text())
    overrides = {"dataset": "crema_d", "method": "unimodal", "compare": []}
    of = resolve(files, overrides, lambda raw, wanted: (source, tmp_path)).dataset
    audio, visual = of.modalities["audio"], of.modalities["visual"]
    assert isinstance(audio, AudioFeatures)
    assert isinstance(visual, VideoFeatures)
    assert (audio.fill, audio.clamp, audio.peak_normalise, audio.n_mels) == ("repeat", True, False, 0)
    assert (visual.frames, visual.pick) == (1, "published")
    assert Audio(audio).spec([], Path()).shape == ((1, 257, 188) if source == "raw" else (1, 65, 63))
    assert of.training.epochs == (300 if source == "raw" else 40)
    assert (of.modalities["visual"].encoder == ResNet18()) == (source == "raw")


# ---------------------------------------------------------------------------------------- read, perhaps noted
@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (nest, "from CREMA-D/CREMA-D-master/train.csv"),
        (litter, None),
        (upper_case, None),
        (byte_order_mark, None),
        (mp4, None),
        (
            to_known("1040_ITH_SAD_XX", old="1040_ITH_SAD_X"),
            "ITH_SAD_X.wav has the name of copies before October 2022",
        ),
        (lambda c: c.pictures("Image-30-FPS"), "72 pictures in Image-30-FPS are not used: at another rate"),
        (
            lambda c: (c.pictures(), c.pictures("Image-02-FPS", 5)),
            "180 pictures in Image-02-FPS are not used",
        ),
        (lambda c: c.edit("train", lambda lines: lines[1:]), "1 clips in AudioWAV are not in the lists"),
        (
            lambda c: c.wav("take 2").write_bytes(b"RIFF"),
            "1 files in AudioWAV have no clip's name and are left out",
        ),
        (
            lambda c: (c.root / "stat.csv").write_text("ANG\nDIS\n"),
            "stat.csv lists ANG, DIS; the classes here are NEU",
        ),
        (
            lambda c: (c.root / "train.csv").write_text((c.root / "train.csv").read_text().replace("\r", "")),
            None,
        ),
    ],
)
def test_what_can_be_read_is_read_and_noted(
    copy: CremaDCopy, damage: Callable[[CremaDCopy], object], note: str | None
) -> None:
    damage(copy)
    manifest = read_raw(copy.settings(), copy.project)
    assert len(manifest.table) >= 35
    assert all((copy.root / cell).exists() for m in ("audio", "visual") for cell in manifest.table[m])
    if note is not None:
        assert any(note in n for n in manifest.meta["notes"]), manifest.meta["notes"]


@pytest.mark.parametrize("name", sorted(BROKEN_VIDEO))
def test_clips_known_to_be_broken_are_left_out_and_counted_unless_kept(copy: CremaDCopy, name: str) -> None:
    to_known(name)(copy)
    copy.film(name).write_bytes(b"")
    manifest = read_raw(copy.settings(), copy.project)
    assert len(manifest.table) == 35
    assert manifest.meta["dropped"][0]["file"] == name
    assert "known to be broken in every copy: the video" in manifest.meta["dropped"][0]["reason"]
    assert any(
        f"left out, none of them of the published test set: {name}" in n for n in manifest.meta["notes"]
    )
    with pytest.raises(DataError, match=rf"{name}.flv is empty"):
        read_raw(copy.settings(broken_clips="keep"), copy.project)
    heard = read_raw(copy.settings(columns={"audio": ["audio"]}), copy.project)
    assert name in set(heard.table["sample_id"])
    assert any("known to be silent" in n for n in heard.meta["notes"]) == (name == "1076_MTI_SAD_XX")


# ----------------------------------------------------------------------------------------------- what is told
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        # Git-LFS pointers
        (
            pointers("AudioWAV", 36),
            ["36 of 36 files in AudioWAV are Git-LFS pointers, 0 are whole", "git lfs pull"],
        ),
        (pointers("VideoFlash", 36), ["36 of 36 files in VideoFlash are Git-LFS pointers", "GitLab", "zip"]),
        (
            pointers("AudioWAV", 7),
            ["7 of 36 files in AudioWAV are Git-LFS pointers, 29 are whole", "7 in all", "quota"],
        ),
        (
            lambda c: (pointers("AudioWAV", 2)(c), c.wav(c.names("test")[0]).unlink()),
            ["2 of 36 files in AudioWAV are Git-LFS pointers, 33 are whole, 1 are missing or broken"],
        ),
        # files that are missing or broken
        (
            lambda c: c.wav(c.names("train")[2]).unlink(),
            ["1 of 36 clips", "train.csv, row 3", "AudioWAV/1", "missing"],
        ),
        (
            lambda c: c.film(c.names("test")[0]).unlink(),
            ["test.csv, row 1", "VideoFlash/1", ".flv is missing"],
        ),
        (
            lambda c: c.film(c.names("test")[0]).write_bytes(b""),
            ["test.csv, row 1", ".flv is empty (0 bytes)"],
        ),
        (
            lambda c: c.wav(c.names("test")[0]).write_bytes(b"<html>quota"),
            ["test.csv, row 1", "web page (HTML)"],
        ),
        (
            lambda c: [f.unlink() for f in c.root.glob("AudioWAV/*_ANG_*")],
            ["6 of 36 clips", "… and 1 more, 6 in all"],
        ),
        (
            lambda c: c.wav("1001_IEO_NEU_XX").rename(c.wav("1001_IEO_NEU_XX (1)")),
            [
                "1001_IEO_NEU_XX.wav is missing",
                "no clip's name, perhaps they are it: AudioWAV/1001_IEO_NEU_XX (1).wav",
            ],
        ),
        (empty_pictures, ["1 of 36 clips", "Image-01-FPS/1001_IEO_NEU_XX is a folder without a picture"]),
        (broken_picture, ["Image-01-FPS/1001_IEO_NEU_XX 00029.jpg is empty (0 bytes)"]),
        (missing_pictures, ["Image-01-FPS/1001_IEO_NEU_XX is missing"]),
        # folders
        (
            lambda c: shutil.rmtree(c.root / "VideoFlash"),
            [
                "Modality 'visual' has no files",
                "audio-only redistributions",
                "remove 'visual'",
                "method=unimodal",
            ],
        ),
        (
            lambda c: shutil.rmtree(c.root / "AudioWAV"),
            ["Modality 'audio' has no files", "MP3 files are not read"],
        ),
        (
            other_rate_alone,
            ["other rates than one a second", "Image-30-FPS: 72 pictures", "Image-01-FPS/<clip>/"],
        ),
        (
            lambda c: shutil.copytree(c.root / "AudioWAV", c.root / "backup/AudioWAV"),
            ["Several folders AudioWAV", "- backup/AudioWAV", "keep one"],
        ),
        (
            lambda c: shutil.copy(c.wav("1001_IEO_NEU_XX"), c.root / "AudioWAV/1001_IEO_NEU_XX.WAV"),
            ["Several files of"],
        ),
        (
            hashed,
            ["None of the 36 files in", "AudioWAV has a clip's name", "an order of their own", "original"],
        ),
        # the lists
        (
            lambda c: (c.root / "test.csv").unlink(),
            ["lists in", "incomplete", "test.csv is missing", "split=speakers"],
        ),
        (
            lambda c: (c.root / "test.csv").rename(c.root / "Test.csv"),
            ["test.csv is missing. Did you mean 'Test.csv'?"],
        ),
        (two_lists, ["Several lists of the split", "- old/train.csv", "keep one"]),
        (
            same_clip_in_both,
            ["1 clips are listed more than once, 1 of them in train and test", "test.csv, row 1"],
        ),
        (
            lambda c: c.edit("train", lambda ls: [*ls, ls[0]]),
            ["1 clips are listed", "0 of them in train", "row 31"],
        ),
        (
            lambda c: c.edit("train", first(lambda s: s[:-3] + "ABC")),
            ["train.csv, row 1", "'ABC' is none of NEU, HAP"],
        ),
        (
            lambda c: c.edit("train", first(lambda s: s[:-3] + "ang")),
            ["train.csv, row 1", "Did you mean 'ANG'?"],
        ),
        (
            lambda c: c.edit("test", first(lambda s: s[:-3] + ("SAD" if s.endswith("HAP") else "HAP"))),
            ["1 of 36 clips", "test.csv, row 1", "contradicts the name"],
        ),
        (
            lambda c: c.edit("train", lambda ls: ["clip,label", *ls]),
            ["train.csv, row 1", "'clip' is no clip's name"],
        ),
        (
            lambda c: c.edit("train", first(lambda s: s.replace(",", ".flv,"))),
            ["row 1", ".flv' is no clip's name"],
        ),
        (
            lambda c: c.edit("train", first(lambda s: s.replace(",", ";"))),
            ["1 of 30 rows", "train.csv, row 1", "two"],
        ),
        (lambda c: (c.root / "train.csv").write_bytes(b""), ["train.csv", "0 bytes"]),
        (
            lambda c: (c.root / "train.csv").write_bytes(b"\r\n\r\n"),
            ["train.csv", "has no rows", "no header"],
        ),
        (lambda c: (c.root / "train.csv").write_bytes(POINTER), ["train.csv", "Git-LFS"]),
        (
            lambda c: (c.root / "test.csv").write_bytes("1001_IEO_NEU_XX,é".encode("latin-1")),
            ["test.csv", "not UTF-8"],
        ),
        (all_but("FEA"), ["fewer than two clips in train", "FEA: 0 clips"]),
    ],
)
def test_what_can_not_be_read_is_told(
    copy: CremaDCopy, damage: Callable[[CremaDCopy], object], said: list[str]
) -> None:
    damage(copy)
    with pytest.raises(DataError) as caught:
        read_raw(copy.settings(), copy.project)
    for words in [*said, "What to do:"]:
        assert words in str(caught.value)


def test_bad_clips_are_dropped_up_to_the_fraction_allowed_and_listed(copy: CremaDCopy) -> None:
    gone = copy.names("test")[0]
    copy.film(gone).unlink()
    copy.wav(copy.names("train")[0]).write_bytes(POINTER)
    with pytest.raises(
        DataError, match=r"2 of 36 clips can not be used \(5\.56%; max_bad_fraction allows 5\.00%\)"
    ):
        read_raw(copy.settings(max_bad_fraction=0.05), copy.project)
    manifest = read_raw(copy.settings(max_bad_fraction=0.06), copy.project)
    assert len(manifest.table) == 34
    assert {(d["file"], d["row"]) for d in manifest.meta["dropped"]} == {("train.csv", 1), ("test.csv", 1)}
    notes = manifest.meta["notes"]
    assert any("1 of 36 files in AudioWAV are Git-LFS pointers, 35 are whole" in n for n in notes)
    assert any("1 test clips are dropped" in n for n in notes)


def test_what_is_missing_changes_nobody_else_s_split(copy: CremaDCopy) -> None:
    before = read_raw(copy.settings(), copy.project).table.set_index("sample_id")["split"]
    for name in before[before == "val"].index[:2]:
        copy.wav(name).unlink()
    copy.edit("train", lambda lines: sorted(lines))
    after = read_raw(copy.settings(max_bad_fraction=0.1), copy.project).table.set_index("sample_id")["split"]
    assert len(after) == 34
    assert (before[after.index] == after).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {"video": ["video"]}}, "no modality 'video'"),
        ({"columns": {"visuals": ["visuals"]}}, r"no modality 'visuals'. Did you mean 'visual'"),
        ({"task": "regression"}, "is a classification"),
    ],
)
def test_settings_that_the_layout_can_not_serve_are_refused(
    copy: CremaDCopy, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_raw(copy.settings(**changes), copy.project)


def test_a_signature_follows_what_is_read(copy: CremaDCopy) -> None:
    raw = copy.settings().raw
    key = signature(raw, "raw", copy.root)
    (copy.root / "processedResults/summaryTable.csv").write_bytes(b"")
    litter(copy)
    assert signature(raw, "raw", copy.root) == key
    copy.edit("train", lambda lines: sorted(lines))
    assert signature(raw, "raw", copy.root) != key


# ------------------------------------------------------------------------------------------------------ names
@given(
    st.integers(1000, 1999),
    st.sampled_from(SENTENCES),
    st.sampled_from(EMOTIONS),
    st.sampled_from(["LO", "MD", "XX"]),
)
def test_a_name_tells_what_it_was_made_of(actor: int, sentence: str, emotion: str, level: str) -> None:
    clip = Clip.parse(f"{actor}_{sentence}_{emotion}_{level}")
    assert clip is not None
    assert (clip.actor, clip.sentence, EMOTIONS[clip.target], clip.level) == (
        str(actor),
        sentence,
        emotion,
        level,
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1001_DFA_ANG",
        "1001_DFA_ANG_X",
        "1001_DFA_ang_XX",
        "1001_DFA_ANG_XX ",
        "101_DFA_ANG_XX",
        "a/1001_DFA_ANG_XX",
    ],
)
def test_names_that_are_no_clip_s(name: str) -> None:
    assert Clip.parse(name) is None


@given(st.integers(3, 91), st.floats(0.01, 0.99), st.integers(0, 9))
def test_speakers_fill_all_three_splits_and_cross_none(actors: int, val_fraction: float, seed: int) -> None:
    clips = [clip for a in range(actors) for e in EMOTIONS if (clip := Clip.parse(f"{1001 + a}_DFA_{e}_XX"))]
    rows = speakers(clips, val_fraction, seed, "here").rows
    found = {split: {r.clip.actor for r in rows if r.split == split} for split in ("train", "val", "test")}
    assert all(found.values())
    assert sum(map(len, found.values())) == actors
    assert [(r.clip, r.split) for r in speakers(clips[::-1], val_fraction, seed, "here").rows] == [
        (r.clip, r.split) for r in rows
    ]
