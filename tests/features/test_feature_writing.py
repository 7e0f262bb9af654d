"""How a store is written: workers, interruptions, bad input, notes."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from g2d_pipeline.config import AudioFeatures, ImageFeatures, TabularFeatures
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import chunks, files, finalize, media, open_store, writing
from g2d_pipeline.features.kinds import FileKind
from g2d_pipeline.features.kinds.audio import Audio
from g2d_pipeline.features.kinds.image import Image as ImageKind
from g2d_pipeline.features.media import Media
from tests.features.watching import watch_decode

MakeRaw = Callable[..., Any]
Contents = Callable[[Path], dict[str, str]]
LOW = ImageFeatures(size=[6, 5], channels=3, pca_energy=0.4)


class Killed(BaseException):
    """As a signal would end the run."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "CHUNK", 3)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The cells of every chunk that is computed in this process."""
    seen: list[tuple[str, ...]] = []
    original = chunks.run
    monkeypatch.setattr(chunks, "run", lambda job: seen.append(job.cells) or original(job))
    return seen


# ---------------------------------------------------------------------------------------------- equal results
@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_workers_of_which_one_is_killed_write_the_same_bytes(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
):
    """With the other backends, `tests/test_compute.py` kills a worker."""
    raw = make_raw(24, image=LOW)
    alone = contents(raw.write(tmp_path / "alone"))
    monkeypatch.setattr(media, "START_UP", -1.0)  # start processes for any work
    steps: list[int] = []
    others = set(psutil.Process().children(recursive=True))
    monkeypatch.setattr(media, "track", _counting(steps, lambda: len(steps) == 3 and _kill_a_worker(others)))
    assert contents(raw.write(tmp_path / "many", compute={"workers": 2})) == alone
    assert sum(steps) == 12 + 24


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_disk_that_becomes_read_only_for_workers_is_one_message(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, backend: str
):
    raw = make_raw(48, only=["audio", "table"])
    alone, store = contents(raw.write(tmp_path / "alone")), tmp_path / "many"
    array, steps = store / "audio.npy", list[int]()
    monkeypatch.setattr(media, "START_UP", -1.0)
    monkeypatch.setattr(media, "track", _counting(steps, lambda: len(steps) == 2 and _immutable(array, "+i")))
    message = rf"^The feature store {store} can not be written \(Operation not permitted: {array}\)\. Give"
    try:
        with pytest.raises(DataError, match=message):
            raw.write(store, compute={"backend": backend, "workers": 2})
    finally:
        _immutable(array, "-i")
    assert not (store / "meta.json").exists()
    assert not list(store.glob(".*.tmp"))
    again: list[int] = []
    monkeypatch.setattr(media, "track", _counting(again, lambda: None))
    assert contents(raw.write(store)) == alone
    assert again[0] >= sum(steps)  # cells of the first chunks, which are there
    assert 6 <= sum(steps) < sum(again) == 24  # a worker may end the chunk that it has in hand


def _immutable(file: Path, change: str) -> None:
    """No right helps: as on a disk that is mounted read-only, for root too."""
    if subprocess.run(["chattr", change, file], capture_output=True).returncode:
        pytest.skip("this file system, or user, can make no file immutable")


def _kill_a_worker(others: set[psutil.Process]) -> None:
    """A process below this one that has imported torch, and is none of those that were there before."""
    children = set(psutil.Process().children(recursive=True)) - others
    workers = [p for p in children if any("libtorch_cpu" in m.path for m in p.memory_maps())]
    workers[0].kill()


def _counting(steps: list[int], then: Callable[[], object]) -> Callable[..., Any]:
    @contextmanager
    def track(*_: Any) -> Iterator[Callable[[int], None]]:
        def advance(number: int) -> None:
            steps.append(number)
            then()

        yield advance

    return track


