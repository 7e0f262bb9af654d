"""Exported models against the model itself, on real inputs, for batches of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline.models import MultimodalModel, task_from_json
from g2d_pipeline.models.build import build_model
from g2d_pipeline.serving.export import export_network
from tests.serving.conftest import CNN, MLP, STEPS, Served

MISSING = "onnxscript and onnxruntime are not installed: pip install 'g2d-pipeline[export]'"
# What is exported → encoder by modality of the store, fusion.
ENCODERS: dict[str, dict[str, Any]] = {
    "bag": {"text": {"name": "bag", "width": 6}},
    "mlp": {"table": MLP},
    "mobilenet_v2": {"image": {"name": "mobilenet_v2"}},
    "resnet18": {"grey": {"name": "resnet18"}},
    "small_cnn": {"image": CNN},
    "small_cnn (clips)": {"video": CNN},
    "transformer": {"steps": STEPS},
    "transformer (tokens)": {"text": STEPS},
}
FUSIONS = ["bi_gated", "concat", "cosine", "film", "late", "shared", "sum", "weighted"]
OPTIONS: dict[str, dict[str, Any]] = {
    "cross_attention": {"name": "cross_attention", "heads": 2},
    "late (probabilities)": {"name": "late", "average": "probabilities"},
    "shared (entropy)": {"name": "shared", "combine": "entropy"},
    **{name: {"name": name} for name in FUSIONS},
}


def network(
    served: Served, encoders: dict[str, Any], fusion: Any = "late", exchange: str | None = None
) -> tuple[MultimodalModel, Any, dict[str, Any]]:
    torch.manual_seed(0)
    about = served.store.meta["modalities"]
    modalities = {
        m: {"encoder": encoder, **{k: about[m].get(k) for k in ("shape", "normaliser", "vocabulary")}}
        for m, encoder in encoders.items()
    }
    task = {"name": "classification", "class_names": ["a", "b", "c"]}
    architecture = {"modalities": modalities, "fusion": fusion, "task": task, "exchange": exchange}
    model = build_model(architecture).train()
    inputs = {m: torch.from_numpy(np.array(served.store.arrays[m])) for m in encoders}
    with torch.no_grad():
        model(inputs)  # running statistics
    return model.eval(), task_from_json(task), inputs


def check(served: Served, tmp_path: Path, format: Any, *of: Any) -> None:
    """Equal to 1e-5 on 1, 3 and all samples."""
    model, task, inputs = network(served, *of)
    file = export_network(model, task, {m: x[:3] for m, x in inputs.items()}, tmp_path / "model", format)
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file.read_bytes())
    else:
        program = torch.export.load(file).module()
    for count in (1, 3, 48):
        part = {m: x[:count] for m, x in inputs.items()}
        with torch.inference_mode():
            expected = model(part).logits
            if format == "onnx":
                logits, probabilities = session.run(None, {m: x.numpy() for m, x in part.items()})
            else:
                logits, probabilities = (y.numpy() for y in program(*part.values()))
        assert logits.shape == (count, 3)
        assert np.abs(logits - expected.numpy()).max() < 1e-5
        assert np.abs(probabilities - expected.softmax(dim=1).numpy()).max() < 1e-5


@pytest.fixture(params=["torch", "onnx"])
def format(request: pytest.FixtureRequest) -> str:
    if request.param == "onnx":
        for package in ("onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=MISSING)
    return str(request.param)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(every_kind: Served, tmp_path: Path, format: str, name: str) -> None:
    check(every_kind, tmp_path, format, ENCODERS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_fusions(every_kind: Served, tmp_path: Path, format: str, name: str) -> None:
    check(every_kind, tmp_path, format, {"table": MLP, "vector": MLP, "grey": CNN}, OPTIONS[name])


def test_an_exchange(every_kind: Served, tmp_path: Path, format: str) -> None:
    check(every_kind, tmp_path, format, {"image": CNN, "video": CNN}, "concat", "mmtm")
