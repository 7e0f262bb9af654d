"""Encoders, fusion modules and the model that joins them; tasks say what is predicted."""

from g2d_pipeline.models.encoders import Encoder, Normaliser, Trunk, build_encoder
from g2d_pipeline.models.fusions import build_fusion
from g2d_pipeline.models.fusions.base import Fusion
from g2d_pipeline.models.multimodal import MultimodalModel, Output, depends_on_batch
from g2d_pipeline.models.task import Classification, Regression, Task, regression_task, task_from_json
