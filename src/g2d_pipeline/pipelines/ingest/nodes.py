"""Raw files → manifest."""

from __future__ import annotations

from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest


def ingest_raw(settings: IngestSettings) -> Manifest:
    """Read the raw layout and list every sample: its split, its target, where each modality lies."""
    return read_raw(settings, Path(settings.options.project))
