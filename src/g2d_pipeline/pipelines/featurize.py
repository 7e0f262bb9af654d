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
    """Maps each split to a function of (folder, previous stores) that writes its feature store to the folder.

    The previous stores are finished ones of other splits and earlier runs, newest first: the samples they
    hold are copied, every other file is decoded and transformed once. With None, the damaged files of the
    store in the folder are rebuilt."""
    return {n: partial(_write, manifest=manifest, settings=settings) for n, manifest in manifests.items()}


def _write(
    folder: Path, previous: Sequence[Path] | None, manifest: Manifest, settings: FeaturizeSettings
) -> None:
    root = local_folder(Path(settings.options.project), manifest.meta["raw_dir"])
    if previous is None:
        repair_store(folder, manifest, root)
    else:
        write_store(folder, manifest, root, settings, previous)
