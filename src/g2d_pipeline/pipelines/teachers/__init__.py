"""The stage `teachers`."""

from g2d_pipeline.pipelines.teachers.pipeline import create_pipeline

__all__ = ["create_pipeline"]
