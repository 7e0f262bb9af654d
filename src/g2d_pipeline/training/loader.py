"""The data loader: from store rows to batches on the device, augmented, with the teachers' outputs."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from g2d_pipeline.config import TrainingSettings
from g2d_pipeline.features.windows import Windows, reading_ahead
from g2d_pipeline.methods.base import Batch, State
from g2d_pipeline.models import Output
from g2d_pipeline.models.multimodal import preserve_norm_stats
from g2d_pipeline.training.augment import augment, generator
from g2d_pipeline.training.data import Data, Rows, chunks, gather, take
from g2d_pipeline.training.distributed import Group
from g2d_pipeline.training.feature_cache import FeatureCache
from g2d_pipeline.training.optimisation import build_optimizer
from g2d_pipeline.training.teachers import TeacherOutputs, run_teacher

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
        waiting: deque[tuple[Item, Future[Result]]] = deque(
            (item, pool.submit(read, item)) for item in islice(rest, AHEAD * workers)
        )
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

    def evaluate(rows: Rows) -> Iterator[tuple[Batch, Output]]:
        for chunk in chunks(rows, map(data.shape, data.modalities), device):
            part = batch(chunk)
            with torch.no_grad(), preserve_norm_stats(state.model, "frozen"):
                output = state.model(part.inputs)
            yield part, output

    state.rows, state.batch, state.evaluate = rows_of, batch, evaluate
    state.targets = lambda rows: target[torch.from_numpy(rows)]
    state.new_optimizer = lambda parameters: build_optimizer(
        training.optimizer, [{"params": list(parameters)}], device
    )
