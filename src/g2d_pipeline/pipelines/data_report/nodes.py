"""Manifest + feature store → the data report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g2d_pipeline.config import FeaturizeSettings
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.sources.manifest import Manifest


def make_data_report(
    manifest: Manifest, features: FeatureStore, settings: FeaturizeSettings
) -> tuple[dict[str, Any], str]:
    """What is in each split, what is missing, dropped or suspicious: as plain data, and as a page."""
    from g2d_pipeline.data_report.page import build_data_page
    from g2d_pipeline.data_report.report import describe_data

    project = Path(settings.machine.project)
    hashes = cache_file(project, settings.dataset)
    report = describe_data(manifest, features, project / manifest.meta["raw_dir"], hashes)
    return report, build_data_page(report)
