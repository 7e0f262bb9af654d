"""The paper's analyses (g2d.md §9) for any number of modalities and any method: runs in, tidy frames out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .records import Run

FRAMES: Mapping[str, tuple[str, ...]] = {
    "unimodal_curves": ("epoch", "split", "part", "metric", "value", "teacher"),
    "confidence": ("epoch", "modality", "confidence"),
    "gap": ("split", "first", "second", "distance"),
    "projection": ("split", "sample_id", "modality", "target", "x", "y"),
    "alignment": ("split", "modality", "cosine"),
    "confidence_ratio": ("split", "modality", "student", "teacher", "ratio", "weaker"),
    "gradients": ("epoch", "modality", "grad_norm", "kappa"),
    "alpha_beta": ("alpha", "beta", "metric", "value"),
    "probes": ("modality", "metric", "split", "value"),
    "robustness": ("modality", "corruption", "strength", "label", "metric", "value", "kept"),
    "shapley": ("part", "metric", "value"),
    "forwards": ("modality", "samples", "forwards"),
}
"""Name of a frame → its columns after `method`, (`fold`, where there are several,) and `seed`."""


def analysis_frames(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Every frame of `FRAMES`; those that need further forwards have no rows (see `robustness`)."""
    fold = ["fold"] * any(run.fold for run in runs)
    return {name: pd.DataFrame(columns=["method", *fold, "seed", *own]) for name, own in FRAMES.items()}
