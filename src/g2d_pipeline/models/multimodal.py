"""The model: an encoder per modality and a fusion. A unimodal teacher is the same with one modality and late fusion."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g2d_pipeline.models.encoders import Encoder
from g2d_pipeline.models.fusion import Fusion


@dataclass(frozen=True)
class Output:
    """`features`: modality → `[B, D_m]`, in configuration order; `logits`: `[B, C]`."""

    features: dict[str, Tensor]
    logits: Tensor


class MultimodalModel(nn.Module):
    """`forward(inputs: modality → [B, …]) -> Output`. Modality order is that of `encoders`."""

    def __init__(self, encoders: dict[str, Encoder], fusion: Fusion) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion

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
    ) -> Output:
        """Encode and fuse.

        Encoders named in `suppressed` run without gradient; `suppressed_norm` says how (see `untouched`).
        `features`: m → `[B, D_m]` that are known already: those encoders do not run. `dtype`: encoders run under
        autocast in it; features, fusion and logits are float32 always.
        """
        known = features or {}
        found: dict[str, Tensor] = {}
        for m, encoder in self.encoders.items():
            if m in known:
                found[m] = known[m]
                continue
            with torch.autocast(inputs[m].device.type, dtype) if dtype is not None else nullcontext():
                if m in suppressed:
                    with torch.no_grad(), untouched(encoder, suppressed_norm):
                        found[m] = encoder(inputs[m])
                else:
                    found[m] = encoder(inputs[m])
            found[m] = found[m].float()
        return Output(found, self.fusion(found))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from one modality alone, as the fusion defines it."""
        return self.fusion.unimodal_logits(features, modality)


def depends_on_batch(encoder: nn.Module) -> bool:
    """Whether a sample's feature in training mode depends on more than the sample: batch norm or dropout."""
    norm, dropout = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd
    return any(isinstance(p, norm) or (isinstance(p, dropout) and p.p > 0) for p in encoder.modules())


@contextmanager
def untouched(encoder: nn.Module, norm: str) -> Iterator[None]:
    """Run an encoder without changing one bit of its buffers; its mode is restored afterwards.

    `norm="batch"`: batch norm normalises by the batch (one that does not track its running statistics writes nothing),
    dropout drops; `"frozen"`: batch norm uses its running statistics and dropout is off; `"moving"`: as in training,
    buffers move (what `update: zero_grad` does to a suppressed encoder).
    """
    was_training = encoder.training
    tracking: list[nn.modules.batchnorm._BatchNorm] = []
    if norm == "frozen":
        encoder.eval()
    elif norm == "batch":
        for part in encoder.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
                part.track_running_stats = False
                tracking.append(part)
    try:
        yield
    finally:
        if encoder.training is not was_training:
            encoder.train(was_training)
        for part in tracking:
            part.track_running_stats = True
