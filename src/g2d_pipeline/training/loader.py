"""The data loader: from store rows to batches on the device, augmented, with the teachers' outputs and the
cached features of frozen encoders."""

import math
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.artefacts import reserve, room_for
from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.features.windows import Windows, reading_ahead
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import MultimodalModel, Output
from g2d_pipeline.models.multimodal import autocast, preserve_norm_stats
from g2d_pipeline.training.augment import augment, generator
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.data import KEPT_MAPPED, Array, Data, Rows, chunks, gather, release, take
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.optimisation import build_optimizer
from g2d_pipeline.training.teachers import TeacherOutputs, run_teacher


@dataclass(eq=False)
class FeatureCache(Stateful):
    """Modality → features `[N, D]` by row of the store, and for which splits and weights they hold.

    `modalities`: those whose features may be looked up while training (under autocast in `dtype`, as they
    would be computed). Large arrays are memory-mapped temporary files (in `folder`), so that resident memory
    stays flat. Its state is which modalities are frozen: their features follow from the weights."""

    model: MultimodalModel
    data: Data
    device: torch.device
    modalities: Collection[str]
    folder: Path | None = None
    dtype: torch.dtype | None = None

    state_names: ClassVar = ("frozen",)

    def __post_init__(self) -> None:
        self.frozen: list[str] = []
        self._features: dict[str, Array] = {}
        self._versions: dict[tuple[str, str], list[int]] = {}  # (modality, split) → of the weights then
        self._steps = dict.fromkeys(self.data.modalities, 0)

    def start_epoch(self, frozen: Collection[str]) -> None:
        """`frozen`: the modalities that the schedule expects not to learn in this epoch."""
        self.frozen = [m for m in self.data.modalities if m in frozen and m in self.modalities]

    def unfreeze(self, modalities: Collection[str]) -> None:
        """These modalities learn after all."""
        self.frozen = [m for m in self.frozen if m not in modalities]

    def mark_updated(self, modalities: Iterable[str]) -> None:
        """The optimizer has updated these encoders (fused steps do not count as writes to a tensor)."""
        for m in modalities:
            self._steps[m] += 1

    def train_features(self, rows: Rows) -> dict[str, Tensor]:
        """m → `[B, D_m]` of these train rows, of the frozen modalities; at first it encodes the split, in
        chunks of the store's order: always the same bits."""
        for m in [m for m in self.frozen if not self._is_valid(m, "train")]:
            encoder, split = self.model.encoders[m], self.data.rows["train"]
            with torch.no_grad(), preserve_norm_stats(encoder, "frozen"):
                for chunk in chunks(split, [self.data.shape(m)], self.device):
                    x = gather(self.data, chunk, self.device, [m])[m]
                    with autocast(x, self.dtype):
                        features = encoder(x)
                    self.keep(m, chunk, features)
            self.complete(m, "train")
        return {m: take(self._features[m], rows).to(self.device) for m in self.frozen}

    def of_split(self, split: str) -> dict[str, Array]:
        """m → the array by row of the store, for the modalities whose features on this split are known."""
        return {m: self._features[m] for m in self.data.modalities if self._is_valid(m, split)}

    def keep(self, modality: str, rows: Rows, features: Tensor) -> None:
        """Store the features `[B, D]` of some rows; they are valid once the split is `complete`."""
        if modality not in self._features:
            self._features[modality] = empty_array((len(self.data.target), *features.shape[1:]), self.folder)
        self._features[modality][rows] = features.float().cpu().numpy()
        release(self._features[modality])

    def complete(self, modality: str, split: str) -> None:
        """All rows of the split have been stored."""
        self._versions[modality, split] = self._version(modality)

    def _is_valid(self, modality: str, split: str) -> bool:
        return self._versions.get((modality, split)) == self._version(modality)

    def _version(self, modality: str) -> list[int]:
        """Changes with every step of the optimizer and (torch counts) other write to a weight or buffer."""
        encoder = self.model.encoders[modality]
        return [self._steps[modality]] + [t._version for t in chain(encoder.parameters(), encoder.buffers())]


def empty_array(shape: tuple[int, ...], folder: Path | None) -> Array:
    """A float32 array of zeros: in memory where it is small, else a memory-mapped file without a name.

    Raises OSError where the disk has no room for it."""
    size, directory = 4 * math.prod(shape), folder or Path(tempfile.gettempdir())
    if size <= KEPT_MAPPED:
        return np.zeros(shape, np.float32)
    with room_for(size, directory), tempfile.TemporaryFile(dir=directory) as file:
        reserve(file, size)
        return np.memmap(file, np.float32, "w+", shape=shape)


# ----------------------------------------------------------------------------------------------------- loader
Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # batches that each thread prefetches


