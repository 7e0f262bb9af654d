"""`precision: auto`: bf16 where a step of this model is faster with it, measured once on a machine."""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.files import atomic_write
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.training.capacity import attempt_of
from g2d_pipeline.training.data import Data

logger = logging.getLogger(__name__)

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
