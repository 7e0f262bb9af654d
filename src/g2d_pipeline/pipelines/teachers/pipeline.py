from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.teachers.nodes import train_teachers


def create_pipeline() -> Pipeline:
    """Feature store → teachers."""
    return Pipeline(
        [
            node(
                train_teachers,
                ["features", "params:teachers"],
                "teachers",
                name="train_teachers",
                tags="teachers",
            )
        ]
    )