@dataclass(eq=False)
class Loader:
    """Yields the batches of a run, of which each process of the `group` gets its part; they do not depend on
    the number of `workers` (prefetching threads). `windows`: see `features.windows`.

    `target` `[N]`: encoded; `online`: the teachers that are run on the batch instead of looked up."""

    data: Data
    target: Tensor
    teachers: Mapping[str, TeacherOutputs]
    online: Collection[str]
    cache: FeatureCache
    device: torch.device
    _: KW_ONLY
    seed: int
    workers: int = 0
    group: Group = field(default_factory=Group)
    windows: Windows | None = None

    def __post_init__(self) -> None:
        models = {m: self.teachers[m].model for m in self.online}
        self.models = {m: model.to(self.device).eval() for m, model in models.items() if model is not None}

    def epoch(self, batches: Sequence[Rows], epoch: int, start: int, teach: bool) -> Iterator[Batch]:
        """This process's shares of the `batches` of an epoch from number `start` (from 0) on; `teach`: with
        the teachers' outputs."""
        read_now = [m for m in self.data.modalities if m not in self.cache.frozen]
        on_cpu = self.device.type == "cpu"

        def read(numbered: tuple[int, Rows]) -> dict[str, Tensor]:
            number, rows = numbered
            share = rows[self.group.part(len(rows))]
            inputs = {m: take(self.data.arrays[m], share) for m in read_now}
            if on_cpu:
                return self._augment(inputs, epoch, number, len(rows))
            return {m: x.pin_memory() for m, x in inputs.items()} if self.device.type == "cuda" else inputs

        items = list(enumerate(batches))[start:]
        with reading_ahead(self.windows, [rows for _, rows in items], read_now) as reach:
            reach(0)
            for (number, rows), inputs in ahead(read, items, self.workers):
                reach(number - start)
                moved = {m: x.to(self.device, non_blocking=True) for m, x in inputs.items()}
                changed = moved if on_cpu else self._augment(moved, epoch, number, len(rows))
                yield self._batch(rows[self.group.part(len(rows))], changed, teach)

    def unfreeze(self, batch: Batch, active: Collection[str]) -> Batch:
        """The batch with inputs in place of cached features for the `active` modalities."""
        modalities = [m for m in active if m in batch.features]
        if not modalities:
            return batch
        self.cache.unfreeze(modalities)
        rows = batch.index.numpy()
        inputs = {m: take(self.data.arrays[m], rows).to(self.device) for m in modalities}
        features = {m: f for m, f in batch.features.items() if m not in inputs}
        return replace(batch, inputs=batch.inputs | inputs, features=features)

    def _augment(self, inputs: dict[str, Tensor], epoch: int, number: int, total: int) -> dict[str, Tensor]:
        """Augment each input from a random stream of its own, as in the global batch of `total` samples that
        they are a part of. On the CPU this runs in the prefetching threads."""
        changed, place = dict(inputs), (self.group.part(total).start, total)
        for position, m in enumerate(self.data.modalities):
            settings = self.data.augment.get(m)
            if m in inputs and settings is not None and self.data.augmented(m):
                stream = generator(self.seed, position, epoch, number)
                changed[m] = augment(inputs[m], settings, self.data.normalisers[m], stream, place)
        return changed

    def _batch(self, rows: Rows, inputs: dict[str, Tensor], teach: bool) -> Batch:
        index = torch.from_numpy(rows)
        target = self.target[index].to(self.device, non_blocking=True)
        views = {}
        for m, teacher in self.teachers.items() if teach else ():
            if m in self.models:
                views[m] = run_teacher(self.models[m], m, inputs[m], target, self.data.task)
            else:
                views[m] = teacher.view(rows, self.device)
        return Batch(index, inputs, target, views, self.cache.train_features(rows))


def ahead(
    read: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, read(item)) in order; `workers` threads prefetch."""
    if not workers:
        yield from ((item, read(item)) for item in items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
        rest = iter(items)
        waiting = deque((item, pool.submit(read, item)) for item in islice(rest, AHEAD * workers))
        try:
            while waiting:
                item, future = waiting.popleft()
                result = future.result()
                waiting.extend((following, pool.submit(read, following)) for following in islice(rest, 1))
                yield item, result
        finally:
            for _, future in waiting:
                future.cancel()


def attach_data_access(
    state: State, data: Data, target: Tensor, training: TrainingSettings, device: torch.device
) -> None:
    """Set the callables of the state that give a method access to train and val samples (never test)."""

    def rows_of(split: str) -> Rows:
        if split not in ("train", "val"):
            raise ValueError(f"a method may read train and val, not {split!r}")
        return data.rows[split]

    def batch(rows: Rows) -> Batch:
        index = torch.from_numpy(rows)
        return Batch(index, gather(data, rows, device), target[index].to(device))

    @torch.no_grad()
    def evaluate(rows: Rows) -> Iterator[tuple[Batch, Output]]:
        for part in map(batch, chunks(rows, map(data.shape, data.modalities), device)):
            with preserve_norm_stats(state.model, "frozen"):
                output = state.model(part.inputs)
            yield part, output

    state.rows, state.batch, state.evaluate = rows_of, batch, evaluate
    state.targets = lambda rows: target[torch.from_numpy(rows)]
    state.new_optimizer = lambda parameters: build_optimizer(
        training.optimizer, [{"params": list(parameters)}], device
    )
