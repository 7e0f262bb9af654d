"""Raw folders to break, and the settings that read them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl

from g2d_pipeline.config import MISME, AVDigits, IngestSettings, RunOptions, SpokenMNIST, TargetSettings
from g2d_pipeline.sources.mis_me import simulated as simulation

PROJECT = Path(__file__).parents[2]
WEATHER = list(simulation.WEATHER)
LABELS = "labels/classification/combined_only_{}_set.xlsx"
MACHINE = RunOptions(device="cpu", progress=False)


@dataclass
class Copy:
    """A raw MIS-ME folder in `project / raw`, and the means to break it."""

    project: Path

    @property
    def root(self) -> Path:
        return self.project / "raw"

    @property
    def images(self) -> Path:
        return self.root / simulation.IMAGE_FOLDER

    def table(self, split: str) -> Path:
        return self.root / LABELS.format(split)

    def edit(self, split: str, change: Callable[[Any], object]) -> None:
        """Apply `change` to the worksheet of a split's table."""
        book = openpyxl.load_workbook(self.table(split))
        change(book.worksheets[0])
        book.save(self.table(split))

    def put(self, split: str, row: int, column: str, value: object) -> None:
        self.edit(
            split, lambda sheet: setattr(sheet.cell(row, simulation.HEADER.index(column) + 1), "value", value)
        )

    def get(self, split: str, row: int, column: str) -> Any:
        return (
            openpyxl.load_workbook(self.table(split))
            .worksheets[0]
            .cell(row, simulation.HEADER.index(column) + 1)
            .value
        )

    def settings(self, **changes: Any) -> IngestSettings:
        return mis_me_settings("raw", **changes)


def mis_me_settings(raw_dir: str, **changes: Any) -> IngestSettings:
    fields: dict[str, Any] = {
        "dataset": "mis_me",
        "source": "raw",
        "task": "regression",
        "target": TargetSettings(name="vwc", unit="m³/m³"),
        "raw": MISME(raw_dir=raw_dir),
        "columns": {"tabular": WEATHER, "image": ["image"]},
        "max_bad_fraction": 0.0,
        "machine": MACHINE,
    }
    return IngestSettings(**fields | changes)


def digits_settings(raw: AVDigits | SpokenMNIST, **changes: Any) -> IngestSettings:
    fields: dict[str, Any] = {
        "dataset": raw.layout,
        "source": "sample" if raw.layout == "av_digits" else "raw",
        "task": "classification",
        "target": TargetSettings(),
        "raw": raw,
        "columns": {"audio": ["audio"], "image": ["image"]},
        "max_bad_fraction": 0.0,
        "machine": MACHINE,
    }
    return IngestSettings(**fields | changes)


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0))
