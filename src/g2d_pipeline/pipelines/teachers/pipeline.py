from typing import Any

from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.previews import teachers_preview
from g2d_pipeline.pipelines.teachers.nodes import train_teachers


def create_pipeline() -> Pipeline:
    """Feature store → teachers."""
    inputs = ["features", "params:teachers"]
    about: dict[str, Any] = {"name": "train_teachers", "tags": "teachers", "preview_fn": teachers_preview}
    return Pipeline([node(train_teachers, inputs, "teachers", **about)])
