"""Raw files → manifest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest


def ingest_raw(settings: IngestSettings) -> dict[str, Callable[[], Manifest]]:
    """Split ("": there is one) → what reads the raw layout and lists every sample: its split, its target,
    where each modality lies. What is noted of all is logged once."""
    project, logged = Path(settings.options.project), set[str]()
    return {name: partial(read_raw, one, project, logged) for name, one in settings.runs.items()}
