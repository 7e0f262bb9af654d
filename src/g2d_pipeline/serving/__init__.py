"""Use what was trained: predict from raw files and export, without Kedro and without the code that trains."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from g2d_pipeline.serving.predictor import Predictor, load_model

__all__ = ["Predictor", "load_model"]


def __getattr__(name: str) -> Any:
    """Imported when first asked for: with them comes torch, which who reads the registry does without."""
    if name in __all__:
        return getattr(import_module("g2d_pipeline.serving.predictor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
