"""Where the data come from, the simulated sample in its place, signatures, and what importing costs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from g2d_pipeline.config import MISME, AVDigits, SpokenMNIST, Table
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.files import content_hash
from g2d_pipeline.sources import ensure_sample, locate, read_raw, signature
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.layout import MODULES
from tests.sources.raw_folders import PROJECT, MISMECopy

SMALL = MISME(raw_dir="raw", sample_rows={"train": 6, "val": 3, "test": 3})


# ----------------------------------------------------------------------------------------------------- locate
def test_auto_prefers_raw_and_falls_back_on_the_sample(copy: MISMECopy, tmp_path: Path) -> None:
    assert locate(SMALL, "auto", tmp_path) == ("raw", tmp_path / "raw")
    assert locate(SMALL, "sample", tmp_path) == ("sample", tmp_path / "raw/sample")
    ensure_sample(SMALL, tmp_path / "raw/sample")
    assert locate(SMALL, "auto", tmp_path) == ("raw", tmp_path / "raw")
    elsewhere = MISME(raw_dir="elsewhere")
    assert locate(elsewhere, "auto", tmp_path) == ("sample", tmp_path / "elsewhere/sample")


def test_a_sample_is_never_taken_for_raw_data(tmp_path: Path) -> None:
    ensure_sample(SMALL, tmp_path / "raw/sample")
    assert locate(SMALL, "auto", tmp_path) == ("sample", tmp_path / "raw/sample")
    with pytest.raises(DataError, match=r"(?s)no raw data of layout mis_me.*combined_only.*source=sample"):
        locate(SMALL, "raw", tmp_path)


def test_an_absolute_raw_dir_is_taken_as_it_is(copy: MISMECopy) -> None:
    assert locate(MISME(raw_dir=str(copy.root)), "auto", Path("/nowhere")) == ("raw", copy.root)


@pytest.mark.parametrize("wanted", ["auto", "raw"])
def test_data_of_another_layout_are_told_rather_than_replaced_by_the_sample(
    tmp_path: Path, wanted: str
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/MIS-ME.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"(?s)holds files, but not those of layout mis_me.*MIS-ME\.zip.*source=sample"
    ):
        locate(SMALL, wanted, tmp_path)


def test_a_raw_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("")
    for raw in (SMALL, AVDigits(raw_dir="raw"), SpokenMNIST(raw_dir="raw")):
        with pytest.raises(DataError, match="'raw' is a file"):
            locate(raw, "auto", tmp_path)


def test_the_bundled_sample_has_no_raw_form() -> None:
    raw = AVDigits(raw_dir="data/01_raw/av_digits")
    assert locate(raw, "auto", PROJECT) == ("sample", PROJECT / "data/01_raw/av_digits")
    assert locate(raw, "sample", PROJECT)[0] == "sample"
    with pytest.raises(ConfigError, match=r"bundled sample.*source=auto"):
        locate(raw, "raw", PROJECT)


@pytest.mark.parametrize("wanted", ["auto", "raw"])
def test_absent_real_digits_name_the_folders_and_the_variable(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(DataError) as caught:
        locate(SpokenMNIST(raw_dir="../shared/data"), wanted, tmp_path)
    for words in ("../shared/data", "fsdd", "mnist_t10k", "G2D_SHARED_DATA", "does not exist"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="has no sample"):
        locate(SpokenMNIST(raw_dir="../shared/data"), "sample", tmp_path)


# ------------------------------------------------------------------------------------------- simulated sample
def test_the_sample_is_made_once_and_again_when_the_settings_change(tmp_path: Path) -> None:
    root = tmp_path / "raw/sample"
    ensure_sample(SMALL, root)
    made = root.stat().st_mtime_ns, root.stat().st_ino
    ensure_sample(SMALL, root)
    assert (root.stat().st_mtime_ns, root.stat().st_ino) == made
    assert "simulated" in (root / "SAMPLE.txt").read_text("utf-8")
    ensure_sample(MISME(raw_dir="raw", sample_rows={"train": 7, "val": 3, "test": 3}), root)
    assert len(list(root.rglob("*.jpg"))) == 13
    assert [p.name for p in root.parent.iterdir()] == ["sample"]


def test_a_failure_leaves_neither_a_half_sample_nor_a_mess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import g2d_pipeline.sources.mis_me.simulated as simulation

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulation, "write_xlsx", fails)
    with pytest.raises(OSError, match="No space"):
        ensure_sample(SMALL, tmp_path / "raw/sample")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_sample_without_a_file_of_its_layout_is_told_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import g2d_pipeline.sources.mis_me.simulated as simulation

    monkeypatch.setattr(simulation, "make", lambda *_: None)
    with pytest.raises(
        DataError, match=r"(?s)no file that the layout reads.*mend make.*mis_me/simulated\.py"
    ):
        ensure_sample(SMALL, tmp_path / "raw/sample")
    assert list((tmp_path / "raw").iterdir()) == []


def test_settings_without_a_layout_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "mis_me", "birds")
    with pytest.raises(ConfigError, match=r"no layout 'g2d_pipeline\.sources\.birds'"):
        locate(SMALL, "auto", tmp_path)
    monkeypatch.setitem(MODULES, "mis_me", "cells")
    with pytest.raises(ConfigError, match=r"cells must define exactly one subclass of Layout; it defines 0"):
        locate(SMALL, "auto", tmp_path)


def test_a_sample_that_nothing_makes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "g2d_pipeline.sources.mis_me.simulated", None)
    with pytest.raises(ConfigError, match=r"says `simulated`, but .*mis_me/simulated\.py .* is missing"):
        ensure_sample(SMALL, tmp_path / "raw/sample")


def test_somebody_elses_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "raw/sample").mkdir(parents=True)
    (tmp_path / "raw/sample/thesis.doc").write_text("x")
    with pytest.raises(DataError, match=r"(?s)in the way.*move it away"):
        ensure_sample(SMALL, tmp_path / "raw/sample")
    assert (tmp_path / "raw/sample/thesis.doc").exists()


def test_workshops_of_killed_runs_are_swept(tmp_path: Path) -> None:
    old, young = tmp_path / "raw/.unfinished-old", tmp_path / "raw/.unfinished-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    ensure_sample(SMALL, tmp_path / "raw/sample")
    assert not old.exists()
    assert young.exists()


# -------------------------------------------------------------------------------------------------- signature
def age(folder: Path, seconds: float = 3600) -> None:
    """Give every file an old time stamp, so that its hash may be remembered."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("cached", [False, True])
