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


CREMA_D_RECIPE = 1  # raise it when `samples/crema_d.py` changes what it writes


def describe_crema_d(clips: int, seed: int) -> str:
    """What SAMPLE.txt of the simulated CREMA-D folder says; a sample whose text differs is made anew."""
    return (
        "SAMPLE: everything in this folder is simulated by g2d_pipeline.samples.crema_d.\n"
        "It has the layout of CREMA-D (Cao et al., 2014) and none of its data: the voices are buzzing tones whose\n"
        "pitch, tempo and loudness tell the emotion, the faces are drawn. No number made from it means anything.\n"
        "Delete the folder at will; it is made anew when it is needed.\n"
        f"clips: {clips}; seed: {seed}; recipe: {CREMA_D_RECIPE}\n"
    )


AV_MNIST_RECIPE = 1  # raise it when `samples/av_mnist.py` changes what it writes


def describe_av_mnist(rows: Mapping[Split, int], seed: int) -> str:
    """What SAMPLE.txt of the simulated AV-MNIST folder says; a sample whose text differs is made anew."""
    counts = f"train {rows['train']}, val {rows['val']}, test {rows['test']}"
    return (
        "SAMPLE: everything in this folder is simulated by g2d_pipeline.samples.av_mnist.\n"
        "It has the layout of AV-MNIST as MultiBench hands it out and none of its data: the pictures are three\n"
        "components of scikit-learn's 8 x 8 digits, spectrograms are drawn. No number made from it means anything.\n"
        "Delete the folder at will; it is made anew when it is needed.\n"
        f"rows: {counts}; seed: {seed}; recipe: {AV_MNIST_RECIPE}\n"
    )


UR_FUNNY_RECIPE = 1  # raise it when `samples/ur_funny.py` changes what it writes


def describe_ur_funny(rows: Mapping[Split, int], seed: int) -> str:
    """What SAMPLE.txt of the simulated UR-Funny folder says; a sample whose text differs is made anew."""
    counts = f"train {rows['train']}, val {rows['val']}, test {rows['test']}"
    return (
        "SAMPLE: everything in this folder is simulated by g2d_pipeline.samples.ur_funny.\n"
        "It has the layout of UR-Funny V2 (Hasan et al., EMNLP 2019) and none of its data: words, voices and faces\n"
        "are random numbers that know a little of the label. No number made from it means anything.\n"
        "Delete the folder at will; it is made anew when it is needed.\n"
        f"rows: {counts}; seed: {seed}; recipe: {UR_FUNNY_RECIPE}\n"
    )


VGGSOUND_RECIPE = 2  # raise it when `samples/vggsound.py` changes what it writes


def describe_vggsound(clips: int, seed: int) -> str:
    """What SAMPLE.txt of the simulated VGGSound folder says; a sample whose text differs is made anew."""
    return (
        "SAMPLE: everything in this folder is simulated by g2d_pipeline.samples.vggsound.\n"
        "It has the layout of VGGSound (Chen et al., ICASSP 2020) and none of its data: ids are random, sounds are\n"
        "chords with a beat, pictures are moving shapes. No number made from it means anything.\n"
        "Delete the folder at will; it is made anew when it is needed.\n"
        f"clips: {clips}; seed: {seed}; recipe: {VGGSOUND_RECIPE}\n"
    )
