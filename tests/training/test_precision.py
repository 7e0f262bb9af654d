"""Arithmetic, memory format, recomputation and compilation change how fast a model trains, not what it
learns."""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from g2d_pipeline.config import MLP, EncoderSettings, MobileNetV2, ResNet18, SmallCNN, TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import Encoder, MultimodalModel, build_encoder, build_fusion
from g2d_pipeline.training import precision
from g2d_pipeline.training.precision import (
    autocast_dtype,
    blocks,
    check_machine,
    gradient_scaler,
    prepare,
    tf32_mode,
    unprepare,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = TrainingSettings(selection="last")
RECOMPUTE = PLAIN.model_copy(update={"checkpoint_activations": True})
COMPILE = PLAIN.model_copy(update={"compile": True})
without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what happens where there is no CUDA"
)
without_metal = pytest.mark.skipif(
    torch.backends.mps.is_available(), reason="says what happens where there is no Metal"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="torch.compile needs a C++ compiler"
)


class Residual(nn.Module):
    """x + dropout(norm(linear(x))): a block with everything that a second forward pass could spoil."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(torch.relu(self.norm(self.linear(x))))
        return x + y


def residual() -> Encoder:
    return Encoder(nn.Sequential(nn.Linear(6, 8), nn.Sequential(Residual(8), Residual(8))), 8)


def model_of(*encoders: Encoder) -> MultimodalModel:
    named = dict(zip("abc", encoders, strict=False))
    return MultimodalModel(named, build_fusion("late", {m: e.width for m, e in named.items()}, 3))


def built(settings: EncoderSettings, shape: tuple[int, ...]) -> MultimodalModel:
    torch.manual_seed(0)
    return model_of(build_encoder(settings, shape))


def trained(
    model: MultimodalModel, shape: tuple[int, ...], steps: int = 5, dtype: torch.dtype | None = None
) -> float:
    """Train some steps on noise; the last loss."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    loss = torch.zeros(())
    for _ in range(steps):
        output = model({"a": torch.randn(6, *shape)}, dtype=dtype)
        assert output.features["a"].dtype == output.logits.dtype == torch.float32
        loss = nn.functional.cross_entropy(output.logits, torch.randint(3, (6,)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def assert_same(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert list(x) == list(y)
    for name in x:
        torch.testing.assert_close(
            x[name], y[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# ------------------------------------------------------------------------------------------------- arithmetic
def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def _flags_kept() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("_flags_kept")
@pytest.mark.parametrize("before", [(False, True), (True, False)])
@pytest.mark.parametrize(
    ("name", "inside"), [("tf32", True), ("fp32", False), ("bf16", False), ("fp16", False)]
)
def test_tf32_is_on_only_inside_and_only_where_asked(
    name: str, inside: bool, before: tuple[bool, bool]
) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with tf32_mode(name, CUDA):
        assert flags() == (inside, inside)
    assert flags() == before
    with pytest.raises(ValueError, match="inside"), tf32_mode(name, CUDA):
        raise ValueError("inside")
    assert flags() == before


@pytest.mark.usefixtures("_flags_kept")
def test_arithmetic_leaves_the_flags_alone_on_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    with tf32_mode("tf32", CPU):
        assert flags() == (False, True)


def test_dtypes_and_the_scaler() -> None:
    names = ["fp32", "tf32", "bf16", "fp16"]
    assert [autocast_dtype(n) for n in names] == [None, None, torch.bfloat16, torch.float16]
    assert [gradient_scaler(n, CPU).is_enabled() for n in names] == [False, False, False, True]
    loss = torch.tensor(2.0)
    assert gradient_scaler("bf16", CPU).scale(loss) is loss


@pytest.mark.parametrize("settings", [PLAIN, RECOMPUTE])
def test_bf16_trains_close_to_float32(settings: TrainingSettings) -> None:
    """A step in bfloat16 (8 bits of mantissa: 0.4 % a number) gives a loss within 5 % of float32's."""
    models = [built(ResNet18(), (1, 32, 32)) for _ in range(2)]
    prepare(models[1], settings)
    losses = [
        trained(models[0], (1, 32, 32), steps=1),
        trained(models[1], (1, 32, 32), steps=1, dtype=torch.bfloat16),
    ]
    assert math.isfinite(losses[1])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]  # it did run in bfloat16
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in models[1].parameters())


# ---------------------------------------------------------------------------------------------------- machine
@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        ({"precision": "fp16"}, "cpu", "precision=fp16 needs CUDA.*precision=bf16"),
        ({"batch_size": "auto"}, "cpu", "batch_size=auto needs CUDA.*batch_size=32"),
        pytest.param({}, "cuda", "device=cuda: .*device=auto", marks=without_cuda),
        pytest.param({}, "cuda:1", "device=cuda:1: .*device=auto", marks=without_cuda),
        pytest.param({}, "mps", "device=mps: .*device=auto", marks=without_metal),
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_said_before_work_starts(
    settings: dict[str, Any], device: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check_machine(TrainingSettings(**settings), torch.device(device))


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_machine_that_has_everything_says_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check_machine(TrainingSettings(precision=name), CPU)
    assert not caplog.records


def test_tf32_without_hardware_is_a_note(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_machine(TrainingSettings(precision="tf32"), CPU)
    assert "cpu has no TF32" in caplog.text


def test_compile_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(ConfigError, match=r"C\+\+ compiler: no-such-compiler is not found.*compile=false"):
        check_machine(COMPILE, CPU)
    monkeypatch.setenv("CXX", sys.executable)  # anything that exists
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ConfigError, match=r"Python\.h is missing.*python3-dev"):
        check_machine(COMPILE, CPU)
    (tmp_path / "Python.h").touch()
    check_machine(COMPILE, CPU)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    assert "triton" in (precision._missing_to_compile(CUDA) or "")


# ---------------------------------------------------------------------------------------------- memory format
@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_changes_no_number(channels_last: bool) -> None:
    plain = built(SmallCNN(widths=[4, 6]), (3, 8, 8))
    model = copy.deepcopy(plain)
    prepare(model, PLAIN.model_copy(update={"channels_last": channels_last}))
    weight = next(p for name, p in model.named_parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert weight.is_contiguous() is not channels_last
    assert_same(plain, model)


# ---------------------------------------------------------------------------------------------- recomputation
@pytest.mark.parametrize(
    ("encoder", "kind", "count"),
    [
        (build_encoder(ResNet18(), (1, 32, 32)), "BasicBlock", 8),
        (build_encoder(MobileNetV2(), (3, 32, 32)), "InvertedResidual", 17),
        (build_encoder(SmallCNN(), (1, 32, 32)), "", 0),
        (build_encoder(MLP(), (6,)), "", 0),
        (Encoder(nn.ModuleDict({"layers": nn.ModuleList([Residual(4), nn.Linear(4, 4)])}), 4), "Residual", 1),
        (Encoder(Residual(4), 4), "", 0),  # the trunk itself is descended, whatever it is
    ],
    ids=["resnet18", "mobilenet_v2", "small_cnn", "mlp", "containers", "trunk"],
)
def test_blocks(encoder: Encoder, kind: str, count: int) -> None:
    assert [type(block).__name__ for block in blocks(encoder)] == [kind] * count


@pytest.mark.parametrize(
    ("build", "shape", "dtype"),
    [
        (lambda: build_encoder(ResNet18(), (1, 32, 32)), (1, 32, 32), None),
        (lambda: build_encoder(MobileNetV2(), (3, 32, 32)), (3, 32, 32), None),
        (lambda: build_encoder(MLP(widths=[16, 8], dropout=[0.3, 0.2]), (6,)), (6,), None),
        (residual, (6,), None),
        (residual, (6,), torch.bfloat16),
    ],
    ids=["resnet18", "mobilenet_v2", "mlp", "residual", "residual-bf16"],
)
def test_recomputation_trains_to_the_same_bits(
    build: Callable[[], Encoder], shape: tuple[int, ...], dtype: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    plain = model_of(build())
    model = copy.deepcopy(plain)
    prepare(model, RECOMPUTE)
    # The number drawn afterwards tells that as many random numbers were drawn.
    ends = [(trained(m, shape, 2, dtype), float(torch.rand(()))) for m in (plain, model)]
    assert ends[0] == ends[1]
    assert_same(plain, model)
    counts = [int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {2}


def test_blocks_run_twice_only_where_there_is_a_backward_pass() -> None:
    model = model_of(residual())
    prepare(model, RECOMPUTE)
    calls: list[bool] = []
    inner = blocks(model.encoders["a"])[0].norm
    assert isinstance(inner, nn.Module)
    inner.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))

    def count(suppressed: list[str], norm: str = "batch") -> int:
        calls.clear()
        model({"a": torch.randn(4, 6)}, suppressed, norm).logits.sum().backward()
        return len(calls)

    assert count([]) == 2
    assert [count(["a"], norm) for norm in ("batch", "frozen", "moving")] == [1, 1, 1]
    model.eval()
    assert count([]) == 1


def test_a_copy_recomputes_its_own_blocks() -> None:
    """The average of the weights is a deep copy: were `forward` bound to the original, it would compute with
    that."""
    plain = model_of(residual())
    model = copy.deepcopy(plain)
    prepare(model, RECOMPUTE)
    copies = [copy.deepcopy(plain), copy.deepcopy(model)]
    for copied in copies:
        trained(copied, (6,))
    assert_same(*copies)
    assert_same(plain, model)  # the copied one was not trained through its copy


def test_unprepare_takes_everything_back() -> None:
    model = model_of(residual())
    prepare(model, RECOMPUTE.model_copy(update={"compile": True}))
    assert model.encoders["a"]._compiled_call_impl is not None
    assert all("forward" in vars(block) for block in blocks(model.encoders["a"]))
    for undo in (unprepare, lambda m: prepare(m, PLAIN)):
        undo(model)
        assert model.encoders["a"]._compiled_call_impl is None
        assert not any("forward" in vars(part) for part in model.modules())
        prepare(model, RECOMPUTE)


def test_an_encoder_without_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepare(model_of(residual(), build_encoder(MLP(), (6,))), RECOMPUTE)
    assert "encoder b has no blocks" in caplog.text
    assert "encoder a" not in caplog.text


def saved_bytes(forward: Callable[[], Tensor], weights: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, weights and buffers left
    out."""
    own = {t.untyped_storage().data_ptr() for t in [*weights.parameters(), *weights.buffers()]}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


@pytest.mark.parametrize(
    ("settings", "shape", "share"), [(ResNet18(), (1, 64, 64), 0.75), (MobileNetV2(), (3, 64, 64), 0.5)]
)
def test_recomputation_lowers_the_peak_of_activations(
    settings: EncoderSettings, shape: tuple[int, ...], share: float
) -> None:
    """The peak is bounded by what is kept all along and the greatest block, whose activations come back one
    by one."""
    encoder = build_encoder(settings, shape).train()
    x = torch.randn(4, *shape)
    inputs: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        b.register_forward_hook(lambda b, i, o: inputs.append((b, i[0].detach()))) for b in blocks(encoder)
    ]
    whole = saved_bytes(lambda: encoder(x), encoder)
    for hook in hooks:
        hook.remove()
    greatest = max(saved_bytes(lambda b=b, i=i: b(i.requires_grad_()), b) for b, i in inputs)
    prepare(model_of(encoder), RECOMPUTE)
    kept = saved_bytes(lambda: encoder(x), encoder)
    assert kept < whole
    assert kept + greatest < share * whole


# ------------------------------------------------------------------------------------------------ compilation
@pytest.fixture
def _fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.compiler.reset()
    before = torch.compiler.config.recompile_limit
    yield
    torch.compiler.config.recompile_limit = before
    torch.compiler.reset()


def passes(model: MultimodalModel, inputs: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The features in every way in which the trainer runs an encoder."""
    model.train()
    output = model(inputs)
    sum(f.square().mean() for f in output.features.values()).backward()  # type: ignore[union-attr]
    yield "learning", output.features
    for norm in ("batch", "frozen"):
        yield norm, model(inputs, list(inputs), norm).features
    model.eval()
    with torch.no_grad():
        output = model(inputs)
    yield "evaluated", output.features
    model.train()


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=needs_cuda)], ids=str)
def test_compiled_encoders_agree_with_eager_ones_in_every_mode(device: torch.device) -> None:
    """Within 1e-5: the compiled code sums in another order. The second round compiles nothing.

    On the CPU scalar code is compiled: two thirds of the time would go to test programs that find out which
    vector instructions there are."""
    from torch._inductor import config

    plain = built(SmallCNN(widths=[4]), (1, 8, 8)).to(device)
    model = copy.deepcopy(plain)
    prepare(model, COMPILE)
    check_machine(COMPILE, device)
    for stance in ("default", "fail_on_recompile"):
        inputs = {"a": torch.randn(6, 1, 8, 8, device=device)}
        with torch.compiler.set_stance(stance), config.patch({"cpp.vec_isa_ok": False}):
            for ours, theirs in zip(passes(model, inputs), passes(plain, inputs), strict=True):
                torch.testing.assert_close(
                    ours[1], theirs[1], rtol=1e-5, atol=1e-5, msg=lambda m, n=ours[0]: f"{n}: {m}"
                )
        assert_same(plain, model, 1e-5)
        gradients = [[p.grad for p in m.encoders.parameters()] for m in (plain, model)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert model.encoders["a"]._compiled_call_impl is not None
    copied = copy.deepcopy(model)  # not compiled, the same weights
    torch.testing.assert_close(next(passes(copied, inputs))[1], next(passes(plain, inputs))[1])


@pytest.mark.usefixtures("_fresh_compiler")
def test_graphs_are_counted_and_none_is_dropped() -> None:
    """3 modes x (one batch size, any batch size) an encoder; torch's own limit of 8 would be met by the
    second one."""
    graphs: list[Any] = []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = model_of(*(build_encoder(MLP(widths=[5 + i], dropout=[]), (4 + i,)) for i in range(2)))
    prepare(model, COMPILE)
    for encoder in model.encoders.values():
        encoder.compile(backend=counting)
    for size in (8, 5, 7):
        for _ in passes(model, {m: torch.randn(size, 4 + i) for i, m in enumerate("ab")}):
            pass
        assert len(graphs) == (6 if size == 8 else 12)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compilation_goes_with_recomputation() -> None:
    """Traced and differentiated as compiled code is, run by torch's own kernels (`aot_eager`): no compiler
    needed."""
    plain = model_of(Encoder(nn.Sequential(nn.Linear(6, 8), Residual(8), Residual(8)), 8))
    for block in blocks(plain.encoders["a"]):
        block.drop.p = 0.0  # type: ignore[union-attr]  # compiled dropout draws other numbers
    model = copy.deepcopy(plain)
    prepare(model, RECOMPUTE.model_copy(update={"compile": True}))
    model.encoders["a"].compile(backend="aot_eager", fullgraph=True)
    trained(plain, (6,))
    trained(model, (6,))
    assert_same(plain, model, 1e-6)
    assert int(blocks(model.encoders["a"])[0].norm.num_batches_tracked) == 5  # type: ignore[union-attr]
