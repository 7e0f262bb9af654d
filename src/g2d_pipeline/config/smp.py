"""The schedule that prioritises modalities (g2d.md §4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from g2d_pipeline.config.base import Strict, split_slashes


def parse_tau(value: Any) -> Any:
    """`half`, `auto`, `all`, `8/16`, `[8, 16]` or `8` → the word, or a list of non-negative whole numbers."""
    if value in ("half", "auto", "all"):
        return value
    parts = split_slashes(value)
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = [-1]
    if min(numbers, default=-1) < 0:
        raise ValueError("epochs of each phase: whole numbers from 0 on, such as 8/16; or half, auto, all")
    return numbers


class SMPSettings(Strict):
    """Sequential Modality Prioritization (g2d.md §4, §5): who learns when, on top of any method.

    `suppression`: `complete`: one modality's encoder learns alone in each phase (κ = 1, the others 0);
    `partial`: all learn, the more confident ones with κ = 1 − tanh(ratio of confidences). `tau`: epochs of
    each phase, one a modality from the least confident on; the last (all together) may be left out. `half`:
    half of the epochs shared equally by the k − 1 single-modality phases, the other half together. `auto`: as
    `half` at most, but a phase ends earlier, once the modality's confidence in the student has closed the
    fraction `auto_gap` of its gap to its teacher's, both on val, or has not risen for `auto_patience` epochs.
    `partial` modulates in the first `tau` epochs: one number, `half`, or `all`. `update`: `skip`: a
    suppressed encoder does not move by one bit (Eq. 8); `zero_grad`: its gradient is zero (the code).
    `scope`: what κ acts on: the whole `encoder`, or convolution weights alone (`conv_only`, the code)."""

    tau: Annotated[Literal["half", "auto", "all"] | list[int], BeforeValidator(parse_tau)] = "half"
    suppression: Literal["complete", "partial"] = "complete"
    ranking: Literal["batch", "epoch", "dataset"] = "batch"
    confidence_on: Literal["train", "val"] = "train"
    update: Literal["skip", "zero_grad"] = "skip"
    scope: Literal["encoder", "conv_only"] = "encoder"
    suppressed_norm: Literal["batch", "frozen"] = "frozen"
    auto_gap: Annotated[float, Field(gt=0, le=1)] = 0.9
    auto_patience: PositiveInt = 5

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.suppression == "complete" and self.tau == "all":
            raise ValueError(
                "tau=all goes with suppression=partial; complete suppression must end: half, or numbers"
            )
        if self.suppression == "partial" and self.tau == "auto":
            raise ValueError(
                "tau=auto goes with suppression=complete; partial suppression has no phases: half or all"
            )
        if self.suppression == "partial" and self.scope == "conv_only":
            raise ValueError("scope=conv_only goes with suppression=complete")
        return self

    def phases(self, modalities: int, epochs: int) -> list[int]:
        """Epochs of each of the k phases (partial: two), the last one filling up to `epochs`; `auto`: the
        most.

        Raises ValueError where `tau` has the wrong length or its single-modality phases do not leave an
        epoch."""
        k = modalities
        if k < 2:
            raise ValueError("SMP needs at least two modalities")
        single = k - 1 if self.suppression == "complete" else 1
        if self.tau == "all":
            alone = [epochs]
        elif isinstance(self.tau, str):
            each, extra = divmod(epochs // 2, single)
            alone = [each + (i < extra) for i in range(single)]
        else:
            if len(self.tau) not in (single, single + 1):
                need = f"{single + 1} (or {single}: the last is the rest)"
                raise ValueError(f"{len(self.tau)} values; {k} modalities need {need}")
            alone = self.tau[:single]
        if sum(alone) > epochs:
            raise ValueError(
                f"the phases of one modality alone take {sum(alone)} epochs of {epochs}: shorten tau or say "
                "tau=half"
            )
        return [*alone, epochs - sum(alone)]
