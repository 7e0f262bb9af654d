"""`initialisation` of an encoder: as published, or as torch and torchvision start their layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from g2d_pipeline.config import MLP, Bag, EncoderSettings, MobileNetV2, ResNet18, SmallCNN, Transformer
from g2d_pipeline.models import build_encoder
from g2d_pipeline.models.build import build_model


def test_torchs_start_is_that_of_its_plain_layers() -> None:
    torch.manual_seed(3)
    plain = nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()
    )
    torch.manual_seed(3)
    ours = build_encoder(MLP(widths=[6, 4], dropout=[], initialisation="torch"), (8,)).trunk
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in plain.state_dict().items())


def test_torchvisions_start_is_that_of_its_own_network() -> None:
    torch.manual_seed(3)
    theirs = resnet18(weights=None)
    torch.manual_seed(3)
    ours = build_encoder(ResNet18(initialisation="torch"), (3, 32, 32)).trunk.state_dict()
    same = [k for k, v in theirs.state_dict().items() if k in ours and torch.equal(ours[k], v)]
    assert set(ours) - set(same) == {"conv1.weight"}  # ours, for any number of channels


@pytest.mark.parametrize(
    ("settings", "shape", "vocabulary"),
    [
        (SmallCNN(), (3, 8, 8), None),
        (MobileNetV2(), (3, 8, 8), None),
        (MLP(), (8,), None),
        (Transformer(width=16, feedforward=16), (9, 4), None),
        (Bag(), (4,), 10),
    ],
    ids=lambda of: getattr(of, "name", ""),
)
def test_every_encoder_has_both_and_starts_as_published_where_nothing_is_said(
    settings: EncoderSettings, shape: tuple[int, ...], vocabulary: int | None
) -> None:
    def start(**how: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return build_encoder(settings.model_copy(update=how), shape, vocabulary=vocabulary).state_dict()

    said, published, plain = start(), start(initialisation="published"), start(initialisation="torch")
    assert all(torch.equal(published[k], v) for k, v in said.items())
    assert not all(torch.equal(plain[k], v) for k, v in said.items())


def test_heads_start_as_published_whatever_the_encoder_does() -> None:
    encoder = {"name": "mlp", "widths": [5], "dropout": [], "initialisation": "torch"}
    modality = {"encoder": encoder, "shape": [4], "normaliser": None}
    task = {"name": "classification", "class_names": ["x", "y"]}
    model = build_model({"modalities": {"m": modality}, "fusion": "late", "task": task})
    linear = [p for p in model.modules() if isinstance(p, nn.Linear)]
    assert [bool(p.bias.any()) for p in linear] == [True, False]  # the encoder's, the head's
