"""The stage `evaluate`."""

from g2d_pipeline.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