@pytest.mark.usefixtures("small_chunks")
def test_processes_are_not_started_for_little_work(
    make_raw: MakeRaw, tmp_path: Path, ran: list[tuple[str, ...]]
):
    make_raw(24, only=["image"]).write(tmp_path / "store", compute={"workers": 2})
    assert len(ran) == 8


def test_the_threads_of_torch_are_left_as_they_were(make_raw: MakeRaw, tmp_path: Path, contents: Contents):
    raw = make_raw(12)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(contents(raw.write(tmp_path / f"{threads}")))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_equal_cells_are_decoded_once(make_raw: MakeRaw, tmp_path: Path, ran: list[tuple[str, ...]]):
    raw = make_raw(12, only=["audio"])
    raw.table["audio"] = [f"wav/{(i * 5) % 4}.wav" for i in range(12)]
    store = open_store(raw.write(tmp_path / "store"))
    assert ran == [("wav/0.wav", "wav/1.wav", "wav/2.wav", "wav/3.wav")]
    for i in range(12):
        assert np.array_equal(store.arrays["audio"][i], store.arrays["audio"][(i * 5) % 4])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(1, 9))
def test_every_row_is_in_one_job(cells: list[str], chunk: int):
    import pandas as pd

    before, media.CHUNK = media.CHUNK, chunk
    try:
        kind = ImageKind(ImageFeatures())
        modality = Media.from_column("x", kind, Path("root"), pd.Series(cells))
        jobs = [modality.job(number, Path("folder")) for number in range(modality.chunks)]
    finally:
        media.CHUNK = before
    found = {
        row: job.cells[k]
        for job in jobs
        for row, k in zip(job.rows.tolist(), job.source.tolist(), strict=True)
    }
    assert [found[row] for row in range(len(cells))] == cells
    assert sum(len(job.rows) for job in jobs) == len(cells)
    assert [c for job in jobs for c in job.cells] == list(dict.fromkeys(cells))


# ---------------------------------------------------------------------------------------------- interruptions
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", [Audio, ImageKind])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_goes_on(
    make_raw: MakeRaw,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[FileKind],
    after: int,
):
    raw = make_raw(24, image=LOW)
    whole = contents(raw.write(tmp_path / "whole"))
    calls: list[tuple[str, ...]] = []

    def interrupt(cells: list[str]) -> None:
        calls.append(tuple(cells))
        if len(calls) > after:
            raise Killed

    with monkeypatch.context() as patch:
        watch_decode(patch, kind, interrupt)
        with pytest.raises(Killed):
            raw.write(tmp_path / "store")
    assert not (tmp_path / "store/meta.json").exists()
    again: list[tuple[str, ...]] = []
    watch_decode(monkeypatch, kind, lambda cells: again.append(tuple(cells)))
    assert contents(raw.write(tmp_path / "store")) == whole
    assert len(again) == {Audio: 4, ImageKind: 8}[kind] - after
    assert not set(again) & set(calls[:after])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.usefixtures("small_chunks")
def test_a_killed_process_goes_on(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, ran: list[tuple[str, ...]]
):
    raw = make_raw(24)
    whole = contents(raw.write(tmp_path / "whole"))
    ran.clear()
    script = (
        "import pickle, sys, time; from pathlib import Path\n"
        "from g2d_pipeline.features import chunks, media, write_store\n"
        "media.CHUNK = 3; original = chunks.run\n"
        "chunks.run = lambda job: (original(job), time.sleep(0.1))[0]\n"
        "class Manifest: pass\n"
        "Manifest.table, Manifest.meta, root, settings = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "write_store(Path(sys.argv[2]), Manifest, root, settings)\n"
    )
    plan = (raw.manifest.table, raw.manifest.meta, raw.root, raw.settings())
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    partial = tmp_path / "partial"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "plan"), str(partial)])
    while process.poll() is None and len(_recorded(partial).get("image", {})) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (partial / "meta.json").exists()
    assert contents(raw.write(partial)) == whole
    assert 0 < len(ran) <= 8 - 2  # all recordings and at least two chunks of pictures were there
    assert all(cells[0].startswith("png") for cells in ran)


