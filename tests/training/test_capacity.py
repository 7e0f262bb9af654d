"""Batch sizes that fit: found by halving, explained where one does not fit, and nothing is touched on the
way."""

from __future__ import annotations

import copy
import logging
import math
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from g2d_pipeline.config import MLP, SmallCNN, TrainingSettings
from g2d_pipeline.models import Encoder, MultimodalModel, build_encoder, build_fusion
from g2d_pipeline.training import Data
from g2d_pipeline.training.capacity import (
    CapacityError,
    attempt_of,
    explain_out_of_memory,
    fitting_batch_size,
    is_out_of_memory,
    largest_batch,
    trial,
)
from g2d_pipeline.training.precision import prepare
from tests.conftest import make_data

CPU = torch.device("cpu")
RECIPE = TrainingSettings(selection="last")
AUTO = TrainingSettings(batch_size="auto", selection="last")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def exhaust() -> None:
    """Ask the CPU's allocator for 2^52 bytes, which no machine has: it refuses at once, and nothing is
    filled."""
    torch.zeros(1).expand(2**50).contiguous()


class Limited(nn.Module):
    """Takes batches up to a limit; the allocator refuses any greater one, for real. `seen`: the sizes that
    came."""

    def __init__(self, limit: int, seen: list[int]) -> None:
        super().__init__()
        self.linear, self.limit, self.seen = nn.Linear(6, 4), limit, seen

    def __deepcopy__(self, memo: dict[int, Any]) -> Limited:
        copied = Limited(self.limit, self.seen)  # the copies of `trial` tell the same list
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.limit:
            exhaust()
        y: Tensor = self.linear(x)
        return y


def limited(limit: int) -> tuple[MultimodalModel, list[int]]:
    seen: list[int] = []
    return MultimodalModel({"a": Encoder(Limited(limit, seen), 4)}, build_fusion("late", {"a": 4}, 3)), seen


def limit_of(limit: int, tried: list[int] | None = None) -> Any:
    def attempt(size: int) -> None:
        if tried is not None:
            tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} GiB.\nMore lines.")

    return attempt


