"""Manifest → feature store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from g2d_pipeline.config import FeaturizeSettings
from g2d_pipeline.features import write_store
from g2d_pipeline.sources.manifest import Manifest


def featurize_modalities(manifest: Manifest, settings: FeaturizeSettings) -> Callable[[Path], None]:
    """What writes the feature store into a folder, decoding and transforming every file once."""
    return partial(_write, manifest=manifest, settings=settings)


def _write(folder: Path, manifest: Manifest, settings: FeaturizeSettings) -> None:
    write_store(folder, manifest, Path(settings.machine.project) / manifest.meta["raw_dir"], settings)
