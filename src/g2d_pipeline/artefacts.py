"""Trained models on disk, in open formats.

A folder holds `model.safetensors`, `model.json`, `history.parquet`, `predictions.parquet` and
`outputs/*.npy`: arrays that are written and read through memory maps. torch is imported for weights alone."""

from __future__ import annotations

import json
import math
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import DataError, TrainingError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from g2d_pipeline.models import MultimodalModel


CHECKPOINTS = "checkpoints"  # the folder of a running training's checkpoints


@dataclass(frozen=True)
class Trained:
    """`info`: architecture, method, seed, selection, metrics, … as JSON; `history`: a row an epoch;
    `predictions`: long, `sample_id, split, part, target, prediction, confidence`; `outputs`: named arrays
    over n samples (`row` `[n]`: their rows of the store, ascending; `feature/<m>` `[n, D]`, `logits/<part>`
    `[n, C]`, `confidence/<part>` `[n]`)."""

    model: MultimodalModel
    info: dict[str, Any]
    history: pd.DataFrame
    predictions: pd.DataFrame
    outputs: dict[str, Tensor | npt.NDArray[Any]]


@dataclass(frozen=True)
class FailedRun:
    """In place of a model whose training failed: why, in one line; `message`: with remedies, for the log."""

    seed: int
    reason: str
    message: str = field(default="", compare=False)

    @classmethod
    def from_error(cls, seed: int, error: Exception, debug: bool = False) -> FailedRun:
        """The first line of the error's message, without the run's name. `debug`: with the traceback."""
        reason = re.sub(r"^[^:]*, seed ?\d+: ", "", next(iter(str(error).splitlines()), ""))
        message = str(error)
        if not isinstance(error, TrainingError):
            reason = f"{type(error).__name__}: {reason}".rstrip(": ")
            message = f"{reason} (--params debug=true shows where)"
        return cls(seed, reason, "".join(traceback.format_exception(error)) if debug else message)


def write_trained(folder: Path, trained: Trained) -> None:
    """Write the files of a trained model into `folder`, which exists."""
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in trained.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    for name, values in trained.outputs.items():
        file = _output_file(folder, name)
        if getattr(values, "filename", None) != file:  # not written in place already
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, np.asarray(values))
    trained.history.to_parquet(folder / "history.parquet", index=False)
    trained.predictions.to_parquet(folder / "predictions.parquet", index=False)
    (folder / "model.json").write_text(json.dumps(trained.info, indent=2, sort_keys=True) + "\n")


def new_output(folder: Path, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A memory-mapped float32 array at the path of `write_trained`, for outputs larger than memory."""
    file = _output_file(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with room_for(4 * math.prod(shape), file):
        array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        with file.open("r+b") as opened:
            reserve(opened, array.nbytes)
    return array


def reserve(file: IO[bytes], size: int) -> None:
    """Allocate `size` bytes of a file that a memory map will write: on a full disk, writing through the map
    would kill the process (SIGBUS). Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


@contextmanager
def room_for(size: int, path: Path) -> Iterator[None]:
    """An OSError inside names the file or folder, and the size."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({size / 2**20:.1f} MiB wanted)", str(path)) from None


def _output_file(folder: Path, name: str) -> Path:
    return folder.resolve() / "outputs" / f"{name.replace('/', '.')}.npy"


@dataclass(frozen=True)
class TrainedFolder:
    """A trained model on disk, read lazily. Raises DataError where a file is missing."""

    path: Path

    def _file(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise DataError(f"{file} is missing. Delete the folder {self.path} and run again.")
        return file

    @cached_property
    def info(self) -> dict[str, Any]:
        return dict(json.loads(self._file("model.json").read_text()))

    @cached_property
    def history(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._file("history.parquet"))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._file("predictions.parquet"))

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """The named arrays, memory-mapped and read-only."""
        files = sorted((self.path / "outputs").glob("*.npy")) or [self._file("outputs/row.npy")]
        return {f.stem.replace(".", "/"): np.load(f, mmap_mode="r", allow_pickle=False) for f in files}

    def model(self) -> MultimodalModel:
        """Rebuild the model with its weights, in evaluation mode."""
        from safetensors.torch import load_file

        from g2d_pipeline.models.build import build_model

        architecture = self.info["architecture"]  # its modalities are sorted by name
        ordered = {m: architecture["modalities"][m] for m in self.info["modalities"]}
        model = build_model(architecture | {"modalities": ordered})
        model.load_state_dict(load_file(self._file("model.safetensors")))
        return model.eval()


Models = dict[str, TrainedFolder | FailedRun]  # by run
