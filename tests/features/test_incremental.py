"""A later store copies what an earlier one has: only new and changed cells are decoded, and the bytes are the
same."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.catalog.features import FeatureStoreDataset
from g2d_pipeline.config import AudioFeatures, ImageFeatures, VideoFeatures
from g2d_pipeline.features import chunks, media, open_store, write_store, writing
from g2d_pipeline.features.cells import content_key
from g2d_pipeline.features.kinds import FileKind, audio, image
from g2d_pipeline.features.media import Names
from g2d_pipeline.pipelines.featurize import featurize_modalities
from tests.features.watching import watch_decode
from tests.plans import FixedPlan

MakeRaw = Callable[..., Any]
Contents = Callable[[Path], dict[str, str]]
NEW = [2, 3, 9]  # samples of the later table: a recording of two of them, three pictures


class Killed(BaseException):
    """As a signal would end the run."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that are decoded, whatever they are."""
    seen: list[str] = []
    for kind in (FileKind, audio.Audio):
        watch_decode(monkeypatch, kind, seen.extend)
    monkeypatch.setattr(media, "CHUNK", 5)
    return seen


def write(raw: Any, folder: Path, *previous: Path) -> Path:
    write_store(folder, raw.manifest, raw.root, raw.settings(), previous)
    return folder


def earlier(raw: Any, folder: Path, without: list[int] = NEW) -> Path:
    """The store of a table that lacks some samples."""
    whole = raw.table
    raw.table = whole.drop(index=without).reset_index(drop=True)
    write(raw, folder)
    raw.table = whole
    return folder


