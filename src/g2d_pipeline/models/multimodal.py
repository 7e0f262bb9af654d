"""The model: an encoder per modality and a fusion. A unimodal teacher is one with late fusion."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from g2d_pipeline.models.encoders import Encoder
from g2d_pipeline.models.fusions.base import Fusion

CHUNK = 256  # samples of one forward without gradient, …
SMALLEST_CHUNK, CHUNK_BYTES = 8, 4 * 2**20  # … and on the CPU: not fewer than, of not more bytes than


@dataclass(frozen=True)
class Output:
    """`features`: modality → `[B, D_m]`, in configuration order; `logits`: `[B, C]`."""

    features: dict[str, Tensor]
    logits: Tensor


class MultimodalModel(nn.Module):
    """`forward(inputs: modality → [B, …]) -> Output`. Modality order is that of `encoders`.

    `exchange`: runs the encoders side by side and lets them tell each other what they see (`exchange.py`).
    `architecture`: what `build_model` has built it from."""

    architecture: dict[str, Any] | None = None

    def __init__(
        self, encoders: dict[str, Encoder], fusion: Fusion, exchange: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.exchange = exchange

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        suppressed: Collection[str] = (),
        suppressed_norm: str = "batch",
        features: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        kappa: Mapping[str, float] | None = None,
    ) -> Output:
        """Encode and fuse.

        Encoders named in `suppressed` run without gradient; `suppressed_norm` says how (see
        `preserve_norm_stats`). `features`: m → `[B, D_m]` that are known already: those encoders do not run.
        `dtype`: encoders run under autocast in it; features, fusion and logits are float32 always. `kappa`: m
        → what the gradient that reaches an encoder is multiplied by (left out: 1). With an exchange every
        encoder runs, and runs with gradient: ValueError where one should not."""
        known, encoded = features or {}, dict[str, Tensor]()
        if self.exchange is not None:
            if known or suppressed:
                raise ValueError("encoders with an exchange run together: none can rest or be suppressed")
            with autocast(next(iter(inputs.values())), dtype):
                encoded = {m: f.float() for m, f in self.exchange(self.encoders, inputs).items()}
            return Output(encoded, self.fusion(encoded))
        for m, encoder in self.encoders.items():
            if m in known:
                encoded[m] = known[m]
                continue
            with autocast(inputs[m], dtype):
                if m in suppressed:
                    with torch.no_grad(), preserve_norm_stats(encoder, suppressed_norm):
                        encoded[m] = encoder(inputs[m]).float()
                else:
                    encoded[m] = encoder(inputs[m]).float()
            if (factor := (kappa or {}).get(m, 1.0)) not in (0.0, 1.0):
                encoded[m] = scale_gradient(encoded[m], factor)
        return Output(encoded, self.fusion(encoded))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from one modality alone, as the fusion defines it."""
        return self.fusion.unimodal_logits(features, modality)


def samples_at_once(shapes: Iterable[Sequence[int]], device: torch.device) -> int:
    """How many samples one forward without gradient takes; `shapes`: of what each encoder that runs gets.

    `CHUNK`; on the CPU fewer of large ones, whose maps would leave its caches: slower, and up to gigabytes of
    memory (docs/performance.md)."""
    if device.type != "cpu":
        return CHUNK
    largest = max((4 * math.prod(shape) for shape in shapes), default=1)
    return max(SMALLEST_CHUNK, min(CHUNK, CHUNK_BYTES // largest))


def pick_device(name: str) -> torch.device:
    """`auto`: CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def autocast(x: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return torch.autocast(x.device.type, dtype) if dtype is not None else nullcontext()


def scale_gradient(x: Tensor, kappa: float) -> Tensor:
    """x itself; the gradient that flows back through it, if one does, is multiplied by κ."""
    scaled = x.view_as(x)
    if scaled.requires_grad:
        scaled.register_hook(lambda gradient: gradient * kappa)
    return scaled


def depends_on_batch(encoder: nn.Module) -> bool:
    """Whether a sample's feature in training mode depends on more than the sample: batch norm or dropout."""
    drops = (isinstance(part, _DropoutNd) and part.p > 0 for part in encoder.modules())
    return any(drops) or bool(_batch_norms(encoder))


def _batch_norms(encoder: nn.Module) -> list[_BatchNorm]:
    return [part for part in encoder.modules() if isinstance(part, _BatchNorm)]


@contextmanager
def preserve_norm_stats(encoder: nn.Module, norm: str) -> Iterator[None]:
    """Run an encoder without changing one bit of its buffers; its mode is restored afterwards.

    `norm="batch"`: batch norm normalises by the batch (one that does not track its running statistics writes
    nothing), dropout drops; `"frozen"`: batch norm uses its running statistics and dropout is off;
    `"moving"`: as in training, buffers move (what `update: zero_grad` does to a suppressed encoder)."""
    was_training = encoder.training
    tracking = [part for part in _batch_norms(encoder) if norm == "batch" and part.track_running_stats]
    for part in tracking:
        part.track_running_stats = False
    if norm == "frozen":
        encoder.eval()
    try:
        yield
    finally:
        if encoder.training is not was_training:
            encoder.train(was_training)
        for part in tracking:
            part.track_running_stats = True


@torch.no_grad()
def estimate_norm_stats(
    encoder: nn.Module, batches: Iterable[Tensor], dtype: torch.dtype | None = None
) -> None:
    """Compute running statistics that were never computed (mean 0, variance 1): their average over `batches`.

    They are those of the encoder as it is, each batch normalised by itself as in training, without dropout.
    Batch norm with statistics (trained or pretrained), weights and random streams stay; without any that
    lacks them, no batch is read. `dtype`: see `MultimodalModel.forward`."""
    fresh = {norm: norm.momentum for norm in _batch_norms(encoder) if _never_updated(norm)}
    if not fresh:
        return
    was_training = encoder.training
    encoder.eval()
    for norm in fresh:
        norm.train()
        norm.momentum = None  # torch's cumulative average
    for x in batches:
        with autocast(x, dtype):
            encoder(x)
    for norm, momentum in fresh.items():
        norm.momentum = momentum
    encoder.train(was_training)


def _never_updated(norm: _BatchNorm) -> bool:
    """Files of old torch versions lack `num_batches_tracked`, so that it is 0 for pretrained ones, too."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not mean.any() and bool((variance == 1).all())
