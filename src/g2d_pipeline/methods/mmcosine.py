"""MMCosine (Xu et al., 2023): logits by angles between features and class weights, so that no norm outweighs
another.

The idea is in the fusion (`models/fusions/cosine.py`); training is joint training."""

from __future__ import annotations

from typing import ClassVar

from g2d_pipeline.methods.base import Method, MethodContext


class MMCosine(Method):
    """The task loss on logits that are a sum over modalities of scaled cosines: fusion `cosine`, nothing
    else.

    Any number of modalities. A regression has no classes and so no angles to them."""

    equation: ClassVar[str] = "L = L_S(l, y), l_c = Σ_m s·cos(f^m, W_c^m)"
    source: ClassVar[str] = "Xu et al., 2023 (MMCosine), s = 15"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    fusions: ClassVar[tuple[str, ...] | None] = ("cosine",)

    def check(self, context: MethodContext) -> None:
        if context.task not in self.tasks:
            raise ValueError(
                f"mmcosine compares features with class weights, and a {context.task} has no classes: say method=joint "
                "with fusion=sum, a head a modality"
            )
        super().check(context)
