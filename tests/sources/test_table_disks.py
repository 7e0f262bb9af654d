"""Data that lie elsewhere: links, absolute paths, wide folders and loops; nothing is walked in vain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from g2d_pipeline.config import IngestSettings, Table, TargetSettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.faults import list_files
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import OPTIONS

N = 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Another disk with `clips/0.wav` …"""
    clips = tmp_path / "disk/clips"
    clips.mkdir(parents=True)
    for i in range(N):
        (clips / f"{i}.wav").write_bytes(b"RIFF%d" % i)
    return tmp_path / "disk"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project/raw").mkdir(parents=True)
    return tmp_path / "project"


def settings(**raw: Any) -> IngestSettings:
    return IngestSettings(
        dataset="own",
        source="raw",
        task="classification",
        target=TargetSettings(),
        raw=Table(**({"raw_dir": "raw", "target": "label"} | raw)),
        columns={"sound": ["sound"]},
        kinds={"sound": "audio"},
        max_bad_fraction=0.0,
        options=OPTIONS,
    )


def read(project: Path, paths: list[str], **raw: Any) -> Manifest:
    frame = pd.DataFrame({"sound": paths, "label": ["a", "b"] * (N // 2)})
    frame.to_csv(project / "raw/metadata.csv", index=False)
    return read_raw(settings(**raw), project)


def test_raw_dir_is_a_link(project: Path, disk: Path) -> None:
    (project / "raw").rmdir()
    (project / "raw").symlink_to(disk)
    manifest = read(project, [f"clips/{i}.wav" for i in range(N)])
    assert manifest.table["sound"][3] == "clips/3.wav"
    assert locate(settings().raw, "auto", project) == ("raw", project / "raw")


def test_files_and_folders_are_links_to_another_disk(project: Path, disk: Path) -> None:
    (project / "raw/a").symlink_to(disk / "clips")
    (project / "raw/b").mkdir()
    for i in range(N):
        (project / f"raw/b/{i}.wav").symlink_to(disk / f"clips/{i}.wav")
    paths = [f"{'ab'[i % 2]}/{i}.wav" for i in range(N)]
    assert read(project, paths).table["sound"].tolist() == paths
    before = signature(settings().raw, "raw", project / "raw", None, settings())
    (disk / "clips/7.wav").write_bytes(b"RIFFother")  # what a link leads to is what counts
    assert signature(settings().raw, "raw", project / "raw", None, settings()) != before


def test_absolute_paths_into_the_raw_folder_become_relative(project: Path, disk: Path) -> None:
    (project / "raw/a").symlink_to(disk / "clips")
    paths = [f"{project}/raw/a/{i}.wav" for i in range(N)]
    assert read(project, paths).table["sound"].tolist() == [f"a/{i}.wav" for i in range(N)]


def test_absolute_paths_by_either_name_of_a_linked_folder(project: Path, disk: Path) -> None:
    (project / "raw").rmdir()
    (project / "raw").symlink_to(disk)
    paths = [f"{project / 'raw' if i % 2 else disk}/clips/{i}.wav" for i in range(N)]
    assert read(project, paths).table["sound"].tolist() == [f"clips/{i}.wav" for i in range(N)]


def test_root_is_a_folder_on_another_disk(project: Path, disk: Path) -> None:
    paths = [f"{disk}/clips/{i}.wav" if i % 2 else f"{i}.wav" for i in range(N)]
    manifest = read(project, paths, root=str(disk / "clips"))
    assert manifest.meta["raw_dir"] == str(disk / "clips")
    assert manifest.table["sound"].tolist() == [f"{i}.wav" for i in range(N)]


@pytest.mark.parametrize(
    "path", ["../../disk/clips/0.wav", "{disk}/clips/0.wav", "{raw}/../../disk/clips/0.wav"]
)
def test_what_is_not_declared_is_refused(project: Path, disk: Path, path: str) -> None:
    path = path.format(disk=disk, raw=project / "raw")
    with pytest.raises(DataError, match=r"row 2: '.+' .*leads out of .+/raw: set `root`"):
        read(project, [path] * N)


def test_a_loop_of_links_in_a_path_is_told(project: Path) -> None:
    (project / "raw/loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"'loop' can not be read \(Too many levels of symbolic"):
        read(project, [f"loop/{i}.wav" for i in range(N)])


def test_only_named_files_of_a_wide_folder_are_looked_at(
    project: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with 100,000 unrelated files: none of their folders is listed, and none of them is opened."""
    (project / "raw/clips").symlink_to(disk / "clips")
    for k in range(50):
        (project / f"raw/others/{k}/deeper").mkdir(parents=True)
        (project / f"raw/others/{k}/deeper/{k}.wav").write_bytes(b"RIFF")
    (project / "raw/others/all").symlink_to(project / "raw")  # and a loop
    listed: list[str] = []
    for name in ("scandir", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path=".", real=real: listed.append(str(path)) or real(path))
    cache = project / "raw_hashes.json"
    asked = settings(table="metadata.csv")
    read(project, [f"clips/{i}.wav" for i in range(N)], table="metadata.csv")
    first = signature(asked.raw, "raw", project / "raw", cache, asked)
    assert first == signature(asked.raw, "raw", project / "raw", cache, asked)
    assert [path for path in listed if path.startswith(str(project / "raw"))] == [f"{project}/raw/clips"]


def test_a_listing_follows_no_loop(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one.wav").write_bytes(b"1")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/b/self").symlink_to(".")
    (tmp_path / "again").symlink_to(tmp_path / "a/b/..")  # another name of a folder is none
    assert list_files(tmp_path) == ["a/one.wav", "again/one.wav"]


def test_a_message_looks_into_few_folders(project: Path) -> None:
    for k in range(30):
        (project / f"raw/{k}").mkdir()
        (project / f"raw/{k}/x.csv").write_text("a,b\n1,2\n")
    assert len(list_files(project / "raw", at_most=11)) == 10
    assert len(list_files(project / "raw")) == 30
