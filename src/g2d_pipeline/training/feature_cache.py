"""A cache of the features of frozen encoders, which saves their forward pass.

A frozen encoder is one whose weights and buffers do not change by one bit (`update: skip`). In evaluation
mode its features depend on the sample alone, so they are known from the first forward over a split on until
it learns again. While training they are known where its batch norm is frozen (or it has none, and no
dropout) and its input is not augmented."""

import math
import tempfile
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from g2d_pipeline.artefacts import reserve, room_for
from g2d_pipeline.models import MultimodalModel
from g2d_pipeline.models.multimodal import autocast, preserve_norm_stats
from g2d_pipeline.training.checkpoint import Stateful
from g2d_pipeline.training.data import KEPT_MAPPED, Array, Data, Rows, chunks, gather, release, take


class FeatureCache(Stateful):
    """Modality → features `[N, D]` by row of the store, and for which splits and weights they hold.

    `modalities`: those whose features may be looked up while training (under autocast in `dtype`, as they
    would be computed). Large arrays are memory-mapped temporary files (in `folder`), so that resident memory
    stays flat. Its state is which modalities are frozen: their features follow from the weights."""

    state_names: ClassVar = ("frozen",)

    def __init__(
        self,
        model: MultimodalModel,
        data: Data,
        device: torch.device,
        modalities: Collection[str],
        folder: Path | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.data, self.device, self.dtype = model, data, device, dtype
        self.modalities = frozenset(modalities)
        self.frozen: list[str] = []
        self._folder = folder
        self._features: dict[str, Array] = {}
        # (modality, split) → the version of the weights that the features were computed with
        self._versions: dict[tuple[str, str], list[int]] = {}
        self._steps = dict.fromkeys(data.modalities, 0)

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
        """m → `[B, D_m]` of these train rows, of the frozen modalities; at first it encodes the split."""
        for m in self.frozen:
            if not self._is_valid(m, "train"):
                self._encode_train(m)
        return {m: take(self._features[m], rows).to(self.device) for m in self.frozen}

    def of_split(self, split: str) -> dict[str, Array]:
        """m → the array by row of the store, for the modalities whose features on this split are known."""
        return {m: self._features[m] for m in self.data.modalities if self._is_valid(m, split)}

    def keep(self, modality: str, rows: Rows, features: Tensor) -> None:
        """Store the features `[B, D]` of some rows; they are valid once the split is `complete`."""
        if modality not in self._features:
            self._features[modality] = empty_array((len(self.data.target), *features.shape[1:]), self._folder)
        self._features[modality][rows] = features.float().cpu().numpy()
        release(self._features[modality])

    def complete(self, modality: str, split: str) -> None:
        """All rows of the split have been stored."""
        self._versions[modality, split] = self._version(modality)

    @torch.no_grad()
    def _encode_train(self, modality: str) -> None:
        """One forward in evaluation mode, in chunks of the store's order: always the same bits."""
        encoder, rows = self.model.encoders[modality], self.data.rows["train"]
        with preserve_norm_stats(encoder, "frozen"):
            for chunk in chunks(rows, [self.data.shape(modality)], self.device):
                x = gather(self.data, chunk, self.device, [modality])[modality]
                with autocast(x, self.dtype):
                    features = encoder(x)
                self.keep(modality, chunk, features)
        self.complete(modality, "train")

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
