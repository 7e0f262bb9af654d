"""A peer's program beside ours: its `train` and `evaluate` functions, unmodified, from a checkout given by
path.

The names are those of the authors' program of G²D: `teacher.train` and `student.train(model, device, loader,
criterion, optimizer, epoch)`, `utils.utils.evaluate(model, device, loader, criterion)`, the class
`models.basic_model.AVClassifier(role, modality, fusion_method, dataset)`, and the module `config` that they
read their settings from. Its code is not part of this project; nothing is written into the checkout."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

NAMES = {
    "train_teacher": ("teacher", "train"),
    "train_student": ("student", "train"),
    "evaluate": ("utils.utils", "evaluate"),
    "initialise": ("utils.utils", "weight_init"),
    "model": ("models.basic_model", "AVClassifier"),
}
# Read by `main` alone, where it decodes files; their own imports (librosa, OpenCV) may be missing here.
DATASETS = {"CremadDataset": "CremadDataset", "VGGSoundDataset": "VGGSound", "AVMNIST": "AVMNIST"}


@dataclass(frozen=True)
class Peer:
    config: Any
    train_teacher: Callable[..., Any]
    train_student: Callable[..., Any]
    evaluate: Callable[..., Any]
    initialise: Callable[..., Any]
    model: Callable[..., Any]


def load_peer(checkout: Path) -> Peer:
    """Import the peer's functions. Exits with a message where the folder lacks a module or a function."""
    modules = ["config", *dict.fromkeys(module for module, _ in NAMES.values())]
    files = [checkout / f"{module.replace('.', '/')}.py" for module in modules]
    if missing := [str(file) for file in files if not file.is_file()]:
        remedy = "Clone the authors' repository and give its folder."
        count = f"{len(missing)} of {len(files)} files are missing"
        sys.exit(f"--peer {checkout}: {count}: {', '.join(missing)}. {remedy}")
    stand_ins = {"dataset": ModuleType("dataset")}
    for module, name in DATASETS.items():
        stand_ins[f"dataset.{module}"] = ModuleType(module)
        setattr(stand_ins[f"dataset.{module}"], name, None)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(checkout))
    # `config` makes folders of its author's machine when it is imported, and prints its settings.
    silent = contextlib.redirect_stdout(io.StringIO())
    with silent, patch("os.makedirs"), patch.object(sys, "dont_write_bytecode", True):
        imported = {module: import_module(module) for module in modules}
    lacks = [f"{module}.{name}" for module, name in NAMES.values() if not hasattr(imported[module], name)]
    if lacks:
        sys.exit(f"--peer {checkout}: it lacks {', '.join(lacks)}")
    return Peer(
        imported["config"], **{key: getattr(imported[module], name) for key, (module, name) in NAMES.items()}
    )
