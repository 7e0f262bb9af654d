"""Raw files → manifest."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.files import evaluation_set_file
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest


def ingest_raw(settings: IngestSettings) -> dict[str, Callable[[], Manifest]]:
    """Maps each split ("" for a single one) to a function that reads the raw layout and returns its manifest:
    the split, target and modality files of every sample. Notes common to all splits are logged once. The
    fixed evaluation set, if one exists, becomes the test split of data with a single split."""
    project, logged = Path(settings.options.project), set[str]()
    fixed = None if settings.splits else evaluation_set_file(project, settings.dataset)
    return {name: partial(read_raw, run, project, logged, fixed) for name, run in settings.runs.items()}
