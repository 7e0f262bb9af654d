"""Joint training: one task loss on the multimodal logits, L = L_S(l_s, y). The baseline of every table."""

from g2d_pipeline.methods.base import Method


class Joint(Method):
    """Nothing but the task loss (g2d.md §2 with α = β = 0)."""
