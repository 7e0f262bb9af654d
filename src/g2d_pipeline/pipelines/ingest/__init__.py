"""The stage `ingest`."""

from g2d_pipeline.pipelines.ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
