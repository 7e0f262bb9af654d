"""Raw VGGSound folders to break, and the settings that read them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from g2d_pipeline.config import IngestSettings, TargetSettings, VGGSound
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import ingest_settings

RAW = VGGSound(raw_dir="raw", val_fraction=0.2, sample_clips=60)
BOTH = {"audio": ["audio"], "visual": ["visual"]}
AUDIO = {"audio": ["audio"]}
A, B = "---g-f_I2yQ", "ab_000012_Z"


def settings(**changes: Any) -> IngestSettings:
    fields = {
        "target": TargetSettings(name="sound"),
        "max_bad_fraction": 0.3,
        "raw": RAW,
        "columns": BOTH,
    } | changes
    return ingest_settings(fields.pop("raw"), fields.pop("columns"), **fields)


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
