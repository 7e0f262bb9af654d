"""The pipelines by name. Each name means: up to and including this stage, skipping what is fresh."""

from __future__ import annotations

from importlib import import_module

from kedro.pipeline import Pipeline

from g2d_pipeline.stages import STAGES


def register_pipelines() -> dict[str, Pipeline]:
    """`ingest → featurize → teachers → distill → evaluate`; `__default__` is the whole way. The data report
    belongs to `featurize`. `predict` makes nothing but predictions; `retrain` is the whole way with gates
    behind `ingest` and the promotion at its end."""
    so_far, pipelines = Pipeline([]), {}
    for stage in STAGES:
        so_far += import_module(f"g2d_pipeline.pipelines.{stage}.pipeline").create_pipeline()
        pipelines["featurize" if stage == "data_report" else stage] = so_far
    predict = import_module("g2d_pipeline.pipelines.predict.pipeline").create_pipeline()
    of_retrain = import_module("g2d_pipeline.pipelines.retrain.pipeline")
    retrain = of_retrain.create_pipeline(pipelines["ingest"], so_far - pipelines["ingest"])
    return pipelines | {"predict": predict, "retrain": retrain, "__default__": so_far}
