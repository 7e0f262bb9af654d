"""Batch sizes that fit into memory: found by halving, and explained where a batch did not fit."""

import copy
import gc
import logging
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training.data import Data, take
from g2d_pipeline.training.precision import autocast_dtype

logger = logging.getLogger(__name__)

LEAST = 2  # batch norm cannot train on one sample
MOST = 4096  # where the search for `auto` starts
# Allocators and libraries that report a full memory as a plain RuntimeError.
MESSAGES = (
    "DefaultCPUAllocator:",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)

Attempt = Callable[[int], None]  # raises an out-of-memory error where a batch of this size does not fit


class CapacityError(TrainingError):
    """A batch does not fit into memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError, or a RuntimeError whose message says that memory is full."""
    full = isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
    return full or isinstance(error, torch.OutOfMemoryError)


def largest_batch(attempt: Attempt, start: int, least: int = LEAST) -> int:
    """Halve from `start`, not below `least`, to the first size where `attempt` raises no out-of-memory error.

    Raises CapacityError where `least` does not fit either; other errors of `attempt` pass."""
    if start < least:
        raise ValueError(f"the search starts at {start}, below the least batch of {least}")
    size = start
    while True:
        fits = True
        try:
            attempt(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        _empty_cache()  # past the `except`, where the error has let go of the attempt's tensors
        if fits:
            return size
        if size == least:
            raise CapacityError(f"Not even a batch of {least} samples fits into memory.")
        size = max(size // 2, least)


def _empty_cache() -> None:
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def trial(
    model: MultimodalModel,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    size: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> None:
    """One forward and backward pass in training mode, all encoders learning, on `size` samples of zeros.

    `shapes` and `dtypes`: of one stored sample, by modality; `dtype`: in which the encoders run. A copy of
    the model does it, which leaves the model as it is and stands for the optimizer's state, with `room`."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        copied = copy.deepcopy(model).train()
        room = [torch.empty_like(p) for p in copied.parameters()]  # of the size of the weights
        inputs = {m: torch.zeros(size, *shape, dtype=dtypes[m], device=device) for m, shape in shapes.items()}
        output = copied(inputs, dtype=dtype)
        total: Tensor = sum((feature.sum() for feature in output.features.values()), output.logits.sum())
        total.backward()
        del room


def kept_bytes(architecture: dict[str, Any], data: Data, training: TrainingSettings) -> tuple[int, int]:
    """(bytes of the weights, bytes that a batch keeps for its backward pass) of a model that is not there:
    both are counted on torch's device `meta`. What an encoder that cannot run there keeps counts as 0."""
    with torch.device("meta"):
        model = build_model(architecture)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    size = min(MOST, len(data.rows["train"])) if training.batch_size == "auto" else training.batch_size
    with suppress(NotImplementedError, RuntimeError), saved_tensors_hooks(keep, lambda tensor: tensor):
        attempt_of(model, data, training, torch.device("meta"))(size)
    return weights, sum(kept.values())


def attempt_of(
    model: MultimodalModel, data: Data, training: TrainingSettings, device: torch.device
) -> Attempt:
    """`trial` on samples as stored, on one more where a last batch of one would join the one before."""
    shapes = {m: data.shape(m) for m in data.modalities}
    dtypes = {m: take(data.arrays[m], np.arange(1)).dtype for m in data.modalities}
    rows = len(data.rows["train"])

    def attempt(size: int) -> None:
        largest = size + 1 if rows % size == 1 else size
        trial(model, shapes, dtypes, largest, device, autocast_dtype(training.precision))

    return attempt


def fitting_batch_size(
    model: MultimodalModel, data: Data, training: TrainingSettings, device: torch.device
) -> int:
    """`batch_size` as it is set; for `auto` the largest power of two that fits, at most 4096 and the train
    rows. Raises CapacityError where no batch fits."""
    if training.batch_size != "auto":
        return training.batch_size
    rows = max(len(data.rows["train"]), LEAST)
    start = 1 << (min(MOST, rows).bit_length() - 1)
    size = largest_batch(attempt_of(model, data, training, device), start)
    logger.info("batch_size=auto: %d samples a batch on %s (tried from %d down)", size, device, start)
    return size


@contextmanager
def explain_out_of_memory(
    attempt: Attempt, batch_size: Callable[[], int], device: torch.device, training: TrainingSettings
) -> Iterator[None]:
    """An out-of-memory error inside becomes a CapacityError; any other error passes.

    It names the batch size that did not fit, one that would have fitted (the largest of its halves that
    `attempt` takes) with the accumulation for steps of as many samples, and remedies not in use already."""
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        # The frames of the failed step still hold its activations: the attempts need that memory.
        traceback.clear_frames(error.__traceback__)
        _empty_cache()
    size, fits = batch_size(), f"Not even a batch of {LEAST} would fit"
    others = ["precision=bf16"] if training.precision in ("fp32", "tf32") else []
    others += [] if training.checkpoint_activations else ["checkpoint_activations=true"]
    remedies = [*others, "smaller features or encoders", "a device with more memory"]
    with suppress(CapacityError):
        if size > LEAST:
            fitting = largest_batch(attempt, max(size // 2, LEAST))
            steps = math.ceil(size / fitting) * training.accumulation
            fits = f"A batch of {fitting} would fit"
            remedies = [f"batch_size={fitting} with accumulation={steps} (steps of as many samples)", *others]
    raise CapacityError(
        f"A batch of {size} samples does not fit into the memory of {device}. {fits}.\n"
        f"Remedies: {', or '.join(remedies)}.\n"
        f"torch said: {reason}"
    ) from None
