"""Exported models against the model itself, on real inputs, for batches of any size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2d_pipeline import load_model
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import MultimodalModel, task_from_json
from g2d_pipeline.models.build import build_model
from g2d_pipeline.serving.export import export_network
from tests.e2e.project import REPOSITORY
from tests.serving.conftest import CNN, MLP, STEPS, Served

MISSING = "onnxscript and onnxruntime are not installed: pip install 'g2d-pipeline[export]'"
# What is exported → encoder by modality of the store.
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
FUSIONS: dict[str, dict[str, Any]] = {
    "bi_gated": {"name": "bi_gated"},
    "concat": {"name": "concat"},
    "cosine": {"name": "cosine"},
    "cross_attention": {"name": "cross_attention", "heads": 2},
    "film": {"name": "film"},
    "late": {"name": "late"},
    "late (probabilities)": {"name": "late", "average": "probabilities"},
    "shared": {"name": "shared"},
    "shared (entropy)": {"name": "shared", "combine": "entropy"},
    "sum": {"name": "sum"},
    "weighted": {"name": "weighted"},
}
# Every encoder and every fusion once or more, the two large networks with cheap fusions.
PAIRS = [
    ("small_cnn", "bi_gated"), ("resnet18", "concat"), ("bag", "cosine"), ("transformer", "cross_attention"),
    ("small_cnn (clips)", "film"), ("mobilenet_v2", "late"), ("mlp", "late (probabilities)"),
    ("transformer (tokens)", "shared"), ("mlp", "shared (entropy)"), ("bag", "sum"), ("mlp", "weighted"),
]  # fmt: skip


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


def check(served: Served, tmp_path: Path, *architecture: Any) -> None:
    """Both formats, of one trace: equal to 1e-5 on 1, 3 and all samples."""
    model, task, inputs = network(served, *architecture)
    example = {m: x[:3] for m, x in inputs.items()}
    trace, traced = torch.export.export, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", lambda *a, **k: traced.append(trace(*a, **k)) or traced[-1])
        file = export_network(model, task, example, tmp_path / "torch", "torch")
        patch.setattr(torch.export, "export", lambda *a, **k: traced[-1])
        onnx = export_network(model, task, example, tmp_path / "onnx", "onnx")
    program = torch.export.load(file).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(onnx.read_bytes())
    for count in (1, 3, 48):
        part = {m: x[:count] for m, x in inputs.items()}
        with torch.inference_mode():
            expected = model(part).logits
            ours = [y.numpy() for y in program(*part.values())]
        for logits, probabilities in (ours, session.run(None, {m: x.numpy() for m, x in part.items()})):
            assert logits.shape == (count, 3)
            assert np.abs(logits - expected.numpy()).max() < 1e-5
            assert np.abs(probabilities - expected.softmax(dim=1).numpy()).max() < 1e-5


@pytest.fixture(autouse=True)
def _installed() -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=MISSING)


@pytest.mark.parametrize(("encoder", "fusion"), PAIRS)
def test_encoders_and_fusions(every_kind: Served, tmp_path: Path, encoder: str, fusion: str) -> None:
    check(every_kind, tmp_path, {"table": MLP, "vector": MLP, **ENCODERS[encoder]}, FUSIONS[fusion])


def test_an_exchange(every_kind: Served, tmp_path: Path) -> None:
    check(every_kind, tmp_path, {"image": CNN, "video": CNN}, "concat", "mmtm")


def test_all_of_ours_are_in_the_docs_table() -> None:
    """Every encoder and fusion is exported above, and the table lists what is."""
    from g2d_pipeline.config import ENCODERS as ours
    from g2d_pipeline.plugins import files

    parts = [*ENCODERS, *FUSIONS, "mmtm"]
    assert {name for pair in PAIRS for name in pair} == {*ENCODERS, *FUSIONS}
    assert {name.partition(" ")[0] for name in parts} == {
        *ours,
        *files("g2d_pipeline.models.fusions"),
        "mmtm",
    }
    page = (REPOSITORY / "docs/predict.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([^|]+) \| yes \| yes \|$", page, re.MULTILINE) == parts


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_predictor_exports_what_it_is(regression: Served, tmp_path: Path, format: str) -> None:
    """With its class names, unit and version; refused is another format."""
    model = load_model(regression.runs["joint/seed0"])
    file = model.export(tmp_path / "model", format=format)  # type: ignore[arg-type]
    part = {m: np.array(regression.store.arrays[m][:5]) for m in model.modalities}
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file.read_bytes())
        values = session.run(["prediction"], part)[0]
        about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
    else:
        extra = {"about.json": ""}
        program = torch.export.load(file, extra_files=extra).module()
        values = program(*(torch.from_numpy(part[m]) for m in model.modalities))[1].numpy()
        about = json.loads(extra["about.json"])
    expected = model.predict(regression.raw / "metadata.csv")["prediction"][:5]
    assert np.allclose(values, expected, atol=1e-5)
    assert (about["unit"], about["model"]) == ("%", model.version)
    with pytest.raises(ConfigError, match=r"format = 'tflite'\. Allowed: onnx, torch"):
        model.export(tmp_path / "other", format="tflite")  # type: ignore[arg-type]