def test_a_signature_changes_with_any_byte_and_not_with_time(
    copy: MISMECopy, tmp_path: Path, cached: bool
) -> None:
    cache = tmp_path / "cache.json" if cached else None
    age(copy.root)
    first = signature(SMALL, "raw", copy.root, cache)
    age(copy.root, 7200)
    assert signature(SMALL, "raw", copy.root, cache) == first
    images = sorted(copy.images.iterdir())
    for path in (copy.table("train"), copy.table("val"), images[0], images[-1]):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert signature(SMALL, "raw", copy.root, cache) != first
        path.write_bytes(content)
        assert signature(SMALL, "raw", copy.root, cache) == first
    images[0].rename(images[0].with_name("other.jpg"))
    assert signature(SMALL, "raw", copy.root, cache) != first


def test_a_signature_does_not_depend_on_the_place(copy: MISMECopy, tmp_path: Path) -> None:
    first = signature(SMALL, "raw", copy.root)
    assert first != signature(SMALL, "sample", copy.root)
    copy.root.rename(tmp_path / "elsewhere")
    assert signature(SMALL, "raw", tmp_path / "elsewhere") == first


def test_files_that_do_not_matter_do_not_change_a_signature(copy: MISMECopy) -> None:
    first = signature(SMALL, "raw", copy.root)
    (copy.root / "notes.txt").write_text("x")
    (copy.root / ".DS_Store").write_text("x")
    assert signature(SMALL, "raw", copy.root) == first


