"""A model for other programs: a program of torch (`.pt2`), or ONNX. Raw files are not read by it: its inputs
are what featurize stores, and `inputs.json` tells how that is made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.files import atomic_write
from g2d_pipeline.models import Classification, MultimodalModel, Task

if TYPE_CHECKING:
    from g2d_pipeline.serving.predictor import Predictor

Format = Literal["onnx", "torch"]
OUTPUTS = ("logits", "prediction")
EXAMPLE = 3  # samples of the example that is traced: one would be taken for the only size


class Network(nn.Module):
    """A model with one tensor a modality as its arguments, in their order, `[B, …]` as stored.

    Returns logits `[B, C]`, and probabilities `[B, C]` or, of a regression, values `[B]` in the target's
    unit."""

    def __init__(self, model: MultimodalModel, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        of_modality = dict(zip(self.model.modalities, inputs, strict=True))
        # ONNX has no bags of int32 ids
        whole = {m: x.long() if self.model.encoders[m].tokens else x for m, x in of_modality.items()}
        logits = self.model(whole).logits
        if isinstance(self.task, Classification):
            return logits, logits.softmax(dim=1)
        return logits, self.task.activate(logits) * self.task.scale + self.task.offset


def export_model(predictor: Predictor, path: Path, format: Format = "onnx") -> Path:
    """Write the model of a predictor. `about`, in the file: class names, target, modalities, version.

    Raises ConfigError for another format, or where the packages of the extra `export` are not installed."""
    example = {m: torch.from_numpy(predictor.inputs.empty(m, EXAMPLE)) for m in predictor.modalities}
    about = {**predictor.attributes, "class_names": predictor.inputs.about["class_names"]}
    model = predictor.model.to("cpu")
    try:
        return export_network(model, predictor.task, predictor.windows(example), path, format, about)
    finally:
        model.to(predictor.device)


def export_network(
    model: MultimodalModel,
    task: Task,
    example: Mapping[str, Tensor],
    path: Path,
    format: Format,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Trace a model on an `example` (modality → `[n ≥ 2, …]`) and write it; the size of batches is free."""
    if format not in ("onnx", "torch"):
        raise ConfigError(f"format = {format!r}. Allowed: onnx, torch")
    arguments = tuple(example[m] for m in model.modalities)
    batch = torch.export.Dim("batch", min=1)
    network = Network(model.eval(), task).requires_grad_(False)
    program = torch.export.export(network, arguments, dynamic_shapes=(tuple({0: batch} for _ in arguments),))
    text = json.dumps({"modalities": list(model.modalities), **(about or {})}, ensure_ascii=False)
    with atomic_write(path) as temporary:
        if format == "torch":
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files={"about.json": text})
        else:
            _write_onnx(program, list(model.modalities), temporary, text)
    return path


def _write_onnx(program: Any, names: list[str], path: Path, about: str) -> None:
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise ConfigError(
            "export to ONNX needs the packages of the extra export: pip install 'g2d-pipeline[export]'."
        ) from None
    level = logging.getLogger("onnxscript").level
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        converted = torch.onnx.export(
            program, input_names=names, output_names=list(OUTPUTS), dynamo=True, verbose=False, optimize=True
        )
    finally:
        logging.getLogger("onnxscript").setLevel(level)
    assert converted is not None
    converted.model.metadata_props["about"] = about
    converted.save(path, external_data=False)
