"""Optimizers whose parameters come and go, learning rates epoch by epoch, the running average of the
weights."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim

from g2d_pipeline.config import (
    SGD,
    Adam,
    AdamW,
    CosineSchedule,
    MultiStepSchedule,
    PlateauSchedule,
    SmallCNN,
    StepSchedule,
    WarmupSchedule,
)
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models.encoders import build_encoder
from g2d_pipeline.training.optimisation import Average, LearningRate, build_optimizer

CPU = torch.device("cpu")
OPTIMIZERS = {
    "sgd": SGD(lr=0.1, momentum=0.9, weight_decay=1e-2),
    "plain_sgd": SGD(lr=0.1, momentum=0.0, weight_decay=1e-2),
    "adam": Adam(lr=0.01, weight_decay=1e-2),
    "adamw": AdamW(lr=0.01, weight_decay=1e-1),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# -------------------------------------------------------------------------------------------------- optimizer
def parameters(seed: int = 0) -> list[nn.Parameter]:
    """Six parameters: vectors, matrices, and convolutions in both memory formats."""
    draw = torch.Generator().manual_seed(seed)
    shapes = [(7,), (5, 3), (4, 3, 3, 3), (4, 3, 3, 3), (8, 4, 1, 1), (33,)]
    values = [torch.randn(s, generator=draw) for s in shapes]
    values[3] = values[3].contiguous(memory_format=torch.channels_last)
    values[4] = values[4].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(v) for v in values]


def reference(name: str, groups: list[dict[str, Any]], **how: bool) -> optim.Optimizer:
    """torch's own optimizer, the for-loop (`foreach=False`) or foreach."""
    chosen = OPTIMIZERS[name]
    of = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[chosen.name]
    options = chosen.model_dump(exclude={"name"})
    return of(groups, **options, **how)  # type: ignore[no-any-return]


def run(
    build: Callable[[list[dict[str, Any]]], optim.Optimizer],
    learns: list[list[int]],
    gradient: Callable[[Tensor], Tensor] = lambda g: g,
) -> tuple[list[nn.Parameter], optim.Optimizer]:
    """In step t the parameters `learns[t]` have a gradient, the others have none; two groups of different
    lr."""
    of = parameters()
    optimizer = build([{"params": of[:4]}, {"params": of[4:], "lr": 0.02}])
    draw = torch.Generator().manual_seed(1)
    for active in learns:
        optimizer.zero_grad(set_to_none=True)
        for position, p in enumerate(of):
            value = torch.randn(p.shape, generator=draw)
            if position in active:
                p.grad = gradient(torch.empty_like(p).copy_(value))
        optimizer.step()
    return of, optimizer


def assert_close(ours: Any, theirs: Any) -> None:
    for (a, first), (b, second) in zip(
        *((zip(of, [o.state[p] for p in of], strict=True)) for of, o in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert set(first) == set(second)
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=1e-6, atol=1e-6)


# Alone, the other alone, nobody, all, the first again …: 20 steps.
PHASES = [[0, 2]] * 4 + [[1, 3, 4]] * 4 + [[]] * 2 + [[0, 1, 2, 3, 4, 5]] * 5 + [[5]] * 2 + [[0, 3, 5]] * 3


@every_optimizer
@pytest.mark.parametrize("how", [{"foreach": False}, {"foreach": True}])
def test_parameters_that_come_and_go_are_stepped_by_the_definition(name: str, how: dict[str, bool]) -> None:
    ours = run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), PHASES)
    assert_close(ours, run(lambda groups: reference(name, groups, **how), PHASES))


@settings(max_examples=30)
@given(st.sampled_from(sorted(OPTIMIZERS)), st.lists(st.lists(st.integers(0, 5), unique=True), max_size=12))
def test_whoever_learns_when(name: str, learns: list[list[int]]) -> None:
    ours = run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), learns)
    assert_close(ours, run(lambda groups: reference(name, groups, foreach=False), learns))


