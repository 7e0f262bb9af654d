"""G²D: gradient-guided distillation for multimodal learning, as a Kedro project with a PyTorch core."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_model`, imported when it is first asked for: with it comes torch."""
    if name == "load_model":
        return import_module("g2d_pipeline.serving").load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
