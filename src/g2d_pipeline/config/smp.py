"""The schedule that prioritises modalities (g2d.md §4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from g2d_pipeline.config.base import Strict, split_slashes


def parse_tau(value: Any) -> Any:
    """`half`, `8/16`, `[8, 16]` or `8` → "half" or a list of non-negative whole numbers."""
    if value == "half":
        return value
    parts = split_slashes(value)
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = [-1]
    if min(numbers, default=-1) < 0:
        raise ValueError("epochs of each phase: whole numbers from 0 on, such as 8/16; or the word half")
    return numbers


class SMPSettings(Strict):
    """Sequential Modality Prioritization (g2d.md §4): who learns when.

    `tau`: epochs of each phase, one a modality from the least confident on; the last (all together) may be left out.
    `half`: half of the epochs shared equally by the k − 1 single-modality phases, the other half together.
    """

    tau: Annotated[Literal["half"] | list[int], BeforeValidator(parse_tau)] = "half"
    suppression: Literal["complete"] = "complete"
    ranking: Literal["batch", "epoch", "dataset"] = "batch"
    confidence_on: Literal["train", "val"] = "train"
    update: Literal["skip", "zero_grad"] = "skip"
    suppressed_norm: Literal["batch", "frozen"] = "frozen"

    def phases(self, modalities: int, epochs: int) -> list[int]:
        """Epochs of each of the k phases, the last one filling up to `epochs`.

        Raises ValueError where `tau` has the wrong length or its single-modality phases do not leave an epoch.
        """
        k = modalities
        if k < 2:
            raise ValueError("SMP needs at least two modalities")
        if self.tau == "half":
            single, extra = divmod(epochs // 2, k - 1)
            alone = [single + (i < extra) for i in range(k - 1)]
        else:
            if len(self.tau) not in (k - 1, k):
                raise ValueError(f"{len(self.tau)} values; {k} modalities need {k} (or {k - 1}: the last is the rest)")
            alone = self.tau[: k - 1]
        if sum(alone) > epochs:
            raise ValueError(
                f"the phases of one modality alone take {sum(alone)} epochs of {epochs}: shorten tau or say tau=half"
            )
        return [*alone, epochs - sum(alone)]
