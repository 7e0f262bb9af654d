"""What a lineage keeps is enough to have the same configuration again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from g2d_pipeline.errors import DataError
from g2d_pipeline.models.build import build_model
from g2d_pipeline.models.weights import load_trunks
from g2d_pipeline.resolve import resolve as resolve_files
from tests.test_resolve import FILES, configure

OVERRIDES = [
    {},
    {"dataset": "mis_me", "method": "ogm_ge", "compare": ["mla", "joint"]},
    {"dataset": "crema_d", "alpha": 0.3, "tau": "4/6", "epochs": 12, "fusion": {"name": "film", "width": 8}},
    {"dataset": "ur_funny", "method": "distillation_heads", "seed": 3, "use_modalities": "audio/text"},
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=str)
def test_a_configuration_is_resolved_again_from_what_is_kept_of_it(overrides):
    first = configure(**overrides)
    kept = json.loads(json.dumps(first.parameters))  # as lineage.json has it
    again = resolve_files(kept["files"], kept["overrides"], lambda raw, wanted: ("sample", Path("raw")))
    assert again.describe() == first.describe()
    assert again.distill() == first.distill()
    assert len(json.dumps(kept)) < len(json.dumps(FILES)) / 2  # of one data set


def architecture(width: int = 6) -> dict[str, object]:
    encoder = {"name": "mlp", "widths": [width], "dropout": []}
    normaliser = {"scale": 1.0, "mean": [0.5] * 4, "std": [2.0] * 4}
    section = {"encoder": encoder, "shape": [4], "normaliser": normaliser}
    task = {"name": "classification", "class_names": ["a", "b"]}
    return {"modalities": {"x": section, "y": section}, "fusion": "late", "task": task}


def test_trunks_are_the_champions_and_normalisers_the_datas_own(tmp_path):
    torch.manual_seed(0)
    champion = build_model(architecture())
    file = tmp_path / "start.safetensors"
    save_file({k: v + 1 for k, v in champion.state_dict().items()}, file)
    model = build_model(architecture())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_trunks(model, file)
    for name, value in model.state_dict().items():
        is_trunk = ".trunk." in name
        expected = champion.state_dict()[name] + 1 if is_trunk else before[name]
        assert torch.equal(value, expected), name


def test_another_encoder_than_the_champions_is_refused(tmp_path):
    file = tmp_path / "start.safetensors"
    save_file(build_model(architecture(8)).state_dict(), file)
    with pytest.raises(DataError, match=r"encoders\.x\.trunk\..*not \[6, 4\]") as error:
        load_trunks(build_model(architecture()), file)
    assert "init_from=scratch" in str(error.value)
