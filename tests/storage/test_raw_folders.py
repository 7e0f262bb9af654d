"""Raw folders behind a URL: the bytes of a store are those from a disk; files are fetched when read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from g2d_pipeline import remote
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import media
from g2d_pipeline.remote import is_unfetched, local_folder
from g2d_pipeline.sources import signature
from tests.storage.conftest import FAST, S3, Clips, forget

PLACE = "s3://clips/raw"


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


@pytest.fixture
def uploaded(s3: S3, clips: Clips) -> Clips:
    s3.upload(clips.raw, "clips/raw")
    s3.asked.clear()
    return clips


def test_the_store_has_the_bytes_of_one_from_a_disk(
    s3: S3, uploaded: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "START_UP", 0)
    monkeypatch.setattr(media, "CHUNK", 5)
    here = uploaded.featurize(str(uploaded.raw), tmp_path / "here")
    for workers in (1, 2):
        forget()
        s3.asked.clear()
        uploaded.project = tmp_path / f"project{workers}"
        there = uploaded.featurize(PLACE, tmp_path / f"there{workers}", workers, options=s3.options)
        assert len([path for path in s3.gets() if path.rstrip("/") == "/clips"]) == 1  # one listing
        read = s3.gets("/clips/raw/")
        assert len(set(read)) == 1 + 3 * 12  # the table, and each file
        assert len(read) == len(set(read)) or workers == 2  # two processes may read the same file ahead
        assert contents(there.path) == contents(here.path)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_any_file_system_of_fsspec_will_do(clips: Clips, tmp_path: Path, protocol: str) -> None:
    forget()
    url = f"file://{clips.raw}" if protocol == "file" else "memory://clips/raw"
    if protocol == "memory":
        fsspec.filesystem("memory").put(f"{clips.raw}/", "/clips/raw", recursive=True)
    there = clips.featurize(url, tmp_path / "there")
    assert contents(there.path) == contents(clips.featurize(str(clips.raw), tmp_path / "here").path)
    forget()


def test_what_was_fetched_is_not_fetched_again_until_it_changes(
    s3: S3, uploaded: Clips, tmp_path: Path
) -> None:
    def seen(name: str) -> str:
        forget()
        s3.asked.clear()
        configuration = uploaded.resolve(PLACE, options=s3.options)
        raw = configuration.dataset.raw
        uploaded.featurize(PLACE, tmp_path / name, options=s3.options)
        return signature(raw, "raw", configuration.root, None, configuration.ingest())

    first = seen("a")
    assert seen("b") == first
    assert s3.gets("/clips/raw/") == []
    other = uploaded.raw / "png/1.png"
    s3.fs.put(str(uploaded.raw / "png/2.png"), "clips/raw/png/1.png")
    assert seen("c") != first
    assert s3.gets("/clips/raw/") == ["/clips/raw/png/1.png"]
    s3.fs.put(str(other), "clips/raw/png/1.png")
    assert seen("d") == first
    s3.fs.rm("clips/raw/png/1.png")
    forget()
    with pytest.raises(DataError, match=r"(?s)png/1\.png.*missing"):
        uploaded.featurize(PLACE, tmp_path / "e", options=s3.options)


def test_the_cache_keeps_what_was_used_last_and_its_limit(
    s3: S3, uploaded: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "IN_USE", 0)
    monkeypatch.setattr(media, "CHUNK", 4)
    limit, cache = 12_000, tmp_path / "elsewhere"
    storage = {"options": s3.options, "cache_gb": limit / 1e9, "cache_folder": str(cache)}
    there = uploaded.featurize(PLACE, tmp_path / "there", **storage)
    root = local_folder(uploaded.project, PLACE)
    assert root.resolve().is_relative_to(cache)
    fetched = [
        f for f in root.rglob("*.*") if f.is_file() and f.name != ".remote.json" and not is_unfetched(f)
    ]
    assert 0 < sum(f.stat().st_size for f in fetched) <= limit + 2000  # the table is kept beside it
    assert root / "metadata.csv" in fetched
    assert contents(there.path) == contents(uploaded.featurize(str(uploaded.raw), tmp_path / "here").path)


def test_a_chunk_is_read_ahead(
    s3: S3, uploaded: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    original = remote.fetch_ahead
    monkeypatch.setattr(media, "CHUNK", 4)
    monkeypatch.setattr(
        media.chunks, "fetch_ahead", lambda files: asked.append(tuple(f.name for f in files)) or original([])
    )
    uploaded.featurize(PLACE, tmp_path / "there", options=s3.options)
    assert asked[0] == tuple(f"{i}.wav" for i in range(4, 8))


# ------------------------------------------------------------------------------------------------- bad input
def test_a_bucket_that_is_not_there_is_told_with_file_and_key(s3: S3, clips: Clips) -> None:
    with pytest.raises(ConfigError, match=r"(?s)raw_dir: .*s3://other/raw.*no such bucket"):
        clips.resolve("s3://other/raw", options=s3.options)
    with pytest.raises(ConfigError, match=r"(?s)raw_dir: There are no files in s3://clips/nothing"):
        clips.resolve("s3://clips/nothing", options=s3.options)
    with pytest.raises(ConfigError, match=r"(?s)raw_dir: .*endpoint_url right"):
        clips.resolve(PLACE, options={"endpoint_url": "http://127.0.0.1:9"} | FAST)
    with pytest.raises(ConfigError, match=r"(?s)raw_dir: .*s4"):
        clips.resolve("s4://clips/raw")


def test_missing_credentials_are_told(s3: S3, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(ConfigError, match=r"(?s)access is denied\. Set AWS_ACCESS_KEY_ID"):
        clips.resolve(PLACE, options=s3.options)


def test_wrong_credentials_are_told(s3: S3, uploaded: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    def checked_from(requests: str) -> None:
        body = urllib.request.Request(
            f"{s3.url}/moto-api/reset-auth", requests.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(body).read()

    checked_from("0")
    try:
        with pytest.raises(ConfigError, match=r"(?s)access is denied\. Set AWS_ACCESS_KEY_ID"):
            uploaded.resolve(PLACE, options=s3.options)
    finally:
        checked_from("inf")


def test_an_overloaded_server_is_asked_again_but_not_for_ever(
    s3: S3, uploaded: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep  # between two tries: 10 ms instead of seconds
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *result: sleep(min(seconds, 0.01), *result))
    s3.slow = 1
    uploaded.resolve(PLACE, options=s3.options | FAST)
    s3.slow = 1
    uploaded.featurize(PLACE, tmp_path / "there", options=s3.options | FAST)
    forget()
    monkeypatch.setattr(remote.filesystem(PLACE, s3.options | FAST), "retries", 2)
    s3.slow = 1000
    with pytest.raises(ConfigError, match=r"(?s)overloaded, also after several tries"):
        uploaded.resolve(PLACE, options=s3.options | FAST)
    assert 2 <= 1000 - s3.slow <= 6
    s3.slow = 0
    s3.fs.put(str(uploaded.raw / "png/2.png"), "clips/raw/png/1.png")
    uploaded.resolve(PLACE, options=s3.options | FAST)
    s3.slow = 1000
    root = local_folder(uploaded.project, PLACE)
    with pytest.raises(DataError, match=r"(?s)overloaded, also after several tries"):
        remote.fetch([root / "png/1.png"])


def test_a_missing_extra_is_told(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'g2d-pipeline\[s3\]'"):
        clips.resolve(PLACE)


def test_a_cache_that_can_not_be_written_is_told_before_any_work(
    s3: S3, uploaded: Clips, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"(?s)The cache .* can not be written .*storage\.cache_folder"):
        uploaded.resolve(PLACE, options=s3.options, cache_folder=str(tmp_path / "file"))


def test_a_full_cache_disk_is_told(
    s3: S3, uploaded: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded.resolve(PLACE, options=s3.options)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote.filesystem(PLACE, s3.options), "get", full)
    with pytest.raises(
        DataError, match=r"The cache .* can not be written \(No space left on device\)\. Make room"
    ):
        uploaded.featurize(PLACE, tmp_path / "there", options=s3.options)


@pytest.mark.parametrize(
    "options",
    [{"key": "AKIA99"}, {"client_kwargs": {"aws_secret_access_key": "AKIA99"}}, {"token": "AKIA99"},
     {"endpoint_url": "http://AKIA99:x@127.0.0.1"}],
)  # fmt: skip
def test_secrets_are_refused_and_not_shown(clips: Clips, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"storage.*environment") as raised:
        clips.resolve(PLACE, options=options)
    assert "AKIA99" not in str(raised.value)


def test_names_that_lead_out_of_the_folder_are_refused(clips: Clips) -> None:
    forget()
    fsspec.filesystem("memory").pipe({"/clips/raw/../../x.png": b"1"})
    with pytest.raises(ConfigError, match=r"can not be a file in"):
        clips.resolve("memory://clips/raw")
    forget()


def test_local_folders_import_no_fsspec() -> None:
    code = (
        "import sys, g2d_pipeline.features, g2d_pipeline.sources, g2d_pipeline.features.media, "
        "g2d_pipeline.resolve; sys.exit('fsspec' in sys.modules or 's3fs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
