"""The data of a training run: arrays by modality, a target, rows of each split; batches from them."""

from __future__ import annotations

import copyreg
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from g2d_pipeline.config import SPLITS, AugmentSettings, TargetSettings
from g2d_pipeline.features.files import Shards
from g2d_pipeline.features.store import FeatureStore
from g2d_pipeline.features.windows import Windows, windows_of
from g2d_pipeline.files import release_pages
from g2d_pipeline.models import Classification, Task, regression_task
from g2d_pipeline.models.multimodal import samples_at_once
from g2d_pipeline.remote import attach, fetch
from g2d_pipeline.training.augment import changes_anything, without_chance

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]  # of the store
KEPT_MAPPED = 32 * 2**20  # bytes of a memory-mapped file that may stay resident
ROWS_MAPPED = 16  # rows of a larger one that are read before its pages are let go


@dataclass(frozen=True)
class Data:
    """Everything a run is trained and evaluated on.

    `arrays`: modality → `[N, …]` (memory-mapped or in memory), in configuration order; `target` `[N]` as
    stored (class indices or values in the target's own unit); `rows`: split → row numbers; `normalisers`:
    modality → {scale, mean, std} or None where the array is used as it is; `augment`: modality → random
    changes of training batches; `vocabulary`: modality of token ids → how many different ones there are."""

    arrays: dict[str, Array]
    target: Array
    rows: dict[str, Rows]
    task: Task
    normalisers: dict[str, dict[str, Any] | None]
    sample_ids: npt.NDArray[np.str_]
    augment: dict[str, AugmentSettings | None] = field(default_factory=dict)  # none: deterministic
    vocabulary: dict[str, int] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def shape(self, modality: str) -> tuple[int, ...]:
        """The shape of one sample of a modality as the encoder gets it."""
        stored = torch.empty((1, *self.arrays[modality].shape[1:]), device="meta")
        return tuple(without_chance(stored, self.augment.get(modality)).shape[1:])

    def only(self, *modalities: str) -> Data:
        """The same samples with these modalities alone."""
        return replace(
            self,
            arrays={m: self.arrays[m] for m in modalities},
            normalisers={m: self.normalisers[m] for m in modalities},
            augment={m: self.augment.get(m) for m in modalities},
            vocabulary={m: n for m, n in self.vocabulary.items() if m in modalities},
        )

    def augmented(self, modality: str) -> bool:
        """Whether training batches of a modality are changed at random."""
        return changes_anything(self.augment.get(modality))

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, Array | Tensor],
        target: Array | Tensor | Sequence[Any],
        split: Sequence[str] | npt.NDArray[np.str_],
        task: str = "classification",
        class_names: Sequence[str] | None = None,
        output: Literal["auto", "sigmoid", "identity"] = "auto",
        augment: Mapping[str, AugmentSettings | None] | None = None,
        vocabulary: Mapping[str, int] | None = None,
    ) -> Data:
        """From arrays in memory: `inputs` m → `[N, …]`, `target` `[N]`, `split` `[N]` of train/val/test.

        Class names default to the sorted distinct targets. Raises ValueError where lengths differ, a split is
        empty or misspelt, a token id outside its vocabulary, a regression target constant or not finite."""
        labels, names = np.asarray(target), np.asarray(split)
        arrays = {m: np.asanyarray(x) for m, x in inputs.items()}  # memory maps stay so
        for what, length in [("split", len(names)), *((m, len(a)) for m, a in arrays.items())]:
            if length != len(labels):
                raise ValueError(f"{what} has {length} rows, the target has {len(labels)}")
        for m, entries in (vocabulary or {}).items():
            if arrays[m].dtype.kind not in "iu" or arrays[m].min() < 0 or arrays[m].max() >= entries:
                raise ValueError(f"{m} does not hold token ids, integers from 0 to {entries - 1}")
        if unknown := sorted(set(names.tolist()) - set(SPLITS)):
            raise ValueError(f"split holds {unknown}; allowed are {list(SPLITS)}")
        rows: dict[str, Rows] = {s: np.flatnonzero(names == s) for s in SPLITS}
        if empty := [s for s in SPLITS if not len(rows[s])]:
            raise ValueError(f"no sample is in split {empty}")
        built: Task
        if task == "classification":
            if class_names is None:
                distinct, labels = np.unique(labels, return_inverse=True)
                class_names = [str(c) for c in distinct]
            built = Classification(tuple(class_names))
        else:
            labels = labels.astype(np.float64)
            if len(bad := np.flatnonzero(~np.isfinite(labels))):
                raise ValueError(f"the target is not finite in rows {bad[:5].tolist()}")
            train = labels[rows["train"]]
            statistics = {name: float(getattr(train, name)()) for name in ("min", "max", "mean", "std")}
            built = regression_task(statistics, output)
        ids, none = np.array([str(i) for i in range(len(labels))]), dict.fromkeys(arrays)
        return cls(arrays, labels, rows, built, none, ids, dict(augment or {}), dict(vocabulary or {}))

    @classmethod
    def from_store(
        cls,
        store: FeatureStore,
        target: TargetSettings,
        augment: Mapping[str, AugmentSettings | None] | None = None,
    ) -> Data:
        """From a feature store. Arrays stay memory-mapped. Raises ConfigError where it is on a URL and
        `storage.cache_gb` is too small to train from it."""
        meta = store.meta
        windows_of(store.arrays)
        task: Task
        if meta["task"] == "classification":
            task = Classification(tuple(meta["class_names"]))
        else:
            task = regression_task(meta["target"], target.output)
        return cls(
            dict(store.arrays),
            np.asarray(store.targets()),
            {s: store.rows(s) for s in SPLITS},
            task,
            {m: meta["modalities"][m]["normaliser"] for m in store.modalities},
            store.index["sample_id"].to_numpy(dtype=str),
            dict(augment or {}),
            {m: about["vocabulary"] for m, about in meta["modalities"].items() if "vocabulary" in about},
        )


