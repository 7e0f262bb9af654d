"""Checkpoint and resume: position in a run, when to save, compatible checkpoints, Ctrl-C and SIGTERM."""

import hashlib
import json
import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from g2d_pipeline.artefacts import CHECKPOINTS
from g2d_pipeline.config import RunOptions, SMPSettings, TrainingSettings
from g2d_pipeline.errors import ConfigError, InterruptedRun
from g2d_pipeline.features.windows import Windows
from g2d_pipeline.methods.base import Method
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.sharding import gathered
from g2d_pipeline.signals import Stop, stop_on_signals
from g2d_pipeline.training.checkpoint import Checkpoints, Stateful, read_file
from g2d_pipeline.training.data import Data, Rows
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.teachers import TeacherOutputs

logger = logging.getLogger(__name__)


@dataclass
class LoopState(Stateful):
    """Position in a run: `batch` batches of `epoch` (from 1) are done. `rows`: of the epoch, where a method
    chose them; `batch_size`: per device, of `devices`; `before`: samples of the epoch that were done before
    those batches on another number of devices."""

    epoch: int = 1
    batch: int = 0
    batch_size: int = 0
    rows: Rows | None = None
    devices: int = 1
    before: int = 0

    state_names: ClassVar = ("epoch", "batch", "batch_size", "rows", "devices", "before")


class Run(NamedTuple):
    """What one training is given, beside the options of its machine."""

    model: MultimodalModel
    data: Data
    method: Method
    training: TrainingSettings
    smp: SMPSettings | None
    teachers: Mapping[str, TeacherOutputs]
    seed: int
    description: str


def run_identity(run: Run, windows: Windows | None) -> dict[str, Any]:
    """Settings, data and model; only a checkpoint with the same identity can be resumed."""
    model, data, method, training, smp, _, seed, _ = run
    shapes = json.dumps([[name, list(p.shape)] for name, p in model.named_parameters()])
    samples = hashlib.blake2b(np.asarray(data.target).tobytes() + data.rows["train"].tobytes(), digest_size=8)
    return {
        "training": training.model_dump(mode="json"),
        "smp": smp and smp.model_dump(mode="json"),
        "method": f"{type(method).__module__}.{type(method).__qualname__}",
        "parameters": method.parameters.model_dump(mode="json"),
        "augment": {m: a and a.model_dump(mode="json") for m, a in data.augment.items()},
        "seed": seed,
        "shuffle": windows and windows.numbers,
        "model": hashlib.blake2b(shapes.encode(), digest_size=8).hexdigest(),
        "samples": samples.hexdigest(),
    }


@dataclass(eq=False)
class Checkpointer:
    """Saves the states of `parts` by name: every `checkpoint_minutes`, at the ends of epochs where that is
    cheap, after the last one, and when a signal asks to stop, which ends the run. Without a folder nothing is
    saved, and signals act as they always do. The parts `loop` and `history` say where the run is. Of several
    processes the first one saves; all resume from what it finds, and stop where one of them is asked to.

    Raises ConfigError where the folder holds checkpoints of another training, InterruptedRun after Ctrl-C or
    SIGTERM, DivergenceError instead of saving after a loss that is not finite."""

    options: RunOptions
    parts: Mapping[str, Any]
    identity: dict[str, Any]
    description: str
    group: Group

    def __post_init__(self) -> None:
        self.folder = self.options.folder and self.options.folder / CHECKPOINTS
        self.checkpoints: Checkpoints | None = None  # of the first process
        if self.folder is not None and self.group.is_first:
            self.checkpoints = Checkpoints(self.folder, self.options.checkpoint_minutes)
        self.sharded = self.group.world > 1 and self.options.compute.strategy == "fsdp"
        self.loop: LoopState = self.parts["loop"]
        self.stop = Stop()  # what this process is asked for, …
        self.asked: int | None = None  # … and all of them, at the latest step

    @property
    def last(self) -> Path | None:
        """Path of the newest checkpoint, None if there is none."""
        return self.checkpoints.last if self.checkpoints else None

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Load the newest checkpoint; inside, SIGINT and SIGTERM are recorded instead of raised."""
        if self.folder is None:
            yield
            return
        with stop_on_signals() as self.stop:
            self._resume(self.folder)
            yield

    def end_step(self) -> None:
        """Save if a checkpoint is due; call it after each optimizer step."""
        self._save_if(self.checkpoints is not None and self.checkpoints.due())

    def end_epoch(self, ended: bool) -> None:
        """Save if due at the end of an epoch; `ended`: of the last one."""
        self._save_if(ended or (self.checkpoints is not None and self.checkpoints.due_at_epoch_end()))

    def _save_if(self, due: bool) -> None:
        """Save where it is `due` in the first process, or any process has got a signal."""
        if self.folder is None:
            return
        self.asked = self.stop.number
        if self.group.world > 1:  # a signal that arrives meanwhile counts at the next step, as on the others
            signals = (signal.SIGINT, signal.SIGTERM)
            requests = torch.tensor([due, *(self.asked == s for s in signals)], dtype=torch.int)
            first_due, *counts = self.group.sum(requests).tolist()
            due = bool(first_due)
            self.asked = next((int(s) for s, count in zip(signals, counts, strict=True) if count), None)
        if due or self.asked is not None:
            self._save()

    def _resume(self, folder: Path) -> None:
        saved = self.checkpoints.newest() if self.checkpoints else None
        name = self.group.agree(self.last and self.last.name)
        if name is not None and self.checkpoints is None:
            saved = read_file(folder / name)
        if saved is None:
            return
        if different := [key for key, value in self.identity.items() if saved["identity"].get(key) != value]:
            raise ConfigError(
                f"{self.description}: {folder} holds checkpoints of another training (another "
                f"{', another '.join(different)}). Give another folder, or delete this one to start anew."
            )
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        logger.info("%s: goes on from epoch %d, batch %d", self.description, self.loop.epoch, self.loop.batch)

    def _save(self) -> None:
        self.parts["history"].check()
        epoch, batch = self.loop.epoch, self.loop.batch
        parts: dict[str, Any] = {}
        if self.checkpoints or self.sharded:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            parts = gathered(states, keep=self.group.is_first) if self.sharded else states
        if self.checkpoints:
            self.checkpoints.save({"identity": self.identity} | parts, epoch, batch)
        if self.asked is not None:
            saved = self.group.agree(self.last is not None)  # the other processes wait for it
            outcome = "saved; the same command goes on from there" if saved else "but nothing could be saved"
            number = signal.Signals(self.asked)
            name = "Ctrl-C" if number == signal.SIGINT else number.name
            message = f"{self.description}: stopped by {name} at epoch {epoch}, batch {batch}, {outcome}."
            raise InterruptedRun(message, number)
