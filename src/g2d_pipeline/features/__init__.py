"""Raw samples → arrays a model can read: the transforms of each kind of modality, and the store of arrays.

Nothing here imports torch, pandas or scikit-learn before a store is written or read."""

from importlib import import_module
from typing import Any

from g2d_pipeline.features.store import FeatureStore, open_store

__all__ = ["FeatureStore", "open_store", "write_store"]


def __getattr__(name: str) -> Any:
    """`write_store`, imported when it is first asked for: training only reads."""
    if name == "write_store":
        return import_module("g2d_pipeline.features.writing").write_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
