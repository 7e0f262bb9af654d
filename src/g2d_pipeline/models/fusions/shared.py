"""One head for all modalities, whose features are of one width: the fusion of MLA and ReconBoost."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from g2d_pipeline.models.fusions.base import Fusion, Widths, projections


def certainty_weights(logits: Tensor) -> Tensor:
    """w^m ∝ exp(max_j H^j − H^m) `[k, B]` of logits `[k, B, C]`; H^m: the entropy of modality m's prediction
    (MLA). They sum to 1 over the modalities of each sample; a certain modality weighs more."""
    log_p = logits.log_softmax(dim=2)
    entropy = -(log_p.exp() * log_p).sum(dim=2)
    return (-entropy).softmax(dim=0)  # the greatest entropy cancels out


def certainty_weights_of_batch(logits: Tensor) -> Tensor:
    """The same as MLA's public code has it: one weight a modality `[k]` for the whole batch.

    There the softmax goes over the samples of the batch and the entropy is summed over samples and classes,
    so that what is predicted for a sample depends on the batch that it comes in."""
    log_p = logits.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=(1, 2))
    return (-entropy).softmax(dim=0)


class SharedFusion(Fusion):
    """u^m = head(h^m); p = Σ_m u^m (`sum`), their `mean`, or log Σ_m w^m softmax(u^m) (`entropy`, weights a
    sample). `hidden`: widths of ReLU layers before the last one. `entropy_of_batch`: p = Σ_m w^m u^m, one
    weight a batch (MLA's code). With one output, a regression, `entropy` is p = Σ_m w^m u^m with w^m ∝
    exp(−`errors`[m]), squared errors on train that the method keeps (configuration order; zeros, hence the
    mean, where none does): our definition. `width`: modalities of another width than this, or than the
    `greatest`, are projected to it by a linear layer of their own (our definition). Unimodal logits: u^m, in
    both readouts. Raises ValueError for features of different widths without it."""

    heads_of_its_own = adds_heads = True
    errors: Tensor | None

    def __init__(
        self,
        widths: Widths,
        outputs: int,
        width: int | Literal["greatest"] | None = None,
        hidden: Sequence[int] = (),
        combine: Literal["sum", "mean", "entropy", "entropy_of_batch"] = "mean",
        **options: Any,
    ) -> None:
        super().__init__(widths, outputs, **options)
        if width is None and len(set(widths.values())) > 1:
            described = ", ".join(f"{m}: {width}" for m, width in widths.items())
            raise ValueError(
                f"one head for all needs features of one width, and the encoders make {described}. "
                "Give all encoders the same width, or say fusion.width=greatest: others are projected to it"
            )
        if combine == "entropy_of_batch" and outputs == 1:
            raise ValueError("combine = entropy_of_batch: a regression has no entropy. Say combine=entropy")
        self.combine = combine
        layers: list[nn.Module] = []
        self.projections, before = projections(widths, None if width == "greatest" else width)
        for following in hidden:
            layers += [nn.Linear(before, following), nn.ReLU()]
            before = following
        last = nn.Linear(before, outputs)
        self.head: nn.Module = nn.Sequential(*layers, last) if layers else last
        self.register_buffer(
            "errors", torch.zeros(len(widths)) if combine == "entropy" and outputs == 1 else None
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        present = [m for m in self.widths if m in features]
        logits = torch.stack([self.unimodal_logits(features, m) for m in present])
        if self.combine == "sum":
            return logits.sum(dim=0)
        if self.combine == "mean":
            return logits.mean(dim=0)
        if self.errors is not None:
            errors = self.errors[[m in features for m in self.widths]]
            return ((-errors).softmax(dim=0)[:, None, None] * logits).sum(dim=0)
        if self.combine == "entropy_of_batch":
            return (certainty_weights_of_batch(logits)[:, None, None] * logits).sum(dim=0)
        return torch.logsumexp(certainty_weights(logits).log()[..., None] + logits.log_softmax(dim=2), dim=0)

    def head_input(self, features: dict[str, Tensor], modality: str) -> Tensor:
        """What the head sees of a modality `[B, D]`: its feature, projected where its width is another."""
        return cast(Tensor, self.projections[modality](features[modality]))

    def unimodal_logits(self, features: dict[str, Tensor], modality: str) -> Tensor:
        return cast(Tensor, self.head(self.head_input(features, modality)))
