"""Running statistics of batch norm that were never computed are settled before an encoder rests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from g2d_pipeline.config import MLP, SGD, TrainingSettings
from g2d_pipeline.models.multimodal import estimate_norm_stats
from g2d_pipeline.training import Data, train_student, train_teacher
from g2d_pipeline.training import trainer as trainer_module
from tests.training.test_resume import Killed, assert_same


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4), nn.BatchNorm1d(4)
    )


def batches(n: int = 3) -> list[torch.Tensor]:
    return [3 + 2 * torch.randn(32, 6, generator=torch.Generator().manual_seed(i)) for i in range(n)]


def test_statistics_are_the_average_over_the_batches_each_normalised_by_itself() -> None:
    own, xs = encoder(), batches()
    weights = {n: p.detach().clone() for n, p in own.named_parameters()}
    before = torch.get_rng_state()
    estimate_norm_stats(own, xs)
    assert torch.equal(before, torch.get_rng_state())
    assert own.training
    assert all(torch.equal(p, weights[n]) for n, p in own.named_parameters())
    with torch.no_grad():
        first = [own[0](x) for x in xs]
        normed = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in first]
        second = [own[3](x) for x in normed]
    for norm, values in ((own[1], first), (own[4], second)):
        torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in values]).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in values]).mean(0))
        assert norm.momentum == 0.1


def test_statistics_that_were_computed_stay_and_nothing_is_read_without_batch_norm() -> None:
    def never() -> Iterator[torch.Tensor]:
        raise AssertionError("a batch was read")
        yield torch.zeros(0)

    estimate_norm_stats(nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)), never())
    pretrained = encoder()
    pretrained[1].running_mean += 1
    pretrained[4].running_var *= 2
    assert int(pretrained[1].num_batches_tracked) == 0  # as from a file of an old torch version
    estimate_norm_stats(pretrained, never())
    half = encoder()
    half[1].running_mean += 1
    estimate_norm_stats(half, batches())
    assert half[1].running_mean.tolist() == [1.0] * 8
    assert half[4].running_mean.any()


def table(seed: int) -> Data:
    """A regression on two tables as they come: not standardised."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(120, 3))
    inputs = {
        m: (hidden @ rng.normal(size=(3, width)) * 5 + rng.normal(size=(120, width))).astype(np.float32)
        for m, width in (("a", 12), ("b", 20))
    }
    split = ["train"] * 80 + ["val"] * 20 + ["test"] * 20
    return Data.from_arrays(inputs, hidden.sum(1) * 10 + 5, split, task="regression", output="identity")


SMALL = MLP(widths=[64, 32], dropout=[])


def student(seed: int, **settings: Any) -> Any:
    data, training = table(seed), TrainingSettings(epochs=4, batch_size=16, optimizer=SGD(lr=0.02))
    common: Any = {"training": training, "seed": seed, "progress": False}
    teachers = {m: train_teacher(data, m, SMALL, **common, epochs=1) for m in "ab"}
    return train_student(data, dict.fromkeys("ab", SMALL), teachers, smp={"tau": [2]}, **common, **settings)


@pytest.mark.parametrize("seed", [0, 3, 5, 6])
def test_an_ordinary_recipe_with_frozen_statistics_does_not_diverge(seed: int) -> None:
    """Without settled statistics these seeds end in NaN."""
    history = student(seed).history
    assert np.isfinite(history["val/loss"]).all()


@pytest.mark.parametrize("at", [0, 1])
def test_killed_while_statistics_settle_and_called_again_it_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    expected, original, calls = student(0), trainer_module.estimate_norm_stats, []

    def die(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > at:
            raise Killed
        original(*arguments)

    monkeypatch.setattr(trainer_module, "estimate_norm_stats", die)
    with pytest.raises(Killed):
        student(0, folder=tmp_path)
    monkeypatch.setattr(trainer_module, "estimate_norm_stats", original)
    assert_same(student(0, folder=tmp_path), expected)


def test_only_encoders_that_may_rest_before_they_have_learnt_are_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settled: list[int] = []
    monkeypatch.setattr(
        trainer_module, "estimate_norm_stats", lambda _, parts, dtype: settled.append(len(list(parts)))
    )
    data = table(0)
    training = TrainingSettings(epochs=2, batch_size=16)
    teachers = {m: train_teacher(data, m, SMALL, training=training, progress=False) for m in "ab"}
    for smp, count in (
        ({"ranking": "batch"}, 2),
        ({"ranking": "dataset"}, 1),
        ({"suppressed_norm": "batch"}, 0),
        ({"update": "zero_grad"}, 0),
        ({"suppression": "partial"}, 0),
        ({"scope": "conv_only"}, 0),
        ({"tau": [0]}, 0),
    ):
        settled.clear()
        encoders = dict.fromkeys("ab", SMALL)
        train_student(data, encoders, teachers, smp=smp, training=training, progress=False)
        assert settled == [1] * count, smp
