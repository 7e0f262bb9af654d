"""Raw files → manifest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest


def ingest_raw(settings: IngestSettings) -> Callable[[], Manifest]:
    """What reads the raw layout and lists every sample: its split, its target, where each modality lies."""
    return partial(read_raw, settings, Path(settings.options.project))
