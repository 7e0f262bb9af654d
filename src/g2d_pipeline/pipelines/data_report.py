"""Manifest + feature store → the data report."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from g2d_pipeline.config import FeaturizeSettings
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.remote import local_folder
from g2d_pipeline.sources.hashing import cache_file
from g2d_pipeline.sources.manifest import Manifest


def make_data_report(
    manifests: dict[str, Manifest], features: dict[str, FeatureStore], settings: FeaturizeSettings
) -> tuple[Callable[[], str], Callable[[], dict[str, Any]]]:
    """Two functions that return the data report (splits, missing and suspicious samples): as an HTML page and
    as plain data. The report is computed once."""
    from g2d_pipeline.data_report.page import build_data_page
    from g2d_pipeline.data_report.report import describe_data, merge_reports

    @cache
    def report() -> dict[str, Any]:
        project = Path(settings.options.project)
        hashes = cache_file(project, settings.dataset)
        reports = {}
        for name, manifest in manifests.items():
            raw = local_folder(project, manifest.meta["raw_dir"])
            reports[name] = describe_data(manifest, features[name], raw, hashes)
        return merge_reports(reports)

    return lambda: build_data_page(report()), report
