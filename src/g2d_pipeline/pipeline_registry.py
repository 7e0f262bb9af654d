"""The pipelines by name. Each name means: up to and including this stage, skipping what is fresh."""

from __future__ import annotations

from importlib import import_module

from kedro.pipeline import Pipeline

from g2d_pipeline.stages import STAGES


def register_pipelines() -> dict[str, Pipeline]:
    """`ingest → featurize → teachers → distill → evaluate`; `__default__` is the whole way. The data report
    belongs to `featurize`. `predict` makes nothing but predictions."""
    so_far, pipelines = Pipeline([]), {}
    for stage in STAGES:
        so_far += import_module(f"g2d_pipeline.pipelines.{stage}.pipeline").create_pipeline()
        pipelines["featurize" if stage == "data_report" else stage] = so_far
    predict = import_module("g2d_pipeline.pipelines.predict.pipeline").create_pipeline()
    return pipelines | {"predict": predict, "__default__": so_far}
