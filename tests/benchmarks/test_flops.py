"""The benchmarks' bookkeeping, on encoders so small that it takes seconds."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from g2d_pipeline.config import SmallCNN
from tests.conftest import REPOSITORY


@pytest.fixture
def flops(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("flops")


def small(recipe: Any) -> Any:
    """The recipe at 16 × 16 pixels with small encoders."""
    modalities = {
        m: replace(of, shape=(of.shape[0], 16, 16), encoder=SmallCNN(grid=1)) if len(of.shape) == 3 else of
        for m, of in recipe.modalities.items()
    }
    return replace(recipe, modalities=modalities, classes=min(recipe.classes, 4))


@pytest.mark.parametrize("name", ["CREMA-D", "AV-MNIST", "VGGSound", "MIS-ME"])
def test_no_operation_is_done_that_an_exact_method_can_leave_out(flops: Any, name: str) -> None:
    """Frozen norms: a phase costs its bound, but for the heads, which are a few operations in a thousand."""
    (recipe,) = [small(r) for r in flops.RECIPES if r.name == name]
    augmented = [m for m, of in recipe.modalities.items() if of.augment is not None]
    rows = flops.measure(recipe)
    assert {r["learns_alone"] for r in rows if r["published_order"]} == {recipe.prioritised}
    for row in rows:
        assert row["learner"] <= row["bound"] <= row["phase"] <= row["joint"] <= 1
        if row["suppressed_norm"] == "frozen":
            assert row["phase"] == pytest.approx(row["bound"], abs=0.01)
        assert (row["joint"] == 1) is (len(augmented) == 2 and row["teacher_view"] == "augmented")
        assert row["phase"] < row["whole"] <= row["joint"]


def test_a_grouped_convolution_is_counted_as_what_it_does(flops: Any) -> None:
    """Forward: 2 · N · positions · channels out · (channels in ÷ groups) · 9; as many again for either
    gradient."""
    forward = 2 * 3 * 25 * 8 * 2 * 9
    x = torch.ones(3, 4, 5, 5, requires_grad=True)
    with flops.counting() as counter:
        nn.Conv2d(4, 8, 3, padding=1, groups=2)(x).sum().backward()
    assert counter.get_total_flops() == 3 * forward
    with flops.counting() as counter:
        nn.Conv2d(4, 8, 3, padding=1, groups=2)(x.detach()).sum().backward()
    assert counter.get_total_flops() == 2 * forward


def test_frames_of_a_video_are_encoded_one_by_one_and_averaged(flops: Any) -> None:
    from common import Frames

    trunk = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh())
    video = torch.randn(2, 3, 3, 6, 6, generator=torch.Generator().manual_seed(0))  # [B, T, C, H, W]
    expected = torch.stack([trunk(video[:, t]) for t in range(3)]).mean(dim=0)
    torch.testing.assert_close(Frames(trunk, 3)(video.flatten(1, 2)), expected)