def test_only_new_samples_are_decoded(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    raw = make_raw(30)
    old = earlier(raw, tmp_path / "old")
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert decoded == ["wav/1.wav", "png/2.png", "png/3.png", "png/9.png"]
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


def test_nothing_is_decoded_where_samples_are_removed_or_reordered(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    raw = make_raw(30)
    old = write(raw, tmp_path / "old")
    decoded.clear()
    raw.table = raw.table.drop(index=NEW).sample(frac=1, random_state=0).reset_index(drop=True)
    new = write(raw, tmp_path / "new", old)
    assert decoded == []
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


def test_a_file_with_other_content_is_decoded_anew(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    """Even of the same name, size and time."""
    raw = make_raw(12, only=["image"])
    before = raw.png(4).stat()
    Image.new("RGB", (8, 7), (1, 2, 3)).save(raw.png(4), compress_level=0)
    same_size = raw.png(4).stat().st_size
    old = write(raw, tmp_path / "old")
    Image.new("RGB", (8, 7), (3, 2, 1)).save(raw.png(4), compress_level=0)
    assert raw.png(4).stat().st_size == same_size
    os.utime(raw.png(4), ns=(before.st_atime_ns, before.st_mtime_ns))
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert decoded == ["png/4.png"]
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


def test_noise_belongs_to_the_name_so_a_renamed_recording_is_decoded_anew(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    raw = make_raw(12, only=["audio"])
    old = write(raw, tmp_path / "old")
    raw.wav(2).rename(raw.root / "wav/another.wav")
    raw.table["audio"] = raw.table["audio"].replace("wav/2.wav", "wav/another.wav")
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert decoded == ["wav/another.wav"]
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


@pytest.mark.parametrize(
    "harm", ["settings", "code", "a flipped byte", "a truncated array", "no meta", "another kind"]
)
def test_an_earlier_store_that_does_not_fit_is_not_used(
    make_raw: MakeRaw, tmp_path: Path, decoded: list[str], harm: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, contents: Contents,
):  # fmt: skip
    raw = make_raw(12, only=["image"])
    old = write(raw, tmp_path / "old")
    if harm == "settings":
        raw.modalities["image"] = ImageFeatures(size=[6, 4], channels=3)
    elif harm == "code":
        monkeypatch.setattr(writing, "_code", lambda: ["another"])
    elif harm == "a flipped byte":
        content = bytearray((old / "image.npy").read_bytes())
        content[-3] ^= 1
        (old / "image.npy").write_bytes(content)
    elif harm == "a truncated array":
        (old / "image.npy").write_bytes((old / "image.npy").read_bytes()[:-1])
    elif harm == "no meta":
        (old / "meta.json").unlink()
    else:
        raw.modalities["image"] = VideoFeatures(frames=1, size=[6, 5])
        raw.table["image"] = "png"
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        new = write(raw, tmp_path / "new", old)
    assert len(decoded) == (1 if harm == "another kind" else 12)
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))
    assert ("nothing is taken from the earlier store" in caplog.text) == (harm[0:2] in ("a ", "no"))


def test_the_first_store_that_fits_is_used(make_raw: MakeRaw, tmp_path: Path, decoded: list[str]):
    raw = make_raw(12, only=["image"])
    full, less = write(raw, tmp_path / "full"), earlier(raw, tmp_path / "less")
    raw.modalities["image"] = ImageFeatures(size=[4], channels=1)
    other = write(raw, tmp_path / "other")
    raw.modalities["image"] = ImageFeatures(size=[6, 5], channels=3)
    for previous, expected in (((other, full, less), 0), ((less, full), 3)):
        decoded.clear()
        write(raw, tmp_path / f"new{expected}", *previous)
        assert len(decoded) == expected


def test_what_was_found_is_found_again(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    """A spectrogram with noise no longer shows silence, nor rounded numbers their rounding."""
    half = AudioFeatures(sample_rate=4000, seconds=0.25, noise=0.1, n_fft=64, hop_length=64, dtype="float16")
    raw = make_raw(24, audio=half, only=["audio", "image"])
    soundfile.write(raw.wav(3), np.zeros(1000), 4000)
    Image.new("RGB", (8, 7), (1, 2, 3)).save(raw.png(5))
    old = earlier(raw, tmp_path / "old")
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert decoded == ["wav/1.wav", "png/2.png", "png/3.png", "png/9.png"]
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))
    notes = open_store(new).meta["notes"]
    assert [n for n in notes if "silent" in n] == [
        "audio: 2 of 24 samples have recordings that are silent: s006, s007"
    ]
    assert [n for n in notes if "colour" in n] == [
        "image: 1 of 24 samples have pictures that are of one colour: s005"
    ]


def test_an_interrupted_later_run_goes_on(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    raw = make_raw(40, only=["image"])
    old = earlier(raw, tmp_path / "old", without=[1, 33])
    whole = contents(write(raw, tmp_path / "whole"))
    original, runs = chunks.run, []

    def interrupted(job: Any) -> Any:
        runs.append(job.number)
        if len(runs) == 4:
            raise Killed
        return original(job)

    with monkeypatch.context() as patch:
        patch.setattr(chunks, "run", interrupted)
        with pytest.raises(Killed):
            write(raw, tmp_path / "new", old)
    decoded.clear()
    assert contents(write(raw, tmp_path / "new", old)) == whole
    assert decoded == ["png/33.png"]  # the chunk of png/1.png was whole


def test_rows_can_be_added_to_an_array_file(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    raw = make_raw(12, image=ImageFeatures(size=[5], channels=1), only=["image"])
    pictures = np.random.default_rng(0).integers(0, 256, (12, 6, 6), np.uint8)
    raw.table["image"] = [f"rows.npy#{i}" for i in range(12)]
    np.save(raw.root / "rows.npy", pictures[:11])
    old = earlier(raw, tmp_path / "old", without=[11])
    np.save(raw.root / "rows.npy", pictures)
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert decoded == ["rows.npy#11"]
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


def test_components_are_fitted_on_all_samples(
    make_raw: MakeRaw, tmp_path: Path, contents: Contents, decoded: list[str]
):
    """The pixels behind principal components are not kept: they are decoded again."""
    raw = make_raw(16, image=ImageFeatures(size=[6, 5], channels=3, pca_energy=0.4), only=["image"])
    old = earlier(raw, tmp_path / "old")
    decoded.clear()
    new = write(raw, tmp_path / "new", old)
    assert len(decoded) == 16
    assert contents(new) == contents(write(raw, tmp_path / "afresh"))


def test_clips_are_copied(
    make_raw: MakeRaw, make_clip: Any, tmp_path: Path, contents: Contents, decoded: list[str]
):
    raw = make_raw(10, image=VideoFeatures(frames=2, size=[8, 12]), only=["image"])
    for i in range(2):
        make_clip(f"{i}.mp4", pictures=9 + i).rename(raw.root / f"{i}.mp4")
    raw.table["image"] = [["0.mp4", "png", "1.mp4"][i % 3] for i in range(10)]
    old = earlier(raw, tmp_path / "old", without=[2, 5, 8])
    decoded.clear()
    assert contents(write(raw, tmp_path / "new", old)) == contents(write(raw, tmp_path / "afresh"))
    assert decoded == ["1.mp4", "0.mp4", "png", "1.mp4"]  # the last three: afresh
    Image.new("RGB", (7, 8), (9, 9, 9)).save(raw.png(7))  # in the folder
    decoded.clear()
    write(raw, tmp_path / "changed", old)
    assert decoded == ["png", "1.mp4"]


def test_keys(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(3, 2))
    (tmp_path / "a.wav").write_bytes(b"one")
    (tmp_path / "b.wav").write_bytes(b"one")
    keys = [content_key(cell, tmp_path)[0] for cell in ("a.npy#0", "a.npy#1", "a.npy", "a.wav", "b.wav")]
    assert len(set(keys)) == 5
    assert all(len(key) == 32 for key in keys)
    assert [content_key(cell, tmp_path)[0] for cell in ("none.wav", "a.npy#3")] == ["", ""]


def test_every_cell_is_decoded_and_every_file_opened_by_its_decoder_once(
    make_raw: MakeRaw, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    raw = make_raw(20)
    opened: list[str] = []
    for module, name in ((audio, "read_audio"), (image, "_decode")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, *a, o=original: opened.append(path.name) or o(path, *a)
        )
    write(raw, tmp_path / "store")
    files = [f"{i}.wav" for i in range(10)] + [f"{i}.png" for i in range(20)]
    assert sorted(opened) == sorted(files)
    assert sorted(decoded) == sorted(set(raw.table["audio"]) | set(raw.table["image"]))


def test_a_plain_recording_is_read_once(make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For its key and its sound; a format that soundfile has to decode, or a long one, is opened again."""
    raw = make_raw(20, only=["audio"])
    write(raw, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(audio, "_decode", lambda path, content: pytest.fail(f"{path} is opened"))
        write(raw, tmp_path / "once")
    opened: list[str] = []
    monkeypatch.setattr(audio, "_plain_wav", lambda content: None)
    original = audio._decode
    monkeypatch.setattr(audio, "_decode", lambda path, c: opened.append(path.name) or original(path, c))
    write(raw, tmp_path / "decoded")
    assert sorted(opened) == sorted(f"{i}.wav" for i in range(10))
    stored = [(tmp_path / name / "audio.npy").read_bytes() for name in ("whole", "once", "decoded")]
    assert stored[0] == stored[1] == stored[2]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_fold_has_decoded_is_copied_by_the_next(
    make_raw: MakeRaw, tmp_path: Path, decoded: list[str], overwrite: bool
):
    class Folds(FixedPlan):
        def runs(self, stage: str) -> list[str]:
            return ["fold1", "fold2"]

    raw = make_raw(12)
    first, second = copy.deepcopy(raw.manifest), copy.deepcopy(raw.manifest)
    first.meta["raw_dir"] = second.meta["raw_dir"] = str(raw.root)
    second.table["split"] = second.table["split"].sample(frac=1, random_state=0).to_numpy()
    assert (first.table["split"] != second.table["split"]).any()
    plan = Folds(tmp_path / "store/features-{fingerprint}", "")
    plan._cards = {("featurize", fold): {"fingerprint": fold} for fold in plan.runs("featurize")}
    dataset = FeatureStoreDataset(plan.folders["featurize"], "featurize", plan, overwrite)
    stores = featurize_modalities({"fold1": first, "fold2": second}, raw.settings())
    decoded.clear()
    dataset.save(stores)
    assert len(decoded) == len(set(decoded)) > 12
    loaded = dataset.load()
    assert (loaded["fold1"].index["split"] != loaded["fold2"].index["split"]).any()
    norms = [store.meta["modalities"]["audio"]["normaliser"] for store in loaded.values()]
    assert norms[0] != norms[1]  # each is measured on its own train


def test_the_catalog_hands_over_the_finished_stores(
    make_raw: MakeRaw, tmp_path: Path, decoded: list[str], contents: Contents
):
    raw = make_raw(20)

    def save(fingerprint: str, overwrite: bool = False) -> Path:
        manifest = raw.manifest
        manifest.meta["raw_dir"] = str(raw.root)
        plan = FixedPlan(tmp_path / "store/features-{fingerprint}", fingerprint)
        dataset = FeatureStoreDataset(plan.folders["featurize"], "featurize", plan, overwrite)
        dataset.save(featurize_modalities({"": manifest}, raw.settings()))
        return plan.folder("featurize")

    whole = raw.table
    raw.table = whole.drop(index=NEW).reset_index(drop=True)
    save("aaa")
    (tmp_path / "store/features-aab").mkdir()  # not finished: no card
    raw.table = whole
    decoded.clear()
    new = save("bbb")
    assert decoded == ["wav/1.wav", "png/2.png", "png/3.png", "png/9.png"]
    first = {name: digest for name, digest in contents(new).items() if name != "stage.json"}
    decoded.clear()
    again = contents(save("bbb", overwrite=True))  # rebuild=true believes no earlier store
    assert len(decoded) == 30
    assert {name: digest for name, digest in again.items() if name != "stage.json"} == first


def test_names_take_little_memory_and_give_back_what_they_were_given():
    given = ["", "wav/ä.wav", "b", "\udcff.wav", "wav/ä.wav"]  # the fourth: a name on disk that is no UTF-8
    names = Names(given)
    assert list(names) == given
    assert (names[1], names[-1], names[1:3], len(names)) == ("wav/ä.wav", "wav/ä.wav", ["wav/ä.wav", "b"], 5)
    with pytest.raises(IndexError):
        names[5]
    digests = []
    for strings in (["ab", "c"], ["a", "bc"], ["ab", "c"]):
        digest = hashlib.blake2b()
        Names(strings).digest_into(digest)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[2] != digests[1]
