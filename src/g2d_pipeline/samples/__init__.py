"""Simulated raw folders in the published layouts, for who has no raw data: always marked SAMPLE.

The texts here import nothing, so that a start-up can ask whether a sample is the one that the settings want.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from g2d_pipeline.config import Split

MIS_ME_RECIPE = 1  # raise it when `samples/mis_me.py` changes what it writes


def describe_mis_me(rows: Mapping[Split, int], seed: int) -> str:
    """What SAMPLE.txt of the simulated MIS-ME folder says; a sample whose text differs is made anew."""
    counts = f"train {rows['train']}, val {rows['val']}, test {rows['test']}"
    return (
        "SAMPLE: everything in this folder is simulated by g2d_pipeline.samples.mis_me.\n"
        "It has the layout of MIS-ME (Rakib et al., DSAA 2024) and none of its data: the pictures are brown noise\n"
        "that darkens with water, the weather is drawn at random. No number made from it means anything.\n"
        "Delete the folder at will; it is made anew when it is needed.\n"
        f"rows: {counts}; seed: {seed}; recipe: {MIS_ME_RECIPE}\n"
    )