# ------------------------------------------------------------------------------------------ what is the error
def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        exhaust()
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError("DefaultCPUAllocator: in another kind of error"), False),
    ],
)
def test_which_errors_mean_a_full_memory(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


# ------------------------------------------------------------------------------------------------- the search
@given(limit=st.integers(0, 5000), start=st.integers(2, 5000), least=st.integers(2, 8))
def test_halving_finds_a_batch_that_fits(limit: int, start: int, least: int) -> None:
    start = max(start, least)
    tried: list[int] = []
    if limit < least:
        with pytest.raises(CapacityError, match=f"Not even a batch of {least}"):
            largest_batch(limit_of(limit, tried), start, least)
        assert tried[-1] == least
    else:
        found = largest_batch(limit_of(limit, tried), start, least)
        assert least <= found <= min(limit, start)
        assert tried[-1] == found
        assert found == start or 2 * found + 1 > limit  # at worst, half of what fits
    assert tried == sorted(set(tried), reverse=True)
    assert len(tried) <= math.log2(start) + 1


def test_other_errors_and_senseless_searches_are_not_swallowed() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        largest_batch(broken, 8)
    with pytest.raises(ValueError, match="starts at 1, below"):
        largest_batch(limit_of(8), 1)


# -------------------------------------------------------------------------------------------------- the trial
def mixed_model() -> MultimodalModel:
    """Images stored as bytes, a table with dropout; recomputed and, for one part, frozen."""
    torch.manual_seed(0)
    encoders = {
        "a": build_encoder(SmallCNN(widths=[4, 6]), (1, 8, 8)),
        "b": build_encoder(MLP(widths=[8, 5], dropout=[0.5]), (6,)),
    }
    model = MultimodalModel(encoders, build_fusion("concat", {m: e.width for m, e in encoders.items()}, 3))
    prepare(model, TrainingSettings(checkpoint_activations=True))
    return model


SHAPES, DTYPES = {"a": (1, 8, 8), "b": (6,)}, {"a": torch.uint8, "b": torch.float32}


def everything(model: MultimodalModel, optimizer: torch.optim.Optimizer) -> list[Any]:
    return [
        copy.deepcopy(model.state_dict()),
        {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        [part.training for part in model.modules()],
        [p.requires_grad for p in model.parameters()],
        copy.deepcopy(optimizer.state_dict()),
        torch.get_rng_state(),
    ]


def assert_equal(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def full_in_backward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    output.register_hook(lambda gradient: exhaust())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_leaves_everything_as_it_was(dtype: torch.dtype | None, fails: bool) -> None:
    model = mixed_model()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):  # gradients, moments, moved statistics
        optimizer.zero_grad()
        model({"a": torch.rand(4, 1, 8, 8), "b": torch.rand(4, 6)}).logits.square().mean().backward()
        optimizer.step()
    model.encoders["a"].eval()
    next(model.encoders["b"].parameters()).requires_grad_(False)
    if fails:
        model.fusion.register_forward_hook(full_in_backward)
    before = everything(model, optimizer)
    if fails:
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            trial(model, SHAPES, DTYPES, 4, CPU, dtype)
    else:
        with torch.no_grad():  # wherever it is called from
            trial(model, SHAPES, DTYPES, 4, CPU, dtype)
    for then, now in zip(before, everything(model, optimizer), strict=True):
        if isinstance(then, Tensor):
            assert torch.equal(then, now)
        elif isinstance(then, dict) and any(value is None for value in then.values()):
            assert {k for k, v in then.items() if v is None} == {k for k, v in now.items() if v is None}
        else:
            assert_equal(then, now)


def test_a_trial_trains_on_so_many_samples_as_they_are_stored() -> None:
    model = mixed_model()
    seen: list[tuple[torch.dtype, tuple[int, ...], bool, bool]] = []
    told: list[bool] = []

    def look(encoder: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        seen.append((x.dtype, tuple(x.shape), encoder.training, torch.is_grad_enabled()))
        output.register_hook(lambda gradient: told.append(True))

    for encoder in model.encoders.values():
        encoder.register_forward_hook(look)
    model.eval()
    trial(model, SHAPES, DTYPES, 5, CPU)
    assert seen == [(torch.uint8, (5, 1, 8, 8), True, True), (torch.float32, (5, 6), True, True)]
    assert told == [True, True]  # the backward pass reached both encoders


# ------------------------------------------------------------------------------------------------------- auto
def data_of(train: int) -> Data:
    """`train` rows to train on, of 6 numbers."""
    x = np.zeros((train + 2, 6), dtype=np.float32)
    return Data.from_arrays({"a": x}, np.arange(train + 2) % 3, ["train"] * train + ["val", "test"])


@pytest.mark.parametrize(
    ("rows", "limit", "tried"),
    [
        (100, 1000, [64]),  # the greatest power of two of the rows
        (5000, 5000, [4096]),
        (5000, 600, [4096, 2048, 1024, 512]),
        (65, 64, [65, 33]),  # 64 leaves a batch of one, which joins the one before; so does 32
    ],
)
def test_auto_starts_from_the_rows_and_halves(rows: int, limit: int, tried: list[int]) -> None:
    model, seen = limited(limit)
    assert fitting_batch_size(model, data_of(rows), AUTO, CPU) == tried[-1] - tried[-1] % 2
    assert seen == tried


def test_auto_where_two_samples_fit_but_not_the_one_left_over() -> None:
    model, seen = limited(2)
    with pytest.raises(CapacityError, match="Not even a batch of 2"):
        fitting_batch_size(model, data_of(3), AUTO, CPU)
    assert seen == [3]


def test_auto_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fitting_batch_size(limited(16)[0], data_of(100), AUTO, CPU)
    assert "batch_size=auto: 16 samples a batch on cpu (tried from 64 down)" in caplog.text


def test_a_number_is_taken_as_it_is() -> None:
    model, seen = limited(4)
    assert fitting_batch_size(model, data_of(100), TrainingSettings(batch_size=50), CPU) == 50
    assert seen == []


# ----------------------------------------------------------------------------------------------- explanations
def explained(
    limit: int, size: int, training: TrainingSettings = RECIPE, tried: list[int] | None = None
) -> str:
    with (
        pytest.raises(CapacityError) as caught,
        explain_out_of_memory(limit_of(limit, tried), lambda: size, CPU, training),
    ):
        limit_of(limit)(size)
    return str(caught.value)


def test_the_message_names_sizes_and_remedies() -> None:
    tried: list[int] = []
    message = explained(20, 64, tried=tried)
    assert tried == [32, 16]
    assert "A batch of 64 samples does not fit into the memory of cpu. A batch of 16 would fit." in message
    assert "batch_size=16 with accumulation=4" in message
    assert "precision=bf16" in message
    assert "checkpoint_activations=true" in message
    assert message.endswith("torch said: CUDA out of memory. Tried to allocate 64 GiB.")  # its first line


def test_remedies_in_use_are_not_named_and_accumulation_multiplies() -> None:
    used = TrainingSettings(accumulation=3, precision="fp16", checkpoint_activations=True)
    message = explained(20, 50, used)
    assert "batch_size=12 with accumulation=15" in message  # 12 · 15 ≥ 50 · 3
    assert "bf16" not in message
    assert "checkpoint_activations" not in message


@pytest.mark.parametrize(("size", "tried"), [(2, []), (3, [2]), (8, [4, 2])])
def test_where_nothing_fits_it_says_so(size: int, tried: list[int]) -> None:
    asked: list[int] = []
    message = explained(1, size, tried=asked)
    assert asked == tried
    assert "Not even a batch of 2 would fit" in message
    assert "a device with more memory" in message
    assert "accumulation" not in message


def test_only_a_full_memory_is_explained() -> None:
    with (
        pytest.raises(RuntimeError, match="something else"),
        explain_out_of_memory(limit_of(1), lambda: 8, CPU, RECIPE),
    ):
        raise RuntimeError("something else")


def test_the_failed_step_lets_go_of_its_activations_before_the_attempts() -> None:
    gone: list[bool] = []
    watched: list[weakref.ref[Tensor]] = []

    def step() -> None:
        activations = torch.zeros(10)
        watched.append(weakref.ref(activations))
        exhaust()

    with (
        pytest.raises(CapacityError),
        explain_out_of_memory(lambda size: gone.append(watched[0]() is None), lambda: 8, CPU, RECIPE),
    ):
        step()
    assert gone == [True]


def test_a_training_step_that_does_not_fit_is_explained() -> None:
    """As the trainer calls it; the size that counts is the one in force when memory ran out."""
    model, seen = limited(10)
    position = SimpleNamespace(batch_size=100)
    attempt = attempt_of(model, data_of(100), RECIPE, CPU)

    def resumed() -> None:
        position.batch_size = 32
        model({"a": torch.zeros(32, 6)})

    with (
        pytest.raises(CapacityError, match=r"A batch of 32 samples does not fit.* A batch of 8 would fit"),
        explain_out_of_memory(attempt, lambda: position.batch_size, CPU, RECIPE),
    ):
        resumed()
    assert seen == [32, 16, 8]


def test_the_attempt_reads_shapes_and_dtypes_from_the_data() -> None:
    data = make_data(2)
    encoders = {m: build_encoder(MLP(widths=[4], dropout=[]), (6,)) for m in data.modalities}
    model = MultimodalModel(encoders, build_fusion("late", dict.fromkeys(encoders, 4), 3))
    attempt_of(model, data, TrainingSettings(precision="bf16"), CPU)(8)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        attempt_of(model, data, TrainingSettings(), CPU)(2**46)  # 2^46 samples of 24 bytes


# --------------------------------------------------------------------------------------------------- on a GPU
@pytest.mark.gpu
@needs_cuda
def test_auto_on_cuda_finds_the_greatest_power_of_two() -> None:
    """A process that may use 1 GiB: the size found trains, twice of it does not."""
    device = torch.device("cuda", torch.cuda.current_device())
    share = 2**30 / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)
    try:
        shape = (3, 224, 224)
        rows = np.lib.stride_tricks.as_strided(
            np.zeros(shape, np.uint8), (4098, *shape), (0, 224 * 224, 224, 1)
        )
        data = Data.from_arrays({"a": rows}, np.arange(4098) % 3, ["train"] * 4096 + ["val", "test"])
        encoder = build_encoder(SmallCNN(), shape)
        model = MultimodalModel({"a": encoder}, build_fusion("late", {"a": encoder.width}, 3)).to(device)
        before = copy.deepcopy(model.state_dict())
        size = fitting_batch_size(model, data, AUTO, device)
        attempt = attempt_of(model, data, AUTO, device)
        attempt(size)
        assert 2 <= size < 4096
        with pytest.raises(torch.OutOfMemoryError):
            attempt(2 * size)
        assert_equal(before, model.state_dict())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
