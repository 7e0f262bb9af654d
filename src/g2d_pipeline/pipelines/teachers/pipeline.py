from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.teachers.nodes import train_teachers


def create_pipeline() -> Pipeline:
    """Feature store → teachers."""
    inputs = ["features", "params:teachers"]
    return Pipeline([node(train_teachers, inputs, "teachers", name="train_teachers", tags="teachers")])