def _recorded(folder: Path) -> dict[str, Any]:
    """What progress.json says is done."""
    file = folder / "progress.json"
    return dict(json.loads(file.read_text())["done"]) if file.exists() else {}


def _partial(raw: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ends after two chunks of pictures."""
    calls: list[list[str]] = []

    def interrupt(cells: list[str]) -> None:
        calls.append(cells)
        if len(calls) > 2:
            raise Killed

    with monkeypatch.context() as patch:
        watch_decode(patch, ImageKind, interrupt)
        with pytest.raises(Killed):
            raw.write(folder)
    return folder


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("harm", "computed"),
    [
        ("nothing", 6),
        ("a ledger that is no JSON", 8),
        ("a ledger of another form", 8),
        ("no ledger", 8),
        ("no array", 8),
        ("a truncated array", 8),
        ("an array of another shape", 8),
        ("other samples", 8),
        ("other settings", 8),
        ("other code", 8),
        ("a changed picture", 7),
        ("a modality less", 8),
    ],
)
def test_what_does_not_fit_is_made_anew(
    make_raw: MakeRaw,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    ran: list[tuple[str, ...]],
    harm: str,
    computed: int,
):
    raw = make_raw(24, only=["image", "table"])
    folder = _partial(raw, tmp_path / "partial", monkeypatch)
    ledger = folder / "progress.json"
    if harm == "a ledger that is no JSON":
        ledger.write_bytes(ledger.read_bytes()[:-5])
    elif harm == "a ledger of another form":
        ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"done": [1, 2]}))
    elif harm == "no ledger":
        ledger.unlink()
    elif harm == "no array":
        (folder / "image.npy").unlink()
    elif harm == "a truncated array":
        (folder / "image.npy").write_bytes((folder / "image.npy").read_bytes()[:-1])
    elif harm == "an array of another shape":
        np.save(folder / "image.npy", np.zeros((24, 3, 6, 6), np.uint8))
    elif harm == "other samples":
        raw.table.loc[3, "sample_id"] = "another"
    elif harm == "other settings":
        raw.modalities["image"] = ImageFeatures(size=[6, 5], channels=1)
    elif harm == "other code":
        monkeypatch.setattr(writing, "_code", lambda: ["another"])
    elif harm == "a changed picture":
        Image.new("RGB", (8, 7), (1, 2, 3)).save(raw.png(4))
    elif harm == "a modality less":
        (folder / "table.npy").write_bytes(b"left by the other plan")
        del raw.modalities["table"]
    ran.clear()
    raw.write(folder)
    assert len(ran) == computed
    assert contents(folder) == contents(raw.write(tmp_path / "afresh"))


@pytest.mark.usefixtures("small_chunks")
def test_what_is_recorded_is_on_disk(make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw = make_raw(12, only=["image"])
    folder = _partial(raw, tmp_path / "partial", monkeypatch)
    array = np.load(folder / "image.npy")
    assert sorted(_recorded(folder)["image"]) == ["0", "1"]
    assert array[:6].any(axis=(1, 2, 3)).all()
    assert not array[6:].any()


def test_a_whole_store_can_be_written_over(make_raw: MakeRaw, tmp_path: Path, contents: Contents):
    raw = make_raw(8)
    before = contents(raw.write(tmp_path / "store"))
    (tmp_path / "store/notes.txt").write_text("not ours")
    assert contents(raw.write(tmp_path / "store")) == before | {
        "notes.txt": contents(tmp_path / "store")["notes.txt"]
    }


# -------------------------------------------------------------------------------------------------- bad input
def test_missing_and_fake_files_are_told_at_once(
    make_raw: MakeRaw, tmp_path: Path, broken_media: dict[str, Path], ran: list[tuple[str, ...]]
):
    raw = make_raw(20, only=["audio"])
    for i in range(3):
        raw.wav(i).unlink()
    raw.wav(4).write_bytes(broken_media["lfs"].read_bytes())
    for i in (5, 6, 7):
        raw.wav(i).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        raw.write(tmp_path / "store")
    assert str(caught.value).splitlines() == [
        "7 of 10 recordings of modality 'audio' can not be used (14 of 20 samples, 70.00%; max_bad_fraction "
        "allows 0.00%):",
        "  - wav/0.wav (sample s000 and 1 more) is missing",
        "  - wav/1.wav (sample s002 and 1 more) is missing",
        "  - wav/2.wav (sample s004 and 1 more) is missing",
        "  - wav/4.wav (sample s008 and 1 more) is a Git-LFS pointer, not the file itself "
        "(run `git lfs pull` in the copy)",
        "  - wav/5.wav (sample s010 and 1 more) is empty (0 bytes)",
        "  … and 2 more, 7 in all",
        "What to do: copy or download these files again, or leave them out of the raw data, or set "
        "max_bad_fraction to drop such samples; then run again.",
    ]
    assert not ran


@pytest.mark.usefixtures("small_chunks")
def test_what_only_decoding_finds_is_counted_to_the_end(
    make_raw: MakeRaw,
    tmp_path: Path,
    broken_media: dict[str, Path],
    contents: Contents,
    ran: list[tuple[str, ...]],
):
    raw = make_raw(24, only=["image"])
    originals = {i: raw.png(i).read_bytes() for i in (1, 22)}
    raw.png(1).write_bytes(broken_media["noise"].read_bytes())
    raw.png(22).write_bytes(broken_media["png truncated"].read_bytes())
    message = r"(?s)2 of 24 pictures of modality 'image'.*png/1.png \(sample s001\) can not be decoded.*"
    with pytest.raises(DataError, match=message + r"png/22.png \(sample s022\) is truncated"):
        raw.write(tmp_path / "store")
    assert len(ran) == 8
    for i, content in originals.items():
        raw.png(i).write_bytes(content)
    ran.clear()
    raw.write(tmp_path / "store")
    assert len(ran) == 2  # the other six chunks were whole
    assert contents(tmp_path / "store") == contents(raw.write(tmp_path / "afresh"))


def test_bad_recordings_are_told_with_their_samples(
    make_raw: MakeRaw, tmp_path: Path, broken_media: dict[str, Path]
):
    raw = make_raw(8, only=["audio"])
    raw.wav(0).write_bytes(broken_media["wav truncated"].read_bytes())
    soundfile.write(raw.wav(3), np.ones(50), 4001)  # shares no factor with 4000, but this is few taps
    soundfile.write(raw.wav(2), np.ones(50), 96_001)
    message = (
        r"(?s)2 of 4 recordings.*wav/0.wav \(sample s000 and 1 more\) is truncated.*wav/2.wav .* 96001 Hz"
    )
    with pytest.raises(DataError, match=message):
        raw.write(tmp_path / "store")


def test_values_that_overflow_are_told(make_raw: MakeRaw, tmp_path: Path):
    of = AudioFeatures(sample_rate=4000, seconds=0.25, peak_normalise=False, n_fft=64, hop_length=64)
    raw = make_raw(8, audio=of, only=["audio"])
    soundfile.write(raw.wav(1), np.full(1000, 3e38), 4000, subtype="FLOAT")
    with pytest.raises(
        DataError, match=r"wav/1.wav \(sample s002 and 1 more\) is not finite after the transform"
    ):
        raw.write(tmp_path / "store")


def test_silence_and_single_colours_are_noted(
    make_raw: MakeRaw, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    raw = make_raw(16, only=["audio", "image", "table"])
    raw.table["heat"] = 3.0
    soundfile.write(raw.wav(2), np.zeros(1000), 4000)
    for i in range(7):
        Image.new("RGB", (8, 7), (i, 2, 3)).save(raw.png(i))
    with caplog.at_level(logging.WARNING):
        store = open_store(raw.write(tmp_path / "store"))
    assert store.meta["notes"] == [
        "audio: 2 of 16 samples have recordings that are silent: s004, s005",
        "image: 7 of 16 samples have pictures that are of one colour: s000, s001, s002, s003, s004, …",
        "table: constant in train: heat.",
    ]
    assert "recordings that are silent" in caplog.text


@pytest.mark.usefixtures("small_chunks")
def test_notes_survive_an_interruption(make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw = make_raw(24, only=["image"])
    Image.new("RGB", (8, 7)).save(raw.png(1))
    store = open_store(raw.write(_partial(raw, tmp_path / "partial", monkeypatch)))
    assert store.meta["notes"] == ["image: 1 of 24 samples have pictures that are of one colour: s001"]


def test_a_manifest_that_does_not_fit_is_told(make_raw: MakeRaw, tmp_path: Path):
    raw = make_raw(8)
    manifest, settings = raw.manifest, raw.settings()
    del manifest.meta["columns"]["image"]
    with pytest.raises(DataError, match=r"'image' has the columns None in the manifest, one in the settings"):
        writing.write_store(tmp_path / "store", manifest, raw.root, settings)
    raw.table = raw.table.drop(columns="rain")
    with pytest.raises(DataError, match=r"(?s)lacks columns of modality 'table'.*rain"):
        raw.write(tmp_path / "store")
    raw = make_raw(8, table=TabularFeatures(columns=["audio"]), only=["table"])
    with pytest.raises(DataError, match=r"do not hold numbers.*\n.*'audio' is "):
        raw.write(tmp_path / "store")
    raw = make_raw(8, only=["table"])
    raw.table["split"] = "test"
    with pytest.raises(DataError, match="no sample in train"):
        raw.write(tmp_path / "store")
    raw = make_raw(8, audio=AudioFeatures(n_mels=200), only=["audio"])
    with pytest.raises(ConfigError, match=r"modalities.audio.n_mels=200"):
        raw.write(tmp_path / "store")


def test_a_full_disk_is_told_beforehand(make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError, match=r"needs 0.0 MB, the disk has 0.0 MB free. Make room"):
        make_raw(8).write(tmp_path / "store")


# ----------------------------------------------------------------------------------------------------- memory
def test_pieces_do_not_grow_with_the_samples(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is read of an array at once, or written to it, is as large for many samples as for few: counted,
    since what the system says about memory depends on what else runs. (`benchmarks/featurize.py` measures the
    peak.)"""
    pieces: list[int] = []

    class Counted(np.memmap):
        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            pieces.append(np.asarray(found).nbytes)
            return found

        def __setitem__(self, index: Any, value: Any) -> None:
            pieces.append(np.asarray(value).nbytes)
            super().__setitem__(index, value)

    original = files.mapped
    for module in (chunks, finalize):
        monkeypatch.setattr(module, "mapped", lambda *args: original(*args).view(Counted))
    np.save(tmp_path / "many.npy", np.random.default_rng(0).integers(0, 256, (4000, 24, 24), np.uint8))
    largest = []
    for n in (1500, 4000):
        raw = make_raw(8, image=ImageFeatures(size=[24], channels=1), only=["image"])
        raw.root = tmp_path
        raw.table = raw.table.iloc[np.zeros(n, int)].reset_index(drop=True)
        raw.table["sample_id"] = [str(i) for i in range(n)]
        raw.table["image"] = [f"many.npy#{i}" for i in range(n)]
        pieces.clear()
        raw.write(tmp_path / f"store{n}")
        largest.append(max(size for size in pieces))
        assert sum(pieces) > 2 * n * 24 * 24  # everything has been written, and read again
    assert largest[0] == largest[1] < 4_000_000 / 8 * 1.1  # 4 MB as float64
