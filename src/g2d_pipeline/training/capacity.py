"""What fits and what is fast, found by trial steps: the batch size, and whether bf16 pays off."""

import copy
import gc
import hashlib
import json
import logging
import math
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.errors import TrainingError
from g2d_pipeline.files import atomic_write
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


# -------------------------------------------------------------------------------------------- precision: auto
CHOICE = "precision.json"  # in the folder of a training: a resumed one keeps its arithmetic
GAIN = 1.1  # times that bf16 is faster, at least, to be taken: less is noise, and costs digits
ROUNDS = 3
HOPELESS = 3.0  # times that one step in bf16 takes longer, from which on no more are timed


def resolve_precision(
    training: TrainingSettings,
    model: MultimodalModel,
    data: Data,
    device: torch.device,
    folder: Path | None = None,
) -> TrainingSettings:
    """The settings with `auto` replaced by `bf16` or `fp32`; others as they are.

    The model (on `device`, as `precision.prepare` left it) takes timed steps on zeros in the shapes of its
    data. What was chosen is kept in `folder`, for a resumed training, and in `cache_file()` for all trainings
    of such a model on such a machine, so that seeds and methods share it."""
    if training.precision != "auto":
        return training
    file = folder and folder / CHOICE
    chosen = _read(file).get("precision") if file else None
    if chosen is None:
        ratio = _kept(_key(training, model, data, device), lambda: benchmark(training, model, data, device))
        chosen = "bf16" if ratio >= GAIN else "fp32"
        logger.info("precision=auto: %s; a step in bf16 is %.2f times as fast as in fp32", chosen, ratio)
        if file:
            _write(file, {"precision": chosen, "speedup": ratio})
    return training.model_copy(update={"precision": chosen})


def benchmark(training: TrainingSettings, model: MultimodalModel, data: Data, device: torch.device) -> float:
    """Seconds of a training step in fp32 ÷ in bf16: the least of a few that take turns, after a first one."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 0.0
    size = 64 if training.batch_size == "auto" else training.batch_size
    size = max(min(size, len(data.rows["train"])), 2)
    # CPU seconds of all threads, which other work disturbs less; on other devices those of the clock.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = {"fp32": float("inf"), "bf16": float("inf")}
    for rounds in range(ROUNDS + 1):
        for precision in seconds:
            settings = training.model_copy(update={"precision": precision})
            begin = clock()
            attempt_of(model, data, settings, device)(size)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elapsed = clock() - begin
            seconds[precision] = elapsed if rounds <= 1 else min(seconds[precision], elapsed)
        if seconds["bf16"] > HOPELESS * seconds["fp32"]:
            break
    return round(seconds["fp32"] / seconds["bf16"], 3)


def cache_file() -> Path:
    """Where choices are kept: `precision.json` in the user's cache of this package."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "g2d-pipeline" / CHOICE


def _key(training: TrainingSettings, model: MultimodalModel, data: Data, device: torch.device) -> str:
    """Machine, torch and model: what the times depend on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:  # the instruction sets that torch sees: a container's names of processors are not to be relied on
        capabilities = json.dumps(torch.cpu.get_capabilities(), sort_keys=True, default=str)
        name = f"{platform.machine()} {capabilities}"
    dependencies = [
        [name, device.type, torch.__version__, torch.get_num_threads()],
        [training.batch_size, training.channels_last, training.compile, training.checkpoint_activations],
        [[m, *data.shape(m)] for m in data.modalities],
        [[n, *p.shape] for n, p in model.named_parameters()],
    ]
    return hashlib.blake2b(json.dumps(dependencies).encode(), digest_size=16).hexdigest()


def _kept(key: str, measure: Callable[[], float]) -> float:
    """What `cache_file()` has for `key`, else what is measured now and put there; of processes that want
    the same at once, one measures. A home that must not be written costs only that it is measured again."""
    path = cache_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock")):
            ratios = _read(path)
            if not isinstance(ratios.get(key), int | float):
                ratios[key] = measure()
                _write(path, ratios)
            return float(ratios[key])
    except OSError as error:
        logger.warning("precision=auto: the measurement is not kept (%s)", error)
        return measure()


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of a file; {} where there is none that can be read: it is made anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
