"""The stage `distill`."""

from g2d_pipeline.pipelines.distill.pipeline import create_pipeline

__all__ = ["create_pipeline"]
