"""A model from its architecture, a plain dictionary kept in `model.json`: enough to rebuild and predict."""

from typing import Any

from g2d_pipeline.config import EncoderSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import Origins, checked
from g2d_pipeline.models.encoders import Normaliser, build_encoder
from g2d_pipeline.models.exchange import build_exchange
from g2d_pipeline.models.fusions import build_fusion
from g2d_pipeline.models.multimodal import MultimodalModel
from g2d_pipeline.models.task import task_from_json

HERE = Origins([("encoder", ("encoder",))])  # what mistakes in an encoder's settings are told to be in


def build_model(architecture: dict[str, Any]) -> MultimodalModel:
    """Build and initialise the model that `architecture` describes.

    `architecture`: `modalities`: m → {`encoder`: settings, `shape`: of one sample, `normaliser`: {scale,
    mean, std} or None, and for token ids `vocabulary`: how many there are}, in configuration order; `fusion`:
    a name, or its settings; `task`: see `task_from_json`; `exchange`: what the encoders tell each other by
    (left out: nothing). `weights` of an encoder are not read: see `load_pretrained`. Raises ConfigError where
    an encoder's settings are wrong, where it does not take samples of the shape, or has no stages for the
    exchange."""
    encoders = {}
    for m, section in architecture["modalities"].items():
        stored, shape = section["normaliser"], tuple(section["shape"])
        normaliser = Normaliser(stored["scale"], stored["mean"], stored["std"]) if stored else None
        try:
            settings = checked(EncoderSettings, section["encoder"], ("encoder",), HERE)
            encoders[m] = build_encoder(settings, shape, normaliser, section.get("vocabulary"))
        except ConfigError as error:
            raise ConfigError(f"modality {m}: {error}") from error
    task = task_from_json(architecture["task"])
    fusion = build_fusion(architecture["fusion"], {m: e.width for m, e in encoders.items()}, task.outputs)
    model = MultimodalModel(encoders, fusion, build_exchange(architecture.get("exchange"), encoders))
    model.architecture = architecture
    return model
