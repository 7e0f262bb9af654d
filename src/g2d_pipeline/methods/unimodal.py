"""Unimodal training: an encoder and a linear head on one modality, as teachers are trained (g2d.md §1)."""

from g2d_pipeline.methods.base import Method


class Unimodal(Method):
    """The task loss on a model with one modality."""

    distributed = "exact"
