"""Artefacts that machines share: whole or not there, fetched when they are read, made once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from kedro.framework.project import configure_project

from g2d_pipeline import remote
from g2d_pipeline.cards import Clock, read_card, write_card
from g2d_pipeline.cli import cli
from g2d_pipeline.config import TargetSettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store
from g2d_pipeline.mirror import COMPLETE, Mirror
from g2d_pipeline.remote import fetch_folder, is_unfetched
from g2d_pipeline.training import Data
from g2d_pipeline.training.data import take
from tests.e2e.project import REPOSITORY
from tests.storage.conftest import COLUMNS, FAST, S3, Clips, forget

LAB = "s3://clips/lab"


class Killed(BaseException):
    """As a signal would end the run."""


def mirror(s3: S3, data: Path, limit: float = 1e9) -> Mirror:
    return Mirror(LAB, data, s3.options | FAST, limit)


def artefact(data: Path, content: bytes = b"weights") -> Path:
    folder = data / "06_models/own/students/joint-seed0-abc"
    (folder / "outputs").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "model.json").write_text("{}")
    (folder / "outputs/row.npy").write_bytes(b"rows")
    write_card(folder, {"stage": "distill", "fingerprint": "abc"}, Clock.start(), content.decode())
    return folder


def found(s3: S3, data: Path, folder: Path, there: Path) -> dict[str, bytes] | None:
    """What another machine, whose data are in `there`, gets of an artefact of `data`."""
    other = there / folder.relative_to(data)
    mirror(s3, there).find(other)
    if not other.exists():
        return None
    fetch_folder(other)
    return {f.relative_to(other).as_posix(): f.read_bytes() for f in other.rglob("*") if f.is_file()}


def test_another_machine_finds_it_and_fetches_what_it_reads(s3: S3, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a")
    mirror(s3, tmp_path / "a").push(folder)
    other = tmp_path / "b" / folder.relative_to(tmp_path / "a")
    mirror(s3, tmp_path / "b").find(other)
    assert read_card(other) == read_card(folder)
    remote.attach(other)
    assert is_unfetched(other / "model.safetensors")
    assert [path for path in s3.gets() if "safetensors" in path] == []
    contents = found(s3, tmp_path / "a", folder, tmp_path / "b")
    assert contents is not None
    assert contents["model.safetensors"] == b"weights"
    assert contents["outputs/row.npy"] == b"rows"
    s3.asked.clear()
    mirror(s3, tmp_path / "a").push(folder)
    mirror(s3, tmp_path / "b").push(other)
    mirror(s3, tmp_path / "b").find(other)
    assert s3.asked == []


def interrupted(own: Mirror, folder: Path, after: int) -> None:
    """An upload that ends after so many objects."""
    done: list[Any] = []

    def until(write: Any, *arguments: Any) -> None:
        if len(done) == after:
            raise Killed
        done.append(arguments)
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("put_file", "pipe_file"):
            patch.setattr(own.fs, name, partial(until, getattr(own.fs, name)))
        with pytest.raises(Killed):
            own.push(folder)
    forget()


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_interrupted_upload_is_invisible_and_gone_on_with(s3: S3, tmp_path: Path, after: int) -> None:
    folder = artefact(tmp_path / "a")
    interrupted(mirror(s3, tmp_path / "a"), folder, after)
    assert found(s3, tmp_path / "a", folder, tmp_path / "b") is None
    s3.asked.clear()
    mirror(s3, tmp_path / "a").push(folder)
    puts = [path for method, path in s3.asked if method == "PUT"]
    assert len(puts) == 3 - after + 1
    assert puts[-1].endswith(COMPLETE)
    assert found(s3, tmp_path / "a", folder, tmp_path / "c") is not None


@pytest.mark.parametrize("after", [0, 1])
def test_one_that_is_replaced_is_seen_until_the_last_write(s3: S3, tmp_path: Path, after: int) -> None:
    mirror(s3, tmp_path / "a").push(folder := artefact(tmp_path / "a", b"first"))
    shutil.rmtree(folder)
    artefact(tmp_path / "a", b"second")
    interrupted(mirror(s3, tmp_path / "a"), folder, after)
    seen = found(s3, tmp_path / "a", folder, tmp_path / "b")
    assert seen is not None
    assert seen["model.safetensors"] == b"first"
    mirror(s3, tmp_path / "a").push(folder)
    seen = found(s3, tmp_path / "a", folder, tmp_path / "c")
    assert seen is not None
    assert seen["model.safetensors"] == b"second"
    assert len([path for path in s3.fs.find("clips/lab") if "safetensors" in path]) == 1


UPLOAD = """
import sys
from pathlib import Path
from g2d_pipeline.mirror import Mirror
url, place, data, folder = sys.argv[1:]
Mirror(place, Path(data), {"endpoint_url": url}, 1e9).push(Path(folder))
"""


def killed(s3: S3, data: Path, folder: Path, hold: str) -> None:
    """A process that uploads an artefact, and is killed (-9) while the server has one of its requests."""
    s3.hold = hold
    env = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    arguments = [sys.executable, "-c", UPLOAD, s3.url, LAB, str(data), str(folder)]
    with subprocess.Popen(arguments, env=env) as process:
        assert s3.held.wait(30)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    s3.released.set()


@pytest.mark.parametrize("hold", ["model.safetensors", COMPLETE])
def test_kill_9_of_an_upload_leaves_nothing_or_all(s3: S3, tmp_path: Path, hold: str) -> None:
    """The server may yet have taken the last request whole: then it counts as sent."""
    data = tmp_path / "a"
    killed(s3, data, folder := artefact(data), hold)
    whole = {"model.safetensors": b"weights", "model.json": b"{}", "outputs/row.npy": b"rows"}
    seen = found(s3, data, folder, tmp_path / "b")
    assert seen is None or (hold == COMPLETE and whole.items() <= seen.items())
    mirror(s3, data).push(folder)
    seen = found(s3, data, folder, tmp_path / "c")
    assert seen is not None
    assert whole.items() <= seen.items()
    assert len(s3.fs.find("clips/lab")) == len(whole) + 1


def test_kill_9_between_the_parts_of_a_large_file_leaves_the_old_artefact(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "a"
    mirror(s3, data).push(folder := artefact(data, b"first"))
    shutil.rmtree(folder)
    artefact(data, b"second")
    os.truncate(folder / "model.safetensors", size := 105_000_000)  # s3fs sends parts of 50 MiB from 100 on
    killed(s3, data, folder, "partNumber=2")
    seen = found(s3, data, folder, tmp_path / "b")
    assert seen is not None
    assert seen["model.safetensors"] == b"first"
    assert not [path for path in s3.fs.find("clips/lab") if s3.fs.size(path) > 1000]
    mirror(s3, data).push(folder)
    (weights,) = (path for path in s3.fs.find("clips/lab") if "safetensors" in path)
    assert s3.fs.size(weights) == size
    left = s3.fs.call_s3("list_multipart_uploads", Bucket="clips").get("Uploads", [])
    assert [one["Key"] for one in left] == [weights.removeprefix("clips/")]  # see docs/scaling.md
    s3.fs.clear_multipart_uploads("clips")


def test_a_damaged_object_is_told(s3: S3, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a")
    mirror(s3, tmp_path / "a").push(folder)
    (path,) = (p for p in s3.fs.find("clips/lab") if "safetensors" in p)
    s3.fs.pipe_file(path, b"weighty")
    with pytest.raises(DataError, match=r"model\.safetensors has changed since it was listed"):
        found(s3, tmp_path / "a", folder, tmp_path / "b")


@pytest.mark.parametrize("name", ["../../../../../x", "/x", "a/../../x"])
def test_a_name_that_leads_out_of_the_folder_is_refused(s3: S3, tmp_path: Path, name: str) -> None:
    folder = artefact(tmp_path / "a")
    complete = {"files": {name: [1, "abc"]}, "card": {}}
    s3.fs.pipe_file(
        f"clips/lab/{folder.relative_to(tmp_path / 'a')}/{COMPLETE}", json.dumps(complete).encode()
    )
    with pytest.raises(DataError, match="can not be a file in"):
        found(s3, tmp_path / "a", folder, tmp_path / "b")


def test_what_can_not_be_written_is_told_before_any_work(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"artefacts can not be written\. s3://nowhere/lab: there is no such bucket"
    ):
        Mirror("s3://nowhere/lab", tmp_path, s3.options, 1e9).check()
    mirror(s3, tmp_path).check()
    s3.slow = 1000
    folder = artefact(tmp_path)
    fast = mirror(s3, tmp_path)
    fast.fs.retries = 1
    with pytest.raises(DataError, match=r"joint-seed0-abc is made, but not uploaded.*overloaded"):
        fast.push(folder)


# ---------------------------------------------------------------------------- stores larger than the cache
def test_shards_are_fetched_whole_ahead_and_within_the_limit(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "IN_USE", 0)
    clips = Clips(tmp_path / "project", tmp_path / "raw", n=24)
    data = clips.project / "data"
    store = clips.featurize(str(clips.raw), data / "04_feature/own/features-abc", shard_rows=5)
    write_card(store.path, {"stage": "featurize", "fingerprint": "abc"}, Clock.start(), "content")
    mirror(s3, data).push(store.path)
    files = [f for f in store.path.iterdir() if "-of-" not in f.name or "-00000-" in f.name]
    limit = 2.5 * sum(f.stat().st_size for f in files)  # a shard of each modality, and what is in one file
    there = tmp_path / "there/04_feature/own/features-abc"
    mirror(s3, tmp_path / "there", limit=limit).find(there)
    fetch_folder(there, lambda name: name.endswith(".npy"))
    other = open_store(there)
    other.verify()
    assert all(is_unfetched(f) for f in there.glob("*.npy"))
    s3.asked.clear()
    sound = other.arrays["sound"]
    sound[0]
    remote._ahead[str(there / "sound-00001-of-00005.npy")].result()
    assert [path.partition(".npy")[0][-14:] for path in s3.gets()] == ["00000-of-00005", "00001-of-00005"]
    for name, array in store.arrays.items():
        assert np.array_equal(other.arrays[name], np.asarray(array))
    here = [f for f in there.glob("*.npy") if not is_unfetched(f)]
    assert 0 < sum(f.stat().st_size for f in here) <= limit < sum(a.nbytes for a in store.arrays.values())
    rows = np.random.default_rng(0).permutation(24)
    one, two = (Data.from_store(s, TargetSettings()) for s in (store, open_store(there)))
    assert all((take(one.arrays[m], rows) == take(two.arrays[m], rows)).all() for m in one.modalities)


# ------------------------------------------------------------------------------------------ whole pipelines
def project(folder: Path, raw_dir: str, storage: dict[str, Any]) -> Path:
    shutil.copytree(REPOSITORY / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "data").mkdir()
    encoder = {"name": "small_cnn", "widths": [2]}
    modalities = {m: COLUMNS[m] | {"encoder": encoder} for m in ("sound", "photo")}
    own = {
        "raw": {"layout": "table", "raw_dir": raw_dir, "target": "label", "split": "fold"},
        "task": "classification", "modalities": modalities, "training": {"epochs": 2, "batch_size": 8},
        "methods": {"g2d": {"smp": {"tau": [1, 1]}}},
    }  # fmt: skip
    top = yaml.safe_load((folder / "conf/base/parameters.yml").read_text())
    (folder / "conf/base/parameters.yml").write_text(yaml.safe_dump(top | {"storage": storage, "seeds": [0]}))
    (folder / "conf/base/parameters_own.yml").write_text(yaml.safe_dump({"datasets": {"own": own}}))
    return folder


@pytest.mark.slow
def test_a_second_machine_makes_nothing_again(
    s3: S3, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Raw data and artefacts on S3: the second machine trains further runs from the store of the first."""
    configure_project("g2d_pipeline")
    s3.upload(clips.raw, "clips/raw")
    storage = {"artefacts": LAB, "options": s3.options, "shard_rows": 10}

    def run(folder: Path, extra: str = "") -> str:
        forget()
        caplog.clear()
        monkeypatch.chdir(folder)
        options = ["run", "--pipeline", "distill", "--params", f"dataset=own,device=cpu{extra}"]
        result = CliRunner().invoke(cli, options)
        assert result.exit_code == 0, result.output
        return caplog.text

    machines = [project(tmp_path / name, "s3://clips/raw", storage) for name in ("a", "b")]
    assert "Running node: featurize" in run(machines[0])
    s3.asked.clear()
    log = run(machines[1])
    assert "Running node" not in log
    assert "Fresh, skipped: ingest_raw, featurize_modalities" in log
    assert s3.gets("/clips/raw/") == ["/clips/raw/metadata.csv"]
    assert not [path for path in s3.gets("/clips/lab/") if ".npy" in path or "safetensors" in path]
    log = run(machines[1], ",lr=0.02")
    assert "Running node: featurize" not in log
    alone = project(tmp_path / "alone", str(clips.raw), {})
    run(alone, ",lr=0.02")

    def weights(folder: Path) -> dict[str, bytes]:
        found = {}
        for file in folder.glob("data/06_models/own/*/*/*-*/model.safetensors"):
            training = json.loads((file.parent / "stage.json").read_text())["parameters"]["training"]
            if training["optimizer"]["lr"] == 0.02:
                found[file.parent.name.partition("-")[0] + file.parent.parent.name] = file.read_bytes()
        return found

    assert weights(machines[1]) == weights(alone) != {}