def _by_reference(array: Array) -> Any:
    """How a memory map is sent to another process: as its file, which is mapped there; a part as an array."""
    mapped: Any = array
    if not isinstance(mapped.base, mmap.mmap):
        return np.asarray(array).__reduce__()
    return map_file, (mapped.filename, mapped.dtype, mapped.offset, mapped.shape)


def map_file(file: Any, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Array:
    """A file memory-mapped read-only, fetched first where it is behind a URL. Raises OSError, DataError."""
    attach(Path(file).parent)
    fetch([file])
    return np.memmap(file, dtype, "r", offset, shape)


copyreg.pickle(np.memmap, _by_reference)


def chunks(
    rows: Rows, shapes: Iterable[Sequence[int]], device: torch.device, most: int | None = None
) -> Iterator[Rows]:
    """Cut rows into what one forward without gradient takes, in order; `shapes`: see `samples_at_once`. Of
    several processes each cuts its rows into as many as the one with `most` of them."""
    size = samples_at_once(shapes, device)
    if most is not None:
        yield from np.array_split(rows, math.ceil(most / size))
        return
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def epoch_rows(rows: Rows, seed: int, epoch: int, windows: Windows | None = None) -> Rows:
    """The rows in the order of this epoch: a stream of its own, a function of (seed, epoch) and, where the
    store is larger than its cache, of its windows."""
    generator = np.random.default_rng([seed, 1, epoch])
    shuffled = generator.permutation(rows)
    return shuffled if windows is None else windows.arrange(shuffled, generator)


def batches_of(rows: Rows, size: int, least: int = 2) -> Iterator[Rows]:
    """Cut into batches of `size`. A last one of fewer than `least` samples joins the one before: batch norm
    needs two."""
    ends = list(range(size, len(rows), size))
    if ends and len(rows) - ends[-1] < least:
        ends.pop()
    yield from np.split(rows, ends) if len(rows) else ()


def take(array: Array | Shards | Tensor, rows: Rows) -> Tensor:
    """Rows `[B, …]` of an array, in its dtype, by one indexed read, or a few for a large memory-mapped file:
    its pages are let go at once, as the system may map 2 MiB around each row that is read."""
    if isinstance(array, Tensor):
        return array[torch.from_numpy(rows)]
    if isinstance(array, Shards):
        return torch.from_numpy(array.gather(rows, ROWS_MAPPED if array.nbytes > KEPT_MAPPED else None))
    if getattr(array, "_mmap", None) is None or array.nbytes <= KEPT_MAPPED:
        return torch.from_numpy(np.asarray(array[rows]))
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start in range(0, len(rows), ROWS_MAPPED):
        some = slice(start, start + ROWS_MAPPED)
        np.take(array, rows[some], axis=0, out=taken[some], mode="clip")  # with "raise" it would copy twice
        release(array)
    return torch.from_numpy(taken)


def release(array: Array) -> None:
    """As `files.release_pages`, of what is larger than `KEPT_MAPPED`."""
    release_pages(array, KEPT_MAPPED)


def gather(
    data: Data, rows: Rows, device: torch.device, modalities: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The inputs of these rows without random changes: m → `[B, …]`, as stored, one read a modality."""
    names = data.modalities if modalities is None else modalities
    inputs = {m: without_chance(take(data.arrays[m], rows), data.augment.get(m)) for m in names}
    return {m: x.to(device, non_blocking=True) for m, x in inputs.items()}