@every_optimizer
def test_without_a_gradient_not_one_bit_moves(name: str) -> None:
    of, optimizer = run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), PHASES)
    still = of[:3]
    before = [(p.detach().clone(), copy.deepcopy(optimizer.state[p])) for p in still]
    others = of[3].detach().clone()
    for position, p in enumerate(of):
        p.grad = None if position < 3 else torch.ones_like(p)
    optimizer.step()
    assert not torch.equal(of[3], others)
    for p, (value, state) in zip(still, before, strict=True):
        assert torch.equal(p.detach().view(torch.int32), value.view(torch.int32))
        assert set(optimizer.state[p]) == set(state)
        assert all(torch.equal(optimizer.state[p][key], state[key]) for key in state)


@every_optimizer
def test_a_parameter_that_never_had_a_gradient_gets_no_state(name: str) -> None:
    of, optimizer = run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), [[0], [1]])
    assert [bool(optimizer.state.get(p)) for p in of[2:]] == [False] * 4
    assert all(torch.equal(p, start) for p, start in zip(of[2:], parameters()[2:], strict=True))


@every_optimizer
def test_the_same_run_gives_the_same_bits(name: str) -> None:
    first, second = (
        run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), PHASES)[0] for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_optimizer
def test_gradients_in_another_memory_format_reach_their_places(name: str) -> None:
    def turned(g: Tensor) -> Tensor:
        return (
            g.contiguous(memory_format=torch.channels_last if g.is_contiguous() else torch.contiguous_format)
            if g.dim() == 4
            else g
        )

    ours = run(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU), PHASES, turned)
    assert_close(ours, run(lambda groups: reference(name, groups, foreach=False), PHASES))


@every_optimizer
def test_a_state_loaded_in_another_memory_format_continues_to_the_same_bits(name: str) -> None:
    def build(groups: list[dict[str, Any]]) -> optim.Optimizer:
        return build_optimizer(OPTIMIZERS[name], groups, CPU)

    whole, _ = run(build, PHASES)
    of, half = run(build, PHASES[:10])
    state = half.state_dict()
    for entry in state["state"].values():  # as a checkpoint of contiguous tensors gives it back
        entry.update({k: v.contiguous().clone() for k, v in entry.items() if isinstance(v, Tensor)})
    resumed = build([{"params": of[:4]}, {"params": of[4:], "lr": 0.02}])
    resumed.load_state_dict(state)
    draw = torch.Generator().manual_seed(1)
    for step, active in enumerate(PHASES):
        values = [torch.randn(p.shape, generator=draw) for p in of]
        if step < 10:
            continue
        for position, p in enumerate(of):
            p.grad = torch.empty_like(p).copy_(values[position]) if position in active else None
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(of, whole, strict=True))


@every_optimizer
def test_a_first_step_skipped_by_loss_scaling_leaves_no_trace(name: str) -> None:
    def train(gradients: list[float]) -> nn.Parameter:
        p = nn.Parameter(torch.ones(64))
        optimizer = build_optimizer(OPTIMIZERS[name], [{"params": [p]}], CPU)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for g in gradients:
            scale = scaler.scale(torch.ones(()))
            p.grad = torch.full((64,), g) * scale
            scaler.step(optimizer)
            scaler.update()
        return p

    assert torch.equal(train([math.inf, 1.0, -2.0]), train([1.0, -2.0]))


@every_optimizer
def test_a_channels_last_encoder_trains_as_by_the_for_loop(name: str) -> None:
    def train(build: Callable[[list[dict[str, Any]]], optim.Optimizer]) -> nn.Module:
        torch.manual_seed(0)
        encoder = build_encoder(SmallCNN(widths=[4, 6]), (3, 8, 8))
        convolutions = [p for p in encoder.parameters() if p.dim() == 4]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
        optimizer = build([{"params": list(encoder.parameters())}])
        x = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            encoder(x).square().mean().backward()
            optimizer.step()
        return encoder

    ours = train(lambda groups: build_optimizer(OPTIMIZERS[name], groups, CPU))
    theirs = train(lambda groups: reference(name, groups, foreach=False))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # Adam divides by gradients near zero


