"""The pipelines by name. Each name means: up to and including this stage, skipping what is fresh."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from g2d_pipeline.pipelines import data_report, distill, evaluate, featurize, ingest, teachers


def register_pipelines() -> dict[str, Pipeline]:
    """`ingest → featurize → teachers → distill → evaluate`; `__default__` is the whole way."""
    so_far, pipelines = Pipeline([]), {}
    for stage in (ingest, featurize, teachers, distill, evaluate):
        so_far = so_far + stage.create_pipeline()
        if stage is featurize:
            so_far = so_far + data_report.create_pipeline()
        pipelines[stage.__name__.rsplit(".", 1)[-1]] = so_far
    return pipelines | {"__default__": so_far}
