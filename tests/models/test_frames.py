"""Encoders of pictures take clips: frame by frame, and one mean over time and space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from g2d_pipeline.config import MobileNetV2, ResNet18, SmallCNN, TrainingSettings
from g2d_pipeline.models import Encoder, MultimodalModel, Normaliser, build_encoder, build_fusion
from g2d_pipeline.training.precision import blocks, prepare

CASES = [
    pytest.param(ResNet18(), 3, 512, 3, id="resnet18"),
    pytest.param(ResNet18(), 2, 512, 4, id="resnet18 of 2 channels"),
    pytest.param(MobileNetV2(), 3, 1280, 2, id="mobilenet_v2"),
    pytest.param(SmallCNN(widths=[4, 6], grid=2), 3, 24, 3, id="small_cnn"),
]


def built(settings: Any, *shape: int, normaliser: nn.Module | None = None) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(settings, shape, normaliser).eval()


@pytest.mark.parametrize(("settings", "channels", "width", "frames"), CASES)
def test_the_feature_of_a_clip_is_the_mean_over_its_frames(
    settings: Any, channels: int, width: int, frames: int
) -> None:
    clips = built(settings, channels, frames, 40, 48)
    pictures = built(settings, channels, 40, 48)
    pictures.load_state_dict(clips.state_dict())  # the same names
    x = torch.randn(2, channels, frames, 40, 48)
    found = clips(x)
    assert found.shape == (2, width) == (2, clips.width)
    expected = torch.stack([pictures(x[:, :, t]) for t in range(frames)]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "channels", "width", "frames"), CASES)
def test_the_order_of_frames_has_no_influence_but_which_sample_they_belong_to_has(
    settings: Any, channels: int, width: int, frames: int
) -> None:
    encoder = built(settings, channels, frames, 32, 32)
    x = torch.randn(2, channels, frames, 32, 32)
    torch.testing.assert_close(encoder(x.flip(2)), encoder(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder(x.flip(0)), encoder(x).flip(0))
    torch.testing.assert_close(encoder(x[:1]), encoder(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("settings", "channels", "width", "frames"), CASES)
def test_a_clip_of_one_frame_is_a_picture(settings: Any, channels: int, width: int, frames: int) -> None:
    x = torch.randn(2, channels, 32, 32)
    found = built(settings, channels, 1, 32, 32)(x[:, :, None])
    torch.testing.assert_close(found, built(settings, channels, 32, 32)(x), rtol=1e-4, atol=1e-5)


def test_bytes_of_a_clip_are_normalised_by_channel() -> None:
    normaliser = Normaliser(1 / 255, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    encoder = built(SmallCNN(widths=[4]), 3, 2, 16, 16, normaliser=normaliser)
    x = torch.randint(0, 256, (2, 3, 2, 16, 16), dtype=torch.uint8)
    pictures = Encoder(encoder.trunk, encoder.width, normaliser).eval()
    expected = (pictures(x[:, :, 0]) + pictures(x[:, :, 1])) / 2
    torch.testing.assert_close(encoder(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "kind", "number"),
    [(ResNet18(), "BasicBlock", 8), (MobileNetV2(), "InvertedResidual", 17), (SmallCNN(), "", 0)],
)
def test_the_blocks_of_an_encoder_of_clips_are_those_of_pictures(
    settings: Any, kind: str, number: int
) -> None:
    assert [type(b).__name__ for b in blocks(built(settings, 3, 2, 32, 32))] == [kind] * number


@pytest.mark.parametrize("training", [{}, {"channels_last": False}, {"checkpoint_activations": True}])
def test_clips_train_whatever_the_memory_format(training: dict[str, Any]) -> None:
    encoder = built(ResNet18(), 3, 2, 32, 32)
    model = MultimodalModel({"video": encoder}, build_fusion("late", {"video": 512}, 3)).train()
    prepare(model, TrainingSettings(**training))
    x = torch.randn(3, 3, 2, 32, 32)
    model({"video": x}).logits.square().sum().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in grads)
