"""Numbers and machine: the arithmetic of a training, what it asks of the machine, and how encoders run."""

import ctypes
import logging
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.checkpoint import checkpoint

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.models import MultimodalModel

logger = logging.getLogger(__name__)

# Graphs that torch keeps for one piece of code before it silently runs it uncompiled. All encoders share the
# code of `Encoder.forward`, and each needs up to three graphs (learning, suppressed, evaluated) for one and
# for any batch size: torch's own 8 is used up by two encoders.
GRAPHS = 64
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT, KEPT = 32 * 2**20, 2**30  # bytes: of one tensor (as glibc's own limit), and of all together


# ------------------------------------------------------------------------------------------------- arithmetic
@contextmanager
def tf32_mode(precision: str, device: torch.device) -> Iterator[None]:
    """`tf32`: TF32 in matrix products and cuDNN; any other precision: off (torch leaves it on in cuDNN).

    The flags are restored. No effect where `device` is not CUDA."""
    if device.type != "cuda":
        yield
        return
    # The older pair of flags: once the newer `fp32_precision` is set, reading these raises.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = flags


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The dtype in which the encoders run, None for float32; fusion and losses are float32 always."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def gradient_scaler(precision: str, device: torch.device) -> GradScaler:
    """Scales losses so that small fp16 gradients do not vanish; any other precision is left alone."""
    return GradScaler(device.type, enabled=precision == "fp16")


# ----------------------------------------------------------------------------------------------------- device
def check_machine(training: TrainingSettings, device: torch.device) -> None:
    """Raise ConfigError, before work starts, where the machine lacks what the settings ask for.

    TF32 on hardware without it gives float32 and is only logged."""
    cuda = device.type == "cuda"
    fault = None
    if cuda and not torch.cuda.is_available():
        fault = f"device={device}: torch finds no CUDA device here. Remedy: device=auto, or device=cpu."
    elif cuda and device.index is not None and device.index > (last := torch.cuda.device_count() - 1):
        fault = f"device={device}: the last CUDA device here is cuda:{last}. Remedy: device=cuda:{last}."
    elif device.type == "mps" and not torch.backends.mps.is_available():
        fault = "device=mps: torch finds no Metal device here. Remedy: device=auto, or device=cpu."
    elif training.precision == "fp16" and not cuda:
        fault = f"precision=fp16 needs CUDA, and this runs on {device}. Remedy: precision=bf16 or fp32."
    elif training.batch_size == "auto" and not cuda:
        needs = "needs CUDA, whose memory has an end that can be met safely"
        fault = f"batch_size=auto {needs}; this runs on {device}. Remedy: a number, such as batch_size=32."
    elif training.compile and (missing := _missing_to_compile(device)):
        fault = f"compile=true on {device} needs {missing}. Remedy: install it, or compile=false."
    if fault is not None:
        raise ConfigError(fault)
    if training.precision == "tf32":
        with torch.cuda.device(device) if cuda else nullcontext():
            if not (cuda and torch.cuda.is_tf32_supported()):
                logger.warning("precision=tf32: %s has no TF32, the arithmetic is float32", device)


def _missing_to_compile(device: torch.device) -> str | None:
    """What torch.compile would not find on this machine, in words."""
    if device.type == "cuda":
        return None if find_spec("triton") is not None else "the package triton, which is not installed"
    # What torch itself calls: $CXX, which may carry arguments, or the platform's usual compiler.
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = shlex.split(os.environ.get("CXX", usual)) or [usual]
    if shutil.which(compiler[0]) is None:
        return f"a C++ compiler: {compiler[0]} is not found (the variable CXX may name another)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return None if header.is_file() else f"Python's C headers: {header} is missing (Debian: python3-dev)"


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of handing it back to the system, which fills each new page with
    zeros: 4 % of the CPU time of a ResNet-18 step (docs/performance.md). No effect with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)


# --------------------------------------------------------------------------------------------------- encoders
def prepare(model: MultimodalModel, training: TrainingSettings, sharded: bool = False) -> None:
    """Give each encoder its memory format (row order where it is to be `sharded`), recomputation and
    compilation, in place of what it had before. Names in the state dict stay."""
    unprepare(model)
    if training.compile:
        torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, GRAPHS)
    for m, encoder in model.encoders.items():
        if any(isinstance(part, nn.Conv2d) for part in encoder.modules()):
            channels_last = training.channels_last and not sharded
            layout = torch.channels_last if channels_last else torch.contiguous_format
            encoder.to(memory_format=layout)  # type: ignore[call-overload]
        if training.checkpoint_activations:
            parts = blocks(encoder)
            if not parts:
                logger.info("checkpoint_activations: encoder %s has no blocks and keeps its activations", m)
            for block in parts:
                block.forward = MethodType(_recomputed, block)
        if training.compile:
            encoder.compile()


def unprepare(model: MultimodalModel) -> None:
    """Take back compilation and recomputation, so that a trained model runs where there is no compiler."""
    for encoder in model.encoders.values():
        encoder._compiled_call_impl = None
        for part in encoder.modules():
            if getattr(vars(part).get("forward"), "__func__", None) is _recomputed:
                del part.forward


def blocks(encoder: nn.Module) -> list[nn.Module]:
    """The parts of an encoder's trunk whose activations are worth computing again: below its containers, the
    modules that have children of their own (the 8 BasicBlocks of ResNet-18). Single layers are left alone."""

    def below(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                yield from below(child)
            elif any(True for _ in child.children()):
                yield child

    trunk = encoder.trunk
    return list(below(trunk)) if isinstance(trunk, nn.Module) else []


def _recomputed(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """`forward` of a block that keeps its inputs alone and computes again in backward, with the same dropout.

    A method, not a closure: a block's deep copy (the average of the weights) must use its own weights."""
    if not (torch.is_grad_enabled() and block.training):
        return type(block).forward(block, *inputs, **named)

    @contextmanager
    def buffers_kept() -> Iterator[None]:
        """Write into copies of the buffers: running statistics move once a step, not twice.

        `preserve_norm_stats(block, "batch")` would not do: torch demands that the second forward pass saves
        as many tensors as the first one, and batch norm without statistics saves fewer."""
        buffers = [(part, n, b) for part in block.modules() for n, b in part.named_buffers(recurse=False)]
        for part, name, buffer in buffers:
            setattr(part, name, buffer.clone())
        try:
            yield
        finally:
            for part, name, buffer in buffers:
                setattr(part, name, buffer)

    # A compiled graph writes its buffers once by itself, and torch.compile refuses contexts of ours.
    contexts: dict[str, Any] = (
        {} if torch.compiler.is_compiling() else {"context_fn": lambda: (nullcontext(), buffers_kept())}
    )
    return checkpoint(type(block).forward, block, *inputs, use_reentrant=False, **contexts, **named)
