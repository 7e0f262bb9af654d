from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.ingest.nodes import ingest_raw


def create_pipeline() -> Pipeline:
    """Raw files → manifest."""
    return Pipeline([node(ingest_raw, "params:ingest", "manifest", name="ingest_raw", tags="ingest")])
