"""A model for other programs: a program of torch (`.pt2`), or ONNX. Raw files are not read by it: its inputs
are what featurize stores, and `inputs.json` tells how that is made."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from g2d_pipeline.errors import ConfigError
from g2d_pipeline.files import atomic_write
from g2d_pipeline.models import Classification, MultimodalModel, Task

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
        tensors = {}
        for m, x in zip(self.model.modalities, inputs, strict=True):
            tensors[m] = x.long() if self.model.encoders[m].tokens else x  # ONNX has no bags of int32 ids
        logits = self.model(tensors).logits
        if isinstance(self.task, Classification):
            return logits, logits.softmax(dim=1)
        return logits, self.task.activate(logits) * self.task.scale + self.task.offset


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
    names = list(model.modalities)
    batch = torch.export.Dim("batch", min=1)
    network = Network(model.eval(), task).requires_grad_(False)
    arguments = tuple(example[m] for m in names)
    program = torch.export.export(network, arguments, dynamic_shapes=(tuple({0: batch} for _ in names),))
    text = json.dumps({"modalities": names, **(about or {})}, ensure_ascii=False)
    with atomic_write(path) as temporary:
        if format == "onnx":
            converted = _to_onnx(program, names)
            converted.model.metadata_props["about"] = text
            converted.save(temporary, external_data=False)
        else:
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files={"about.json": text})
    return path


def _to_onnx(program: Any, names: list[str]) -> Any:
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise ConfigError(
            "export to ONNX needs the packages of the extra export: pip install 'g2d-pipeline[export]'."
        ) from None
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return torch.onnx.export(
            program, input_names=names, output_names=list(OUTPUTS), dynamo=True, verbose=False, optimize=True
        )
    finally:
        log.setLevel(level)
