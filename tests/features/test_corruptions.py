"""Each kind corrupts its own samples: how much, where, and the same from the same generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from g2d_pipeline.config import AudioFeatures
from g2d_pipeline.features.kinds import stored_kind
from g2d_pipeline.features.kinds.audio import spectrogram
from g2d_pipeline.features.kinds.base import Corruption, keep_some

SETTINGS: dict[str, dict[str, Any]] = {
    "tabular": {"columns": ["x", "y"], "dates": ["day"], "categorical": ["colour", "size"]},
    "text": {"length": 12},
}
CATEGORIES = {"colour": ["<blank>", "blue", "red"], "size": ["large", "small"]}
PIXELS = {"scale": 1 / 255, "mean": [0.5, 0.25, 0.5], "std": [0.2, 0.1, 3.4028234663852886e38]}


def draw(kind: str, n: int = 40) -> tuple[NDArray[Any], dict[str, Any]]:
    """Stored samples of a kind, and its entry in `meta.json` as far as it matters."""
    rng = np.random.default_rng(1)
    of: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "audio": (rng.normal(-4, 2, (n, 1, 16, 20)).astype(np.float16), {"normaliser": None}),
        "image": (rng.integers(0, 256, (n, 3, 20, 30), np.uint8), {"normaliser": PIXELS}),
        "video": (rng.integers(0, 256, (n, 3, 2, 20, 30), np.uint8), {"normaliser": PIXELS}),
        "vector": (
            rng.normal(5, 3, (n, 4)).astype(np.float32),
            {"normaliser": {"scale": 1.0, "mean": [5.0] * 4, "std": [3.0] * 4}},
        ),
        "sequence": (np.ones((n, 3, 12), np.float32), {"normaliser": None}),
        "text": (rng.integers(1, 50, (n, 12), np.int32), {"normaliser": None}),
        "tabular": (
            rng.normal(size=(n, 2 + 3 + 5)).astype(np.float32),
            {"statistics": {"categories": CATEGORIES}, "normaliser": None},
        ),
    }
    values, about = of[kind]
    if kind in ("text", "sequence"):  # lengths from 0 to 12
        steps = np.arange(12) < (np.arange(n) % 13)[:, None]
        values = values * (steps if kind == "text" else steps[:, None])
        if kind == "sequence":
            values[:, 0] *= np.arange(1, 13)
    if kind == "tabular":
        values[:, 5:] = [0, 1, 0, 1, 0]
    return values, about


def corrupt(kind: str, values: NDArray[Any], about: Any, name: str, strength: float, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return stored_kind(kind, SETTINGS.get(kind, {})).corrupt(values, Corruption(name, strength, about), rng)


ALL = [
    (kind, name, strengths)
    for kind in ("audio", "image", "sequence", "tabular", "text", "vector", "video")
    for name, (_, strengths) in stored_kind(kind, SETTINGS.get(kind, {})).corruptions.items()
]


@pytest.mark.parametrize(("kind", "name", "strengths"), ALL, ids=lambda part: str(part).replace(" ", "_"))
def test_three_strengths_from_mild_to_severe_of_the_same_shape_and_repeatable(
    kind: str, name: str, strengths: tuple[float, ...]
):
    values, about = draw(kind)
    before = values.copy()
    differences = []
    for strength in strengths:
        changed = corrupt(kind, values, about, name, strength)
        assert changed.shape == values.shape
        assert changed.dtype == (values.dtype if values.dtype.kind == "i" else np.float32)
        assert np.isfinite(changed).all()
        assert np.array_equal(changed, corrupt(kind, values, about, name, strength))
        if name != "blur":
            assert not np.array_equal(changed, corrupt(kind, values, about, name, strength, seed=1))
        differences.append(np.abs(changed - values.astype(np.float64)).mean())
    assert len(strengths) == 3
    assert 0 < differences[0] < differences[1] < differences[2]
    assert np.array_equal(values, before)


@pytest.mark.parametrize("decibels", [20.0, 10.0, 0.0])
def test_noise_in_a_spectrogram_is_noise_in_the_recording_at_that_ratio(decibels: float):
    """Against spectrograms of recordings to which white noise was added: mean powers and quartiles."""
    import torch

    settings = AudioFeatures(sample_rate=8000, seconds=2.0, n_fft=256, hop_length=128)
    rng = np.random.default_rng(0)
    time = np.arange(16000) / 8000
    waves = np.stack([np.sin(2 * np.pi * f * time) * (1 + np.sin(9 * time)) for f in (300, 700, 1500, 2500)])
    power = (waves**2).mean(axis=1, keepdims=True)
    noisy = waves + rng.normal(size=waves.shape) * np.sqrt(power * 10 ** (-decibels / 10))
    clean, wanted = (spectrogram(torch.from_numpy(x).float(), settings).numpy() for x in (waves, noisy))
    found = corrupt("audio", clean, {}, "noise", decibels)
    for x in (lambda s: np.exp(2 * s).mean(), lambda s: np.quantile(s, [0.1, 0.5, 0.9])):
        np.testing.assert_allclose(x(found), x(wanted), rtol=0.05, atol=0.08)


def test_noise_of_pictures_and_vectors_is_in_train_standard_deviations_and_leaves_constant_channels_finite():
    values, about = draw("image", 200)
    noise = corrupt("image", values, about, "noise", 0.5) - values
    np.testing.assert_allclose(noise.std(axis=(0, 2, 3))[:2], [0.5 * 0.2 * 255, 0.5 * 0.1 * 255], rtol=0.02)
    values, about = draw("vector", 4000)
    assert (corrupt("vector", values, about, "noise", 2.0) - values).std() == pytest.approx(6, rel=0.03)


def test_occlusion_is_one_box_of_that_share_of_the_train_mean_the_same_in_all_pictures_of_a_clip():
    values, about = draw("video")
    changed = corrupt("video", values, about, "occlusion", 0.25)
    np.testing.assert_allclose(changed[:, 0, 0] == 127.5, changed[:, 0, 1] == 127.5)
    covered = np.isclose(changed[:, 1, 0], 0.25 * 255)
    assert (covered.sum(axis=(1, 2)) == 10 * 15).all()
    rows = covered.any(axis=2)
    assert len({int(row.argmax()) for row in rows}) > 3  # at different places
    np.testing.assert_allclose(changed[:, 0, 0][~covered], values[:, 0, 0][~covered], atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_tiny_pictures_can_be_blurred_and_occluded(size: tuple[int, int]):
    values = np.arange(2 * 3 * size[0] * size[1], dtype=np.float32).reshape(2, 3, *size)
    for name in ("blur", "occlusion"):
        assert np.isfinite(corrupt("image", values, {"normaliser": PIXELS}, name, 0.08)).all()


def test_dropped_tokens_and_steps_close_the_gap_and_one_is_left():
    for kind in ("text", "sequence"):
        values, about = draw(kind)
        name = "tokens dropped" if kind == "text" else "steps dropped"
        for strength in (0.3, 1.0):
            changed = corrupt(kind, values, about, name, strength)
            content, mask = (
                (changed, changed != 0) if kind == "text" else (changed[:, 0], changed[:, -1] == 1)
            )
            before = values if kind == "text" else values[:, 0]
            for old, new, real in zip(before, content, mask, strict=True):
                kept = int(real.sum())
                assert real[:kept].all()
                assert not new[kept:].any()
                assert bool(kept) == bool(old.any())
                remaining = iter(old.tolist())
                assert all(any(token == other for other in remaining) for token in new[:kept].tolist())
    real = np.ones((500, 40), bool)
    _, kept = keep_some(real, 0.3, np.random.default_rng(0))
    assert kept.mean() == pytest.approx(0.7, abs=0.01)


def test_missing_cells_get_what_blank_cells_have():
    values, about = draw("tabular", 2000)
    changed = corrupt("tabular", values, about, "cells missing", 0.3)
    number, date, colour, size = changed[:, 0], changed[:, 2:5], changed[:, 5:8], changed[:, 8:]
    assert (number == 0).mean() == pytest.approx(0.3, abs=0.03)
    assert set((date == 0).sum(axis=1)) == {0, 3}  # a date is one cell
    assert {tuple(row) for row in colour.tolist()} == {(0, 1, 0), (1, 0, 0)}  # train has blank ones
    assert {tuple(row) for row in size.tolist()} == {(1, 0), (0, 0)}  # and none here


def test_a_silent_recording_and_an_empty_table_stay_finite():
    silence = np.full((2, 1, 4, 5), np.log(1e-7), np.float32)
    assert np.isfinite(corrupt("audio", silence, {}, "noise", 0.0)).all()
    about = {"statistics": {}}
    kind = stored_kind("tabular", {"columns": ["x"]})
    changed = kind.corrupt(
        np.ones((3, 1), np.float32), Corruption("cells missing", 1.0, about), np.random.default_rng()
    )
    assert not changed.any()
