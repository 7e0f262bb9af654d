"""The data report, which belongs to the stage `featurize`."""

from g2d_pipeline.pipelines.data_report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
