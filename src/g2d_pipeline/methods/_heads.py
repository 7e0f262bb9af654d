"""Logits and losses of each modality by itself, for methods that train them beside the multimodal ones."""

from collections.abc import Collection, Mapping
from typing import cast

from torch import Tensor, nn

from g2d_pipeline.methods.base import State
from g2d_pipeline.models import MultimodalModel, Output, Task
from g2d_pipeline.models.encoders import initialise

MULTI = "multi"  # the multimodal prediction, as in the history


class UnimodalHeads(nn.Module):
    """u^m `[B, C]`: by the fusion's own head of m where it has one, else by a linear head made here.

    `needed`: the modalities whose head is made here (left out: all, where the fusion has none of its own).
    Made in `on_fit_start` as an attribute of the method, it is trained, checkpointed and moved as the model
    is, and not part of the model that is saved."""

    def __init__(self, model: MultimodalModel, outputs: int, needed: Collection[str] | None = None) -> None:
        super().__init__()
        if needed is None:
            needed = () if model.fusion.heads_of_its_own else model.modalities
        widths = {m: model.fusion.widths[m] for m in needed}
        self.heads = initialise(nn.ModuleDict({m: nn.Linear(width, outputs) for m, width in widths.items()}))

    def logits(self, model: MultimodalModel, features: dict[str, Tensor], modality: str) -> Tensor:
        """Logits `[B, C]` of one modality from its feature `[B, D_m]`."""
        if modality in self.heads:
            return cast(Tensor, self.heads[modality](features[modality]))
        return model.unimodal_logits(features, modality)

    def losses(
        self, output: Output, target: Tensor, weights: Mapping[str, float], state: State
    ) -> dict[str, Tensor]:
        """w_p · task loss of each part p ("multi" or a modality) of positive weight: `task` or `task_<m>`."""
        logits = {
            part: output.logits if part == MULTI else self.logits(state.model, output.features, part)
            for part, weight in weights.items()
            if weight > 0
        }
        return weighted_losses(state.task, logits, target, weights)


def weighted_losses(
    task: Task, logits: Mapping[str, Tensor], target: Tensor, weights: Mapping[str, float] | float = 1.0
) -> dict[str, Tensor]:
    """w_p · task loss of the logits `[B, C]` of each part p of positive weight."""
    by_part = weights if isinstance(weights, Mapping) else dict.fromkeys(logits, weights)
    return {
        "task" if part == MULTI else f"task_{part}": by_part[part] * task.loss(u, target)
        for part, u in logits.items()
        if by_part[part] > 0
    }
