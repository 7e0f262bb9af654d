"""Promises of all simulated samples: equal bytes for equal settings, marked SAMPLE, remade when asked for."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from g2d_pipeline.config import IngestSettings, LayoutSettings
from g2d_pipeline.config.layouts import AVMNIST, MISME, CremaD, URFunny, VGGSound
from g2d_pipeline.errors import DataError
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import ensure_sample, locate, read_raw
from g2d_pipeline.sources.layout import find_layout

SMALL: dict[str, LayoutSettings] = {
    raw.layout: raw
    for raw in (
        MISME(raw_dir="raw", sample_rows={"train": 5, "val": 2, "test": 3}),
        CremaD(raw_dir="raw", sample_clips=36),
        AVMNIST(raw_dir="raw", sample_rows={"train": 40, "val": 5, "test": 8}),
        VGGSound(raw_dir="raw", sample_clips=60),
        URFunny(raw_dir="raw", sample_rows={"train": 22, "val": 2, "test": 3}),
    )
}


def changed(raw: LayoutSettings, **changes: Any) -> LayoutSettings:
    return type(raw).model_validate(raw.model_dump() | changes)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", [*SMALL, "crema_d as mp4"])
def test_equal_settings_give_equal_bytes_later_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    layout, _, film = name.partition(" as ")
    simulated = importlib.import_module(f"g2d_pipeline.sources.{layout}.simulated")
    if layout == "vggsound":
        monkeypatch.setattr(simulated, "SECONDS", 1)
    for place, seed, wait in (("a", 0, 0.0), ("b", 1, 1.1), ("c", 0, 0.0)):
        (tmp_path / place).mkdir()
        if film:
            simulated.make(tmp_path / place, 12, seed, film)
        else:
            find_layout(changed(SMALL[layout], seed=seed), tmp_path).make_sample(tmp_path / place)
        time.sleep(wait)  # workbooks, archives and containers may carry the time in seconds
    assert content(tmp_path / "a") == content(tmp_path / "c")
    assert content(tmp_path / "a") != content(tmp_path / "b")


@pytest.mark.parametrize("name", SMALL)
def test_the_text_beside_it_says_what_it_is_and_changes_with_all_that_changes_it(name: str) -> None:
    raw = SMALL[name]
    layout = find_layout(raw, Path())
    assert layout.simulated is not None
    text = layout.sample_text
    assert text.startswith(f"SAMPLE: everything in this folder is simulated by g2d_pipeline.sources.{name}.")
    size = {"sample_clips": 61} if "sample_clips" in type(raw).model_fields else {}
    size = size or {"sample_rows": {"train": 41, "val": 5, "test": 8}}
    others = [find_layout(changed(raw, **change), Path()) for change in (size, {"seed": 1})]
    newer = layout.simulated._replace(recipe=layout.simulated.recipe + 1)
    texts = {text, *(other.sample_text for other in others), newer.text("m", 60, 0)}
    assert len(texts) == 4


@pytest.mark.parametrize("name", SMALL)
def test_it_is_made_where_there_are_no_raw_data_and_read_as_a_sample(
    tmp_path: Path, repository: Path, name: str
) -> None:
    settings = published_settings(name, SMALL[name], repository, tmp_path)
    assert settings.source == "sample"
    manifest = read_raw(settings, tmp_path)
    assert manifest.meta["source"] == "sample"
    assert manifest.meta["raw_dir"] == "raw/sample"
    assert manifest.meta["notes"][0].startswith("SAMPLE: simulated")
    assert not any("SAMPLE" in note for note in manifest.meta["notes"][1:])
    layout = find_layout(SMALL[name], tmp_path)
    assert (tmp_path / "raw/sample/SAMPLE.txt").read_text("utf-8") == layout.sample_text
    if isinstance(layout.sample_size, dict):
        dropped = len(manifest.meta["dropped"])
        assert sum(manifest.meta["counts"].values()) + dropped == sum(layout.sample_size.values())
    with pytest.raises(DataError, match=rf"no raw data of layout {name}(?s:.*)source=sample"):
        locate(SMALL[name], "raw", tmp_path)
    made = (tmp_path / "raw/sample").stat()
    ensure_sample(SMALL[name], tmp_path / "raw/sample")
    assert (tmp_path / "raw/sample").stat().st_ino == made.st_ino


def published_settings(name: str, raw: LayoutSettings, repository: Path, project: Path) -> IngestSettings:
    """The data set as its YAML in conf/base has it, but for `raw`."""
    parameters = yaml.safe_load((repository / f"conf/base/parameters_{name}.yml").read_text(encoding="utf-8"))
    parameters["datasets"][name]["raw"] = raw.model_dump()
    run = {"dataset": name, "method": "unimodal", "compare": [], "device": "cpu", "progress": False}
    return resolve(run | parameters, {}, lambda raw, wanted: locate(raw, wanted, project)).ingest()
