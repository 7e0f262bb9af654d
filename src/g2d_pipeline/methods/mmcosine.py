"""MMCosine (Xu et al., 2023): logits by angles of features and class weights: no norm outweighs another."""

from g2d_pipeline.methods.base import Method


class MMCosine(Method):
    """The task loss on logits that sum scaled cosines over modalities: fusion `cosine`, nothing else.

    Any number of modalities. A regression has no classes and so no angles to them."""

    equation = "L = L_S(l, y), l_c = Σ_m s·cos(f^m, W_c^m)"
    source = "Xu et al., 2023 (MMCosine), s = 15"
    distributed = "exact"
    tasks = ("classification",)
    fusions = ("cosine",)
    undefined = ". It needs class weights, and a regression has no classes: say method=joint with fusion=sum"
