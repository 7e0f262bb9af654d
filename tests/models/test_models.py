"""Encoders and fusions: published parameter counts, shapes, and what a unimodal readout means."""

from __future__ import annotations

import pytest
import torch

from g2d_pipeline.config import MLP, MobileNetV2, ResNet18, SmallCNN
from g2d_pipeline.models import MultimodalModel, Normaliser, build_encoder, build_fusion
from g2d_pipeline.models.build import build_model


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "shape", "parameters", "width"),
    [
        (ResNet18(), (3, 64, 64), 11_176_512, 512),
        (ResNet18(), (1, 64, 64), 11_170_240, 512),
        (MobileNetV2(), (3, 64, 64), 2_223_872, 1280),
        (MLP(), (8,), 47_056, 16),
    ],
)
def test_parameter_counts_are_the_published_ones(settings, shape, parameters, width) -> None:  # type: ignore[no-untyped-def]
    encoder = build_encoder(settings, shape)
    assert count(encoder) == parameters
    assert encoder(torch.randn(2, *shape)).shape == (2, width)


@pytest.mark.parametrize(("fusion", "parameters"), [("late", 22_352_908), ("concat", 22_352_902)])
def test_crema_d_students_have_the_published_size(fusion: str, parameters: int) -> None:
    encoders = {"audio": build_encoder(ResNet18(), (1, 32, 32)), "video": build_encoder(ResNet18(), (3, 32, 32))}
    model = MultimodalModel(encoders, build_fusion(fusion, {"audio": 512, "video": 512}, 6))
    assert count(model) == parameters


def test_a_wrong_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"mobilenet_v2 takes samples of shape \[3, H, W\], not \[1, 8, 8\]"):
        build_encoder(MobileNetV2(), (1, 8, 8))
    with pytest.raises(ValueError, match=r"mlp takes samples of shape \[F\]"):
        build_encoder(MLP(), (1, 8, 8))


def test_late_fusion_is_the_mean_of_its_unimodal_logits_and_k1_is_the_head_alone() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    late = build_fusion("late", {"a": 3, "b": 5}, 7)
    own = [late.unimodal_logits(features, m) for m in "ab"]
    torch.testing.assert_close(late(features), (own[0] + own[1]) / 2)
    alone = build_fusion("late", {"a": 3}, 7)
    assert torch.equal(alone({"a": features["a"]}), alone.unimodal_logits(features, "a"))


def test_concat_readouts_sum_to_the_logits_with_the_bias_counted_once() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    concat = build_fusion("concat", {"a": 3, "b": 5}, 7)
    torch.nn.init.normal_(concat.head.bias)
    total = concat.unimodal_logits(features, "a") + concat.unimodal_logits(features, "b") - concat.head.bias
    torch.testing.assert_close(concat(features), total)


def test_concat_readout_ignores_the_other_modality() -> None:
    features = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    concat = build_fusion("concat", {"a": 3, "b": 5}, 7)
    before = concat.unimodal_logits(features, "a")
    assert torch.equal(before, concat.unimodal_logits(features | {"b": torch.zeros(4, 5)}, "a"))


def test_the_normaliser_is_a_channelwise_affine_map_of_stored_bytes() -> None:
    x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    found = Normaliser(1 / 255, [0.5, 0.2], [0.5, 0.1])(x)
    torch.testing.assert_close(found, torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]]))


def test_relu_and_max_pool_commute_so_the_cheaper_order_changes_nothing() -> None:
    x = torch.randn(2, 3, 8, 8)
    pool, relu = torch.nn.MaxPool2d(2), torch.nn.ReLU()
    assert torch.equal(pool(relu(x)), relu(pool(x)))


def test_a_small_map_is_not_pooled_away() -> None:
    assert build_encoder(SmallCNN(widths=[4, 4, 4, 4, 4]), (1, 8, 8))(torch.randn(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("shape", "grid", "stride"), [((1, 129, 63), 4, 2), ((3, 28, 28), 4, 1), ((1, 40, 8), 2, 1), ((1, 9, 9), 1, 2)]
)
def test_the_width_of_a_small_cnn_is_that_of_its_features(shape: tuple[int, ...], grid: int, stride: int) -> None:
    encoder = build_encoder(SmallCNN(widths=[4, 6], grid=grid, stride=stride), shape)  # type: ignore[arg-type]
    assert encoder(torch.randn(2, *shape)).shape == (2, encoder.width)


def test_the_modality_is_named_when_its_encoder_does_not_fit() -> None:
    modality = {"encoder": {"name": "resnet18"}, "shape": [8], "normaliser": None}
    task = {"name": "classification", "class_names": ["x", "y"]}
    with pytest.raises(ValueError, match="modality weather: encoder resnet18"):
        build_model({"modalities": {"weather": modality}, "fusion": "late", "task": task})
