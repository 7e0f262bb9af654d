"""The simulated sample of a layout (`samples/`): where it lies, what its SAMPLE.txt says, and how it is made."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2d_pipeline.samples import SIMULATED, describe

if TYPE_CHECKING:
    from g2d_pipeline.config import IngestSettings, LayoutSettings


def sample_dir(raw: LayoutSettings) -> str | None:
    """The folder of the sample, relative to the project like `raw_dir`; None: the layout has none."""
    return f"{raw.raw_dir.rstrip('/')}/sample" if raw.layout in SIMULATED else None


def data_dir(settings: IngestSettings) -> str:
    """The folder that the data come from, relative to the project like `raw_dir`: for the manifest."""
    sample = sample_dir(settings.raw) if settings.source == "sample" else None
    return settings.raw.raw_dir if sample is None else sample


def sample_text(raw: LayoutSettings) -> str:
    """What its SAMPLE.txt says."""
    return describe(raw.layout, *_size_and_seed(raw))


def make_sample(root: Path, raw: LayoutSettings) -> None:
    """Write the simulated raw folder into the empty folder `root`."""
    importlib.import_module(f"g2d_pipeline.samples.{raw.layout}").make(root, *_size_and_seed(raw))


def _size_and_seed(raw: Any) -> tuple[Any, int]:
    """(rows of each split, or the number of clips; seed) of a layout's settings that can be simulated."""
    return raw.sample_rows if hasattr(raw, "sample_rows") else raw.sample_clips, raw.seed
