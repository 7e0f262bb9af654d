from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.distill.nodes import train_students


def create_pipeline() -> Pipeline:
    """Feature store + teachers → students."""
    inputs = ["features", "teachers", "params:distill"]
    return Pipeline([node(train_students, inputs, "students", name="train_students", tags="distill")])