def test_the_callers_groups_stay_as_they_were() -> None:
    groups = [{"params": parameters()[:2]}, {"params": parameters()[2:], "lr": 0.5}]
    optimizer = build_optimizer(OPTIMIZERS["sgd"], groups, CPU)
    assert [set(g) for g in groups] == [{"params"}, {"params", "lr"}]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5]


# ---------------------------------------------------------------------------------------------- learning rate
def two_groups(lr: float = 0.1, other: float = 0.03) -> optim.Optimizer:
    groups = [
        {"params": [nn.Parameter(torch.ones(1))]},
        {"params": [nn.Parameter(torch.ones(1))], "lr": other},
    ]
    return build_optimizer(SGD(lr=lr), groups, CPU)


def lrs(optimizer: optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def climb(epoch: int, warmup: int) -> float:
    return epoch / (warmup + 1)


# (settings without warm-up, lr of the j-th epoch after the warm-up, from 0, of n such epochs, for a full lr)
SCHEDULES: dict[str, tuple[Any, Callable[[float, int, int], float]]] = {
    "step": (StepSchedule(every=3, gamma=0.5), lambda full, j, n: full * 0.5 ** (j // 3)),
    "multistep": (
        MultiStepSchedule(milestones=[2, 5], gamma=0.1),
        lambda full, j, n: full * 0.1 ** ((j >= 2) + (j >= 5)),
    ),
    "cosine": (
        CosineSchedule(min_lr=0.01),
        lambda full, j, n: 0.01 + (full - 0.01) * (1 + math.cos(math.pi * j / n)) / 2,
    ),
    "warmup": (WarmupSchedule(), lambda full, j, n: full),
    "plateau": (PlateauSchedule(patience=1), lambda full, j, n: full),  # with a loss that falls
}
EPOCHS = 11


@pytest.mark.parametrize("warmup", [0, 1, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_lr_of_every_epoch_is_the_formulas(name: str, warmup: int) -> None:
    chosen, formula = SCHEDULES[name]
    optimizer = two_groups()
    schedule = LearningRate(chosen.model_copy(update={"warmup": warmup}), optimizer, EPOCHS)
    for epoch in range(1, EPOCHS + 1):
        for lr, full in zip(lrs(optimizer), (0.1, 0.03), strict=True):
            after = epoch - warmup - 1
            wanted = full * climb(epoch, warmup) if after < 0 else formula(full, after, EPOCHS - warmup)
            assert lr == pytest.approx(wanted, rel=1e-12), epoch
            assert after != 0 or lr == full
        schedule.step(1 / epoch)


def test_the_cosine_ends_at_its_floor() -> None:
    optimizer = two_groups()
    schedule = LearningRate(CosineSchedule(min_lr=0.01, warmup=2), optimizer, EPOCHS)
    for _ in range(EPOCHS):
        schedule.step(0.0)
    assert lrs(optimizer) == pytest.approx([0.01, 0.01], rel=1e-9)


LOSSES = [
    1.0,
    0.9,
    0.95,
    0.91,
    0.92,
    0.8,
    0.80001,
    0.8,
    0.79999,
    0.9,
    0.9,
    0.9,
    math.nan,
    0.9,
    0.1,
    0.2,
    0.2,
    0.2,
]


@pytest.mark.parametrize("warmup", [0, 3])
def test_plateau_is_torchs_own_once_warm(warmup: int) -> None:
    ours, theirs = two_groups(), two_groups()
    schedule = LearningRate(PlateauSchedule(patience=2, gamma=0.3, min_lr=0.005, warmup=warmup), ours, 99)
    torchs = optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.3, patience=2, min_lr=0.005)
    for _ in range(warmup):
        schedule.step(0.0)  # as good as can be: it must not count
    seen = set()
    for loss in LOSSES:
        schedule.step(loss)
        torchs.step(loss)
        assert lrs(ours) == lrs(theirs)
        seen.add(lrs(ours)[0])
    assert len(seen) > 2


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resumed_in_the_middle_equals_uninterrupted(name: str, warmup: int) -> None:
    chosen = SCHEDULES[name][0].model_copy(update={"warmup": warmup})
    losses = [1.0, 0.5, 0.7, 0.6, 0.5, 0.8, 0.9, 0.4, 0.6, 0.7, 0.7]

    def train(stop: int | None) -> list[list[float]]:
        optimizer = two_groups()
        schedule, seen = LearningRate(chosen, optimizer, EPOCHS), []
        for epoch, loss in enumerate(losses):
            if epoch == stop:
                state = json.loads(json.dumps(schedule.state_dict(), allow_nan=False))
                optimizer = two_groups()
                schedule = LearningRate(chosen, optimizer, EPOCHS)
                schedule.load_state_dict(state)
            seen.append(lrs(optimizer))
            schedule.step(loss)
        return [*seen, lrs(optimizer)]

    whole = train(None)
    for stop in range(EPOCHS):
        assert train(stop) == whole, stop


def test_a_schedule_made_after_the_optimizer_was_loaded_continues_all_the_same() -> None:
    optimizer = two_groups()
    chosen = CosineSchedule(warmup=2)
    schedule = LearningRate(chosen, optimizer, EPOCHS)
    for _ in range(5):
        schedule.step(1.0)
    again = two_groups()
    again.load_state_dict(optimizer.state_dict())
    resumed = LearningRate(chosen, again, EPOCHS)
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(5):
        assert lrs(again) == lrs(optimizer)
        schedule.step(1.0)
        resumed.step(1.0)


@pytest.mark.parametrize(
    ("chosen", "parts"),
    [
        (WarmupSchedule(warmup=11), ["warmup = 11", "epochs 11", "10 at most"]),
        (CosineSchedule(min_lr=0.05), ["min_lr = 0.05", "learning rate 0.03"]),
        (PlateauSchedule(min_lr=0.2), ["min_lr = 0.2"]),
    ],
)
def test_schedules_that_cannot_be_are_refused(chosen: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        LearningRate(chosen, two_groups(), EPOCHS)
    assert [part for part in parts if part not in str(error.value)] == []


def test_a_state_of_other_groups_is_refused() -> None:
    schedule = LearningRate(StepSchedule(), two_groups(), EPOCHS)
    with pytest.raises(ValueError, match="zip"):
        schedule.load_state_dict({"epoch": 1, "lr": [0.1]})


# ---------------------------------------------------------------------------------------------------- average
def trained(steps: int, decay: float = 0.8) -> tuple[nn.Module, Any, list[dict[str, Tensor]]]:
    """A small model after `steps`, its average, and the model's tensors after each of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    average = Average(model, decay)
    optimizer = build_optimizer(SGD(lr=0.1), [{"params": list(model.parameters())}], CPU)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        average.update(model)
        seen.append({k: v.detach().clone() for k, v in model.state_dict().items()})
    return model, average, seen


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_the_closed_form_and_buffers_are_the_models(decay: float) -> None:
    steps = 6
    model, average, seen = trained(steps, decay)
    of = average.module.state_dict()
    for key, _ in model.named_parameters():
        weights = [decay ** (steps - 1)] + [(1 - decay) * decay ** (steps - t) for t in range(2, steps + 1)]
        wanted = sum(w * values[key].double() for w, values in zip(weights, seen, strict=True))
        torch.testing.assert_close(of[key].double(), wanted, rtol=1e-5, atol=1e-6)
        assert not torch.equal(of[key], seen[-1][key])
    for key, buffer in model.named_buffers():
        assert torch.equal(of[key], buffer)


def test_the_average_leaves_the_model_alone() -> None:
    model, average, _ = trained(3)
    with torch.no_grad():
        model(torch.randn(4, 4))
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    average.update(model)
    with torch.no_grad():
        for p in average.module.parameters():
            p.zero_()
    assert model.training
    assert not average.module.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(
        torch.equal(p.grad, g)
        for p, g in zip(model.parameters(), gradients, strict=True)
        if p.grad is not None
    )


def test_the_averages_state_is_tensors_and_restores_exactly() -> None:
    model, average, _ = trained(4)
    state = {key: value.clone() for key, value in average.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in state.values())
    other = Average(model, 0.8)
    other.load_state_dict(state)
    for each in (average, other):
        each.update(model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(average.state_dict().values(), other.state_dict().values(), strict=True)
    )
