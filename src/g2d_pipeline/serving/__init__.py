"""Use what was trained: predict from raw files and export, without Kedro and without the code that trains."""

from g2d_pipeline.serving.predictor import Predictor, load_model

__all__ = ["Predictor", "load_model"]
