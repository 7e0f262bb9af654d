"""VGGSound's lists and names of files, of every form in the wild (datasets.md §3.1, §3.5), and what is held
out."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2d_pipeline.config import VGGSound
from g2d_pipeline.errors import DataError
from g2d_pipeline.sources import locate, read_raw
from g2d_pipeline.sources.vggsound import held_out
from g2d_pipeline.sources.vggsound.clips import NAME, resolve
from g2d_pipeline.sources.vggsound.lists import FILE, Clip, class_names, read_lists
from tests.sources.vggsound_raw import AUDIO, FEW, FEW_NAMES, RAW, A, B, read, settings, sounds

IDS = st.text("abzABZ019-_", min_size=11, max_size=11)


# ------------------------------------------------------------------------------------------------------ lists
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
        (
            "CC5pH97q4xx,30,aeroplane,train",
            "label 'aeroplane' is not one of the 309. Did you mean 'airplane'",
        ),
        ("CC5pH97q4xx,30,playing violin,train", "cut at its comma: 'playing violin, fiddle'"),
        (
            "CC5pH97q4xx,30,playing violin, fiddle,train",
            "has 5 cells, not 4 .*a label with a comma stands in quotes",
        ),
        ("CC5pH97q4xx;30;airplane;train", "has 1 cells, not 4 .*commas part cells"),
        ("CC5pH97q4xx,30,airplane,trian", "split 'trian' is neither train nor test. Did you mean 'train'"),
        (
            f"{A},1,air horn,train",
            "is 'air horn' in train; vggsound.csv, row 1 has it as 'airplane' in train",
        ),
        (f"{A},1,airplane,test", "is 'airplane' in test; vggsound.csv, row 1 has it as 'airplane' in train"),
    ],
)
def test_rows_that_can_not_be_read_are_reported(tmp_path: Path, line: str, words: str) -> None:
    raw = sounds(tmp_path, FEW, FEW_NAMES)
    with (raw / "vggsound.csv").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=rf"(?s)rows of the lists that can not be read 1:.*row 8: .*{words}"):
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


# ------------------------------------------------------------------------------------------------------ names
@given(IDS, st.integers(0, 9000))
def test_every_form_of_name_leads_to_id_and_second(video: str, start: int) -> None:
    starts = {start}
    for name in (
        f"{video}_{start:06d}",
        f"{video}_{start}",
        f"{video}_{start * 1000}_{(start + 10) * 1000}",
        f"{video}_{start}_{start + 10}",
        video,
    ):
        match = NAME.fullmatch(name)
        assert match is not None
        assert (match["video"], resolve(match, starts)[0]) == (video, start)
    in_list = FILE.fullmatch(f"{video}_{start:06d}.mp4")
    assert in_list is not None
    assert (in_list["video"], int(in_list["start"])) == (video, start)


def test_names_of_all_forms_in_one_folder(tmp_path: Path) -> None:
    names = [
        f"{A}.wav",
        f"{B}_30.wav",
        f"{B}_170000_180000.wav",
        *FEW_NAMES[3:],
        f"{B}.wav",
        "unknown0000_000001.wav",
    ]
    manifest = read(sounds(tmp_path, FEW, names), columns=AUDIO)
    assert len(manifest.table) == len(FEW)
    notes = " ".join(manifest.meta["notes"])
    for words in (
        "<id>_<ssssss> 4",
        "<id> 1",
        "<id>_<start> 1",
        "<id>_<start ms>_<end ms> 1",
        "2 media files are of no",
    ):
        assert words in notes


def test_a_bare_id_of_a_video_with_two_clips_is_not_guessed(tmp_path: Path) -> None:
    names = [name for name in FEW_NAMES if not name.startswith(B)] + [f"{B}.wav"]
    with pytest.raises(DataError, match=rf"(?s)train 4 of 6.*{B}_000030 \(train\): no file"):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.0)


def test_a_name_in_the_wrong_case_is_pointed_at(tmp_path: Path) -> None:
    names = [FEW_NAMES[0].lower(), *FEW_NAMES[1:]]
    with pytest.raises(
        DataError, match=rf"(?s)no file; upper and lower case differ in clips/{FEW_NAMES[0].lower()}"
    ):
        read(sounds(tmp_path, FEW, names), columns=AUDIO, max_bad_fraction=0.0)


# --------------------------------------------------------------------------------------------------- held out
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
def test_whole_videos_are_held_out_and_every_class_stays_in_train(
    clips: list[Clip], share: float, seed: int
) -> None:
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


# --------------------------------------------------------------------------------------------- the real lists
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
    assert lines[0].startswith("None of the 15,446 clips in the lists can be used.")
    assert "Clips found: train 0 of 0, test 0 of 15,446. Clips left out: no file 15,446" in lines[0]
    assert lines[1] == "  - test.csv, row 1: glLQrEijrKg_000300 (test): no file"
    assert len(lines) == 1 + 5 + 1 + 1
    assert "15441 more, 15446 in all" in lines[-2]
    assert lines[-1].startswith("What to do: put the clips below")


def test_the_real_sound_is_found_where_it_lies(real: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)None of the 15,539.*no file 15,538, no picture 1"):
        read_raw(settings(raw=VGGSound(raw_dir=str(real))), real)
    with pytest.raises(DataError, match=r"15,538 of the 15,539 clips"):
        read_raw(settings(raw=VGGSound(raw_dir=str(real)), columns=AUDIO), real)
