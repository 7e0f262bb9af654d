"""MSLR (Yao & Mihalcea, Findings of ACL 2022): a learning rate of its own for each encoder."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from g2d_pipeline.methods.base import Method, MethodParameters, State, Validation


def smooth(rate: float, progress: float) -> float:
    """ρ + (1 − ρ)·t: from the modality's own factor ρ to 1 while the progress t goes from 0 to 1."""
    return rate + (1 - rate) * progress


def dynamic(values: Sequence[float], higher_is_better: bool) -> float:
    """The newest value of a metric over the mean of all of these; 1 before the first one and where all are 0.

    Inverse for a metric of which less is better (our definition). At most the number of values, as it is for
    non-negative values that are good when high."""
    if not values or not any(values):
        return 1.0
    mean = sum(values) / len(values)
    if higher_is_better:
        return values[-1] / mean
    return min(mean / values[-1], float(len(values))) if values[-1] > 0 else float(len(values))


class MSLR(Method):
    """Each encoder has a learning rate of its own: the recipe's times a factor that may change in training.

    Fusion and heads learn at the recipe's rate. Published for late fusion, here with every one; the dynamic
    strategy goes by what the fusion lets each modality say alone, and for a regression by the inverse of its
    error (our definition). With factors of 1, kept or smooth, or a window of 1, it is joint training."""

    class Parameters(MethodParameters):
        rates: dict[str, PositiveFloat] = Field(default_factory=dict)
        strategy: Literal["keep", "smooth", "dynamic"] = "keep"
        window: PositiveInt = 5

    parameters: Parameters
    equation = (
        "η^m = η·ρ^m (keep), η·(ρ^m + (1 − ρ^m)·t), t: 0 → 1 (smooth), "
        "η·ρ^m·a^m / mean of the last a^m (dynamic)"
    )
    source = "Yao & Mihalcea, Findings of ACL 2022, the strategies keep, smooth and dynamic"
    distributed = "exact"
    by_modality = ("rates",)

    def on_fit_start(self, state: State) -> None:
        self.seen: dict[str, list[float]] = {m: [] for m in state.model.modalities}  # metrics, newest last

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """One of each encoder, then one of all else: together the order of joint training."""
        encoders = [list(encoder.parameters()) for encoder in model.encoders.values()]  # type: ignore[operator]
        of_encoders = {id(p) for group in encoders for p in group}
        rest = [p for p in model.parameters() if id(p) not in of_encoders]
        return [{"params": group, "factor": 1.0} for group in [*encoders, rest]]

    def factor(self, modality: str, state: State) -> float:
        """What the learning rate of the modality's encoder is multiplied by in this epoch."""
        p = self.parameters
        rate = p.rates.get(modality, 1.0)
        if p.strategy == "smooth":
            return smooth(rate, (state.epoch - 1) / max(state.epochs - 1, 1))
        if p.strategy == "dynamic":
            return rate * dynamic(self.seen[modality], state.task.higher_is_better)
        return rate

    def on_epoch_start(self, state: State) -> None:
        for m, group in zip(state.model.modalities, state.optimizer.param_groups, strict=False):
            group["factor"] = self.factor(m, state)

    def on_validation(self, validation: Validation, state: State) -> None:
        if self.parameters.strategy == "dynamic":
            for m, values in self.seen.items():
                self.seen[m] = [*values, validation.scores[m]][-self.parameters.window :]
