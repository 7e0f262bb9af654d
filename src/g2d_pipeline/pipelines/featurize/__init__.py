"""The stage `featurize`."""

from g2d_pipeline.pipelines.featurize.pipeline import create_pipeline

__all__ = ["create_pipeline"]
