"""Simulated raw folders in the published layouts, for who has no raw data: always marked SAMPLE.

`SIMULATED` has an entry, and this folder a module with `make(root, size, seed)`, for each layout that can be
simulated. Nothing is imported here, so that a start-up can ask whether a sample is the one that the settings
want."""

from __future__ import annotations

from typing import Any

from g2d_pipeline.sources.simulated import Simulated


SIMULATED = {
    "crema_d": Simulated(
        "CREMA-D (Cao et al., 2014)",
        "the voices are buzzing tones whose\npitch, tempo and loudness tell the emotion, the faces are drawn.",
        recipe=1,
    ),
    "av_mnist": Simulated(
        "AV-MNIST as MultiBench hands it out",
        "the pictures are three\ncomponents of scikit-learn's 8 x 8 digits, spectrograms are drawn.",
        recipe=1,
    ),
    "ur_funny": Simulated(
        "UR-Funny V2 (Hasan et al., EMNLP 2019)",
        "words, voices and faces\nare random numbers that know a little of the label.",
        recipe=1,
    ),
    "vggsound": Simulated(
        "VGGSound (Chen et al., ICASSP 2020)",
        "ids are random, sounds are\nchords with a beat, pictures are moving shapes.",
        recipe=2,
    ),
}


def describe(layout: str, size: Any, seed: int) -> str:
    """What SAMPLE.txt of a simulated folder says."""
    return SIMULATED[layout].text(f"{__name__}.{layout}", size, seed)
