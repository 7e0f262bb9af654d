"""Encoders, fusion modules and the model that joins them; tasks say what is predicted."""

from g2d_pipeline.models.encoders import Encoder, Normaliser, Trunk, build_encoder
from g2d_pipeline.models.fusions import Fusion, build_fusion
from g2d_pipeline.models.multimodal import MultimodalModel, Output, depends_on_batch
from g2d_pipeline.models.task import Classification, Regression, Task, regression_task, task_from_json

__all__ = [
    "Classification",
    "Encoder",
    "Fusion",
    "MultimodalModel",
    "Normaliser",
    "Output",
    "Regression",
    "Task",
    "Trunk",
    "build_encoder",
    "build_fusion",
    "depends_on_batch",
    "regression_task",
    "task_from_json",
]
