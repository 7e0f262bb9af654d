"""The schedule that prioritises modalities (g2d.md §4)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from g2d_pipeline.config.base import Strict, split_slashes


def parse_tau(value: Any) -> Any:
    """`half`, `all`, `8/16`, `[8, 16]` or `8` → the word, or a list of non-negative whole numbers."""
    if value in ("half", "all"):
        return value
    parts = split_slashes(value)
    try:
        numbers = [int(str(part)) for part in parts]
    except ValueError:
        numbers = [-1]
    if min(numbers, default=-1) < 0:
        raise ValueError("epochs of each phase: whole numbers from 0 on, such as 8/16; or half, all")
    return numbers


class SMPSettings(Strict):
    """Sequential Modality Prioritization (g2d.md §4, §5): who learns when, on top of any method.

    `suppression`: `complete`: one modality's encoder learns alone in each phase (κ = 1, the others 0);
    `partial`: all learn, the more confident ones with κ = 1 − tanh(ratio of confidences). `tau`: epochs of
    each phase, one a modality from the least confident on; the last (all together) may be left out. `half`:
    half of the epochs shared equally by the k − 1 single-modality phases, the other half together.
    `partial` modulates in the first `tau` epochs: one number, `half`, or `all`. `update`: `skip`: a
    suppressed encoder does not move by one bit (Eq. 8); `zero_grad`: its gradient is zero (the code).
    `scope`: what κ acts on: the whole `encoder`, or convolution weights alone (`conv_only`, the code)."""

    tau: Annotated[Literal["half", "all"] | list[int], BeforeValidator(parse_tau)] = "half"
    suppression: Literal["complete", "partial"] = "complete"
    ranking: Literal["batch", "epoch", "dataset"] = "batch"
    confidence_on: Literal["train", "val"] = "train"
    update: Literal["skip", "zero_grad"] = "skip"
    scope: Literal["encoder", "conv_only"] = "encoder"
    suppressed_norm: Literal["batch", "frozen"] = "frozen"

    def _problems(self) -> Iterator[str]:
        if self.suppression == "complete" and self.tau == "all":
            yield "tau=all goes with suppression=partial; complete suppression must end: half, or numbers"
        if self.suppression == "partial" and self.scope == "conv_only":
            yield "scope=conv_only goes with suppression=complete"

    def phases(self, modalities: int, epochs: int) -> list[int]:
        """Epochs of each of the k phases (partial: two), the last one filling up to `epochs`.

        Raises ValueError where `tau` has the wrong length, or its single-modality phases exceed `epochs`."""
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
