"""Joint training: one task loss on the multimodal logits, L = L_S(l_s, y). The baseline of every table."""

from g2d_pipeline.methods.base import Method


class Joint(Method):
    """Nothing but the task loss on the multimodal logits: the baseline of every table."""

    equation = "L = L_S(l, y)"
    source = "G²D, ICCV 2025, Eq. 1 with α = β = 0"
    distributed = "exact"
