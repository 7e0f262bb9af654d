"""A model for other programs: as a program of torch, or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from g2d_pipeline.serving.predictor import Predictor


def export_model(predictor: Predictor, path: Path, format: Literal["onnx", "torch"] = "onnx") -> Path:
    """Write it."""
    raise NotImplementedError
