from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.distill.nodes import train_students


def create_pipeline() -> Pipeline:
    """Feature store + teachers → students."""
    return Pipeline(
        [
            node(
                train_students,
                ["features", "teachers", "params:distill"],
                "students",
                name="train_students",
                tags="distill",
            )
        ]
    )
