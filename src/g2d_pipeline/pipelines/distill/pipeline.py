from typing import Any

from kedro.pipeline import Pipeline, node

from g2d_pipeline.pipelines.distill.nodes import train_students
from g2d_pipeline.pipelines.previews import students_preview


def create_pipeline() -> Pipeline:
    """Feature store + teachers → students."""
    inputs = ["features", "teachers", "params:distill"]
    about: dict[str, Any] = {"name": "train_students", "tags": "distill", "preview_fn": students_preview}
    return Pipeline([node(train_students, inputs, "students", **about)])