def test_there_is_no_signature_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files of layout mis_me"):
        signature(SMALL, "sample", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 2, "files": {"a": 1}}', b"\xff"]
)
def test_a_broken_cache_is_made_anew_with_a_line(
    copy: MISMECopy, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    age(copy.root)
    cache = tmp_path / "cache.json"
    first = signature(SMALL, "raw", copy.root, cache)
    good = cache.read_bytes()
    cache.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert signature(SMALL, "raw", copy.root, cache) == first
    assert "is broken" in caplog.text
    assert cache.read_bytes() == good


def test_a_cache_that_can_not_be_written_is_done_without(copy: MISMECopy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    first = signature(SMALL, "raw", copy.root)
    assert signature(SMALL, "raw", copy.root, tmp_path / "file" / "cache.json") == first


def test_the_cache_is_used_and_forgets_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "files", tmp_path / "cache.json"
    root.mkdir()
    files = [root / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
    age(root)
    first = hash_files(files, root, "", cache)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("an unchanged file is hashed again"))
        assert hash_files(files, root, "", cache) == first
    hash_files(files[:2], root, "", cache)
    assert str(root / "c") not in cache.read_text("utf-8")


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", tmp_path / "cache.json"
    file.write_text("1")
    stamp = file.stat().st_mtime_ns
    first = hash_files([file], tmp_path, "", cache)
    file.write_text("2")
    os.utime(file, ns=(stamp, stamp))  # the same size and, on a coarse clock, the same time stamp
    assert hash_files([file], tmp_path, "", cache) != first


@pytest.mark.parametrize("replace", [False, True])
def test_other_content_of_the_same_size_and_time_is_seen(
    tmp_path: Path, shared_data: Path, replace: bool
) -> None:
    """Corrected labels as from an archive with normalised times, `cp -p` or `rsync -t`."""
    inputs = shared_data / "hard_inputs" / "26-same-size-same-time" / "raw"
    raw, cache = Table(raw_dir="raw", table="m.csv", target="y"), tmp_path / "cache.json"
    file, new = tmp_path / "raw" / "m.csv", tmp_path / "raw" / "m_new.csv"
    file.parent.mkdir()
    file.write_bytes((inputs / "m.csv").read_bytes())
    new.write_bytes((inputs / "m_new.csv").read_bytes())
    assert file.stat().st_size == new.stat().st_size
    age(file.parent)
    first = signature(raw, "raw", file.parent, cache)
    assert signature(raw, "raw", file.parent, cache) == first
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    new.replace(file) if replace else file.write_bytes(new.read_bytes())
    os.utime(file, ns=times)
    assert signature(raw, "raw", file.parent, cache) != first


def test_thousands_of_unchanged_files_cost_only_stat_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "raw"
    (root / "fsdd/recordings").mkdir(parents=True)
    for i in range(2000):
        (root / f"fsdd/recordings/{i % 10}_ann_{i}.wav").write_bytes(b"RIFF%d" % i)
    age(root)
    raw, cache = SpokenMNIST(raw_dir="raw"), tmp_path / "cache.json"
    first = signature(raw, "raw", root, cache)
    read: list[str] = []
    monkeypatch.setattr(
        "g2d_pipeline.sources.hashing.content_hash", lambda file: read.append(file.name) or content_hash(file)
    )
    assert signature(raw, "raw", root, cache) == first
    assert not read
    (root / "fsdd/recordings/7_ann_7.wav").write_bytes(b"RIFFother")
    assert signature(raw, "raw", root, cache) != first
    assert read == ["7_ann_7.wav"]


def test_the_raw_tree_is_listed_once_a_run_and_anew_when_it_changes(
    copy: MISMECopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in [copy.root, *(p for p in copy.root.rglob("*") if p.is_dir())]:
        os.utime(folder, (time.time() - 3600,) * 2)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(str(folder)) or scandir(folder))
    source, root = locate(SMALL, "auto", copy.project)
    first = signature(SMALL, source, root)
    read_raw(copy.settings(), copy.project)
    below = [folder for folder in listed if folder.rstrip("/").startswith(str(copy.root))]
    assert len(below) == len(set(below)) == 6
    (copy.images / "new.jpg").write_bytes(b"new")
    assert signature(SMALL, source, root) != first
    (copy.images / "new.jpg").unlink()
    assert signature(SMALL, source, root) == first


def test_importing_sources_is_cheap() -> None:
    layouts = ["av_digits", "spoken_mnist", "mis_me", "crema_d", "av_mnist", "vggsound", "ur_funny", "table"]
    code = (
        "import sys; from g2d_pipeline.sources.layout import layout_class; "
        f"[layout_class(name) for name in {layouts}]; "
        "heavy = ('pandas', 'numpy', 'torch', 'openpyxl', 'PIL', 'sklearn', 'kedro'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
