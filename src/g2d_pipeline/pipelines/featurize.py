"""Manifest → feature store."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from g2d_pipeline.config import FeaturizeSettings
from g2d_pipeline.features import write_store
from g2d_pipeline.features.writing import repair_store
from g2d_pipeline.remote import local_folder
from g2d_pipeline.sources.manifest import Manifest


def featurize_modalities(
    manifests: dict[str, Manifest], settings: FeaturizeSettings
) -> dict[str, Callable[[Path, Sequence[Path] | None], None]]:
    """Split → what writes its feature store into a folder, given finished ones of other splits and of earlier
    runs, the newest first; given None, it makes the damaged files of the one that is there again. Every file
    is decoded and transformed once; what an earlier store has is copied."""
    return {n: partial(_write, manifest=manifest, settings=settings) for n, manifest in manifests.items()}


def _write(
    folder: Path, previous: Sequence[Path] | None, manifest: Manifest, settings: FeaturizeSettings
) -> None:
    root = local_folder(Path(settings.options.project), manifest.meta["raw_dir"])
    if previous is None:
        repair_store(folder, manifest, root)
    else:
        write_store(folder, manifest, root, settings, previous)
