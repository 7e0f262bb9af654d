"""What the benchmarks share: made-up data in the recipes' shapes, one run of ours and one of the reference,
results."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from reference import Rows, train_reference
from torch import Tensor, nn

from g2d_pipeline.config import (
    MLP,
    SGD,
    AudioAugment,
    AugmentSettings,
    ImageAugment,
    MobileNetV2,
    ResNet18,
    SMPSettings,
    Strict,
    TrainingSettings,
)
from g2d_pipeline.methods.base import State
from g2d_pipeline.methods.g2d import G2D
from g2d_pipeline.models import MultimodalModel, Regression
from g2d_pipeline.models.build import build_model
from g2d_pipeline.training import Data, TeacherOutputs, fit
from g2d_pipeline.training.data import epoch_rows


@dataclass(frozen=True)
class Modality:
    """`shape` of one sample; `frames` of a video are stored one after the other in its channels."""

    shape: tuple[int, ...]
    encoder: Strict
    augment: AugmentSettings | None = None
    frames: int = 1


@dataclass(frozen=True)
class Recipe:
    """`prioritised`: the less confident modality, which learns first; `classes` 1: a regression."""

    name: str
    modalities: dict[str, Modality]
    prioritised: str
    classes: int
    norm: Literal["batch", "frozen"] = "batch"  # `suppressed_norm` as shipped


CROP = ImageAugment(crop=[0.08, 1.0], flip=0.5)
WINDOW = AudioAugment(
    time_masks=1
)  # stands for the published random window of 5 s: any change makes the teacher run
RECIPES = [
    Recipe(
        "CREMA-D",
        {"audio": Modality((1, 257, 188), ResNet18()), "visual": Modality((3, 224, 224), ResNet18(), CROP)},
        prioritised="visual",
        classes=6,
    ),
    Recipe(
        "AV-MNIST",
        {"audio": Modality((1, 112, 112), ResNet18()), "image": Modality((1, 28, 28), ResNet18())},
        prioritised="audio",
        classes=10,
    ),
    Recipe(
        "VGGSound",
        {
            "audio": Modality((1, 129, 626), ResNet18(), WINDOW),
            "visual": Modality((9, 224, 224), ResNet18(), CROP, frames=3),
        },
        prioritised="visual",
        classes=309,
    ),
    Recipe(
        "MIS-ME",
        {"tabular": Modality((8,), MLP()), "image": Modality((3, 224, 224), MobileNetV2())},
        prioritised="tabular",
        classes=1,
        norm="frozen",
    ),
]


class Frames(nn.Module):
    """The trunk on every frame of a video, folded into the batch; their mean: `[B, T·C, H, W]` → `[B, D]`."""

    def __init__(self, trunk: nn.Module, frames: int) -> None:
        super().__init__()
        self.trunk, self.frames = trunk, frames

    def forward(self, x: Tensor) -> Tensor:
        folded = x.reshape(x.shape[0] * self.frames, -1, *x.shape[2:])
        mean: Tensor = self.trunk(folded).unflatten(0, (-1, self.frames)).mean(dim=1)
        return mean


def made_up(recipe: Recipe, n: int) -> Data:
    """`n` training samples of noise; the targets are such that a teacher's bias alone decides how sure it
    is."""
    rng = np.random.default_rng(0)
    inputs = {
        m: rng.normal(size=(n + 2, *of.shape)).astype(np.float32) for m, of in recipe.modalities.items()
    }
    split = ["train"] * n + ["val", "test"]
    changes = {m: of.augment for m, of in recipe.modalities.items() if of.augment is not None}
    augment: dict[str, Any] = {"augment": changes} if changes else {}
    if recipe.classes > 1:
        names = [str(c) for c in range(recipe.classes)]
        return Data.from_arrays(inputs, np.zeros(n + 2, np.int64), split, class_names=names, **augment)
    return Data.from_arrays(inputs, np.arange(n + 2) == 0, split, task="regression", **augment)


def model_of(recipe: Recipe, data: Data, *modalities: str) -> MultimodalModel:
    """A model of these modalities, or of all of them."""
    architecture: dict[str, Any] = {
        m: {
            "encoder": recipe.modalities[m].encoder.model_dump(),
            "shape": [data.shape(m)[0] // recipe.modalities[m].frames, *data.shape(m)[1:]],
            "normaliser": None,
        }
        for m in modalities or recipe.modalities
    }
    model = build_model({"modalities": architecture, "fusion": "late", "task": data.task.to_json()})
    for m in model.modalities:
        if (frames := recipe.modalities[m].frames) > 1:
            encoder: Any = model.encoders[m]
            encoder.trunk = Frames(encoder.trunk, frames)
    return model


def teacher_of(recipe: Recipe, data: Data, modality: str, sure: bool) -> MultimodalModel:
    """An untrained encoder and a head that says the same of every sample: the truth, or nothing."""
    teacher = model_of(recipe, data, modality)
    head: Any = teacher.fusion.heads[modality]  # type: ignore[index]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if sure:  # class 0, or a target close to 0
        head.bias.data[0] = 6.0 if recipe.classes > 1 else -6.0
    return teacher.eval()


@dataclass(frozen=True)
class Costs:
    """What one training costs: an epoch in which one modality learns, a joint epoch, and what is done
    `once`."""

    phase: float
    joint: float
    once: float = 0.0

    def mean(self, epochs: int = 300) -> float:
        """An epoch on average, half of them with one modality alone, half of them jointly."""
        return (self.phase + self.joint) / 2 + self.once / epochs


Meter = Callable[[], float]


def ours(
    recipe: Recipe,
    data: Data,
    alone: str,
    norm: Literal["batch", "frozen"],
    batch_size: int,
    meter: Meter,
    teacher_view: Literal["augmented", "clean"] = "augmented",
    drawn: Literal["multimodal", "modality"] = "multimodal",
) -> Costs:
    """Three epochs in which `alone` learns and a joint one, by `training.fit`; validation is not counted.

    The third counts: who rests is known from the first epoch on, or from the second where the ranking depends
    on augmented batches, and its features are computed then, once in a phase."""
    teachers = {}
    for m, of in recipe.modalities.items():
        teacher = teacher_of(recipe, data, m, sure=m != alone)
        n, width = len(data.target), int(teacher.encoders[m].width)  # type: ignore[arg-type]
        logits = teacher.fusion(
            {m: torch.zeros(n, width)}
        ).detach()  # its features do not matter: its head reads none
        confidence = data.task.confidence(logits, data.task.encode(torch.as_tensor(data.target)))
        live = {"model": teacher} if of.augment is not None else {}
        teachers[m] = TeacherOutputs(torch.zeros(n, width), logits, confidence, **live)
    model = model_of(recipe, data)
    starts: list[float] = []
    ends: list[float] = []

    class Watched(G2D):
        def on_epoch_start(self, state: State) -> None:
            starts.append(meter())

        def on_epoch_end(self, state: State) -> None:
            ends.append(meter())

    begin = meter()
    fitted = fit(
        model,
        data,
        Watched(G2D.Parameters(logits=drawn)),
        training=TrainingSettings(
            epochs=4, batch_size=batch_size, optimizer=SGD(), selection="last", teacher_view=teacher_view
        ),
        smp=SMPSettings(tau=[3], ranking="batch", update="skip", suppressed_norm=norm),
        teachers=teachers,
        device="cpu",
        progress=False,
    )
    assert fitted.history["learning"].tolist()[:3] == [alone] * 3, fitted.history["learning"]
    first, second, third, joint = (end - start for start, end in zip(starts, ends, strict=True))
    return Costs(phase=third, joint=joint, once=starts[0] - begin + first + second - 2 * third)


def reference(recipe: Recipe, data: Data, batch_size: int, meter: Meter) -> float:
    """An epoch the published way, in PyTorch's default memory format; the second of two, when everything is
    warm.

    It costs the same in every phase, whichever modality learns, but for the multiplication by zero (not
    counted here)."""
    teachers = {m: teacher_of(recipe, data, m, sure=m != recipe.prioritised) for m in recipe.modalities}
    model = model_of(recipe, data)
    for each in (model, *teachers.values()):
        each.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    starts: list[float] = []

    def order(epoch: int) -> Sequence[int]:
        starts.append(meter())
        rows: list[int] = epoch_rows(data.rows["train"], 0, epoch).tolist()
        return rows

    train_reference(
        model,
        Rows(data.arrays, data.task.encode(torch.as_tensor(data.target))),
        teachers,
        phases=[1, 1],
        order=order,
        batch_size=batch_size,
        spread=data.task.spread / data.task.scale if isinstance(data.task, Regression) else None,
    )
    return meter() - starts[-1]


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of the ratios of several rounds."""
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on, without the name of the host."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names, flags = ([s for s in lines if s.startswith(key)] for key in ("model name", "flags"))
    fast = {"fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}
    return {
        "cpu": names[0].split(":")[1].strip() if names else platform.processor() or platform.machine(),
        "cpu_flags": sorted(fast.intersection(*(s.split() for s in flags[:1]))) if flags else None,
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "numpy", "g2d-pipeline")},
    }


def write_result(name: str, rows: list[dict[str, Any]], **about: Any) -> None:
    """Write benchmarks/results/<name>.json and say where."""
    target = Path(__file__).parent / "results" / f"{name}.json"
    result = {"command": f"python benchmarks/{name}.py", "machine": machine(), **about, "rows": rows}
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"Written: {target.relative_to(Path(__file__).parents[1])}")
