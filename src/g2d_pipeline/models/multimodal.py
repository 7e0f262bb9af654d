"""The model: an encoder per modality and a fusion. A unimodal teacher is the same with one modality and late fusion."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
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
        self, inputs: dict[str, Tensor], suppressed: Collection[str] = (), suppressed_norm: str = "batch"
    ) -> Output:
        """Encode and fuse.

        Encoders named in `suppressed` run without gradient and leave no trace in their buffers (Eq. 8, `skip`);
        `suppressed_norm="batch"`: their batch norm normalises by the batch, `"frozen"`: by its running statistics
        (and dropout is off).
        """
        features: dict[str, Tensor] = {}
        for m, encoder in self.encoders.items():
            if m in suppressed:
                with torch.no_grad(), untouched(encoder, suppressed_norm):
                    features[m] = encoder(inputs[m])
            else:
                features[m] = encoder(inputs[m])
        return Output(features, self.fusion(features))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` from one modality alone, as the fusion defines it."""
        return self.fusion.unimodal_logits(features, modality)


@contextmanager
def untouched(encoder: nn.Module, norm: str) -> Iterator[None]:
    """Run an encoder without changing one bit of its buffers; its mode is restored afterwards.

    A batch norm that does not track its running statistics normalises by the batch and writes nothing.
    """
    was_training = encoder.training
    tracking: list[nn.modules.batchnorm._BatchNorm] = []
    if norm == "frozen":
        encoder.eval()
    else:
        for part in encoder.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
                part.track_running_stats = False
                tracking.append(part)
    try:
        yield
    finally:
        encoder.train(was_training)
        for part in tracking:
            part.track_running_stats = True
