"""Simulated AV-MNIST arrays (datasets.md §2.7): poor images that tell more than half-misplaced sounds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from g2d_pipeline.config import Split

SIDE, COMPONENTS = 28, 3
HEIGHT = WIDTH = 112  # of a spectrogram: low tones at the bottom, time to the right
MISPLACED = 0.4  # share of sounds that belong to another row
# Centres of the bands that stand for a digit's formants, as shares of the height from the bottom.
BANDS = [
    (0.10, 0.34, 0.70), (0.14, 0.52, 0.78), (0.12, 0.44), (0.22, 0.40, 0.66), (0.18, 0.30, 0.82),
    (0.26, 0.48), (0.10, 0.62, 0.74), (0.20, 0.58), (0.24, 0.36, 0.88), (0.16, 0.46, 0.60),
]  # fmt: skip

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def make(folder: Path, rows: Mapping[Split, int], seed: int) -> None:
    """Write the six arrays into the existing folder; equal arguments give equal bytes.

    `rows`: how many train, val and test have; train and val share a file. The pictures are scikit-learn's
    handwritten digits, those of the test file none of the train file's."""
    digits, labels = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    pools = {"train": order[: len(order) * 3 // 4], "test": order[len(order) * 3 // 4 :]}
    counts = {"train": rows["train"] + rows["val"], "test": rows["test"]}
    for kind in ("image", "audio"):
        (folder / kind).mkdir()
    for number, (file, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, 1, number])
        chosen = np.resize(pools[file], count)
        y = labels[chosen].astype(np.uint8)
        np.save(folder / f"{file}_labels.npy", y)
        np.save(folder / f"image/{file}_data.npy", poor(np.stack([enlarge(digits[i], rng) for i in chosen])))
        spoken = misplace(y, rng)
        np.save(folder / f"audio/{file}_data.npy", np.stack([spectrogram(int(d), rng) for d in spoken]))


def enlarge(digit: Floats, rng: np.random.Generator) -> Floats:
    """8 × 8 pixels from 0 to 16 → `[784]` from 0 to 255, in an ink of its own."""
    small = Image.fromarray((digit.reshape(8, 8) * (255 / 16)).astype(np.float32))
    large = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return np.clip(large * rng.uniform(0.8, 1.1), 0, 255).reshape(-1)


def poor(pictures: Floats) -> Floats:
    """`[N, P]` → `[N, P]`: its three principal components, as published; the mean is not added back."""
    centred = pictures - pictures.mean(axis=0)
    with threadpool_limits(1):  # the bytes do not depend on the machine's cores
        _, vectors = np.linalg.eigh(centred.T @ centred)
        components = vectors[:, -COMPONENTS:]
        projected: Floats = (centred @ components) @ components.T
    return projected


def misplace(labels: Bytes, rng: np.random.Generator) -> Bytes:
    """The digits that are heard `[N]`: the labels, with a share of the rows shuffled among themselves."""
    spoken = labels.copy()
    rows = rng.permutation(len(labels))[: round(len(labels) * MISPLACED)]
    spoken[rows] = labels[rng.permutation(rows)]
    return spoken


def spectrogram(digit: int, rng: np.random.Generator) -> Bytes:
    """`[112, 112]`, dark on white: the digit's bands for a while, in a voice of its own, and noise."""
    start, end = rng.uniform(0.02, 0.25), rng.uniform(0.6, 0.95)
    time = np.linspace(0, 1, WIDTH)
    loud = np.clip(np.minimum(time - start, end - time) * 12, 0, 1)
    pitch = np.linspace(1, 0, HEIGHT)[:, None]
    voice, glide = rng.normal(1, 0.09), rng.normal(0, 0.05)
    ink = np.zeros((HEIGHT, WIDTH))
    for centre in BANDS[digit]:
        at = centre * voice + glide * (time - 0.5) + rng.normal(0, 0.02)
        ink += rng.uniform(0.4, 1.0) * np.exp(-0.5 * ((pitch - at) / 0.025) ** 2)
    ink = 190 * np.clip(ink, 0, 1) * loud + rng.gamma(1.2, 22, (HEIGHT, WIDTH))
    return np.asarray(255 - np.clip(ink, 0, 255), np.uint8)
