"""The six arrays of AV-MNIST: what is wrong with them (datasets.md §2.2, §2.6).

Only headers, sizes and labels are read whole; of images and sounds a sample of rows is looked at."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.features.cells import open_cell
from g2d_pipeline.features.faults import MediaError
from g2d_pipeline.sources.av_mnist import ARRAYS, Key

Array = npt.NDArray[Any]
SHAPES = {"image": [(784,), (28, 28), (1, 28, 28)], "audio": [(112, 112), (1, 112, 112)]}
AGAIN = "unpack avmnist.tar.gz again (about 1.3 GB unpacked; an archive of a few kB is a saved web page)"

CHECKED_ROWS = 2000  # rows of train: enough to tell, read in a second
ENOUGH = 200  # rows below which nothing is said about the content
PUBLISHED_RANK, TOO_RICH = 3, 30
TOO_EASY, CHANCE = 0.8, 0.2  # accuracy of the nearest centroid


def open_arrays(root: Path, prefix: str, keys: Iterable[Key], files: Sequence[str]) -> dict[Key, Array]:
    """(kind, file) → memory-mapped array; labels are `[N]` in memory.

    `keys`: of the arrays that are needed, below `prefix`; `files`: everything in `root`. DataError names
    every file that is missing, truncated, empty, pickled, of another shape, type, or number of rows."""
    paths = {key: prefix + ARRAYS[key] for key in keys}
    if missing := [f"{path}{_elsewhere(path, files)}" for path in paths.values() if path not in files]:
        remedy = f"{AGAIN}, or move the files to these places."
        raise data_error(f"Arrays are missing in {root}", missing, remedy)
    arrays: dict[Key, Array] = {}
    faults: list[str] = []
    for key, path in paths.items():
        try:
            arrays[key] = open_cell(path, root)
        except MediaError as error:
            how = ", in the copy's own environment: np.save(path, np.stack(list(array)))"
            faults.append(f"{path} {error.reason}{how if 'pickled' in error.reason else ''}")
        else:
            if fault := _fault(key[0], arrays[key]):
                faults.append(f"{path} {fault}")
    if faults:
        remedy = f"{AGAIN}, or convert them as said."
        raise data_error(f"Arrays in {root} that can not be used", faults, remedy)
    for file in ("train", "test"):
        rows = {paths[key]: len(array) for key, array in arrays.items() if key[1] == file}
        if len(set(rows.values())) > 1:
            counts = [f"{path}: {count} rows" for path, count in rows.items()]
            headline = f"The {file} arrays differ in their numbers of rows"
            raise data_error(headline, counts, f"{AGAIN}: all from one copy.")
    return {key: np.array(a).reshape(-1) if key[0] == "label" else a for key, a in arrays.items()}


def note_content(arrays: Mapping[Key, Array]) -> list[str]:
    """Notes on what makes results incomparable with published ones (§2.6: 3, 7), of some rows of train."""
    notes: list[str] = []
    labels = arrays["label", "train"]
    rows = np.linspace(0, len(labels) - 1, min(len(labels), CHECKED_ROWS)).astype(np.int64)
    if len(rows) < ENOUGH:
        return notes
    image, audio, label = (ARRAYS[kind, "train"] for kind in ("image", "audio", "label"))
    if ("image", "train") in arrays:
        x = np.asarray(arrays["image", "train"][rows], np.float64).reshape(len(rows), -1)
        if x.min() >= 0:
            notes.append(
                f"{image}: no value is negative, so these images are whole pictures, not the published ones "
                "of three principal components; the task is then trivial (99 %), and numbers are not "
                "comparable."
            )
        elif (rank := _rank(x)) > TOO_RICH:
            components = f"{rank} components, the published ones {PUBLISHED_RANK}"
            notes.append(f"{image}: the images have {components}: numbers are not comparable.")
        if (score := _nearest_centroid(x, labels[rows])) < CHANCE:
            notes.append(
                f"{image}: a nearest-centroid test gets {score:.0%} of the digits right, little better than "
                f"chance: images and {label} seem to be in different orders."
            )
    if ("audio", "train") in arrays:
        x = np.asarray(arrays["audio", "train"][rows], np.float32).reshape(-1, 14, 8, 14, 8).mean(axis=(2, 4))
        if (score := _nearest_centroid(x.reshape(len(rows), -1), labels[rows])) > TOO_EASY:
            notes.append(
                f"{audio}: a nearest-centroid test gets {score:.0%} of the digits right. In the published "
                "file sounds and labels are partly out of step (audio teachers reach 43 %): these arrays "
                "were made by another generator, and numbers are not comparable."
            )
    return notes


def _fault(kind: str, array: Array) -> str | None:
    """What is wrong with the shape or the type of an array; None: nothing."""
    if array.ndim == 0 or 0 in array.shape:
        return f"is empty: its shape is {array.shape}"
    row = array.shape[1:]
    if kind == "label":
        if array.dtype.kind not in "iu":
            return f"is {array.dtype}; labels are whole numbers: np.save(path, labels.astype('uint8'))"
        if len(row) == 1 and row[0] > 1:
            how = "np.save(path, labels.argmax(1).astype('uint8'))"
            return f"is one-hot {array.shape}: save one number a row, {how}"
        return None if row in ((), (1,)) else f"has shape {array.shape}, not (N,)"
    if row not in SHAPES[kind]:
        more = "; it has colour channels: keep one of them" if 3 in row else ""
        return f"has rows of shape {row}, not {' or '.join(map(str, SHAPES[kind]))}{more}"
    if kind == "audio" and array.dtype != np.uint8:
        return (
            f"is {array.dtype}; spectrograms are bytes from 0 to 255: np.save(path, np.round(array * 255)"
            ".astype('uint8')) where its values lie in [0, 1]"
        )
    if kind == "image" and array.dtype.kind != "f":
        return (
            f"is {array.dtype}; images are floats, centred, in units of 0 to 255 (whole pictures are "
            "another, trivial task): np.save(path, array.astype('float64'))"
        )
    return None


def _elsewhere(path: str, files: Sequence[str]) -> str:
    """Where a file of the same name is, unless that is the place of another of the six."""
    taken = tuple(f"/{name}" for name in ARRAYS.values() if "/" in name)
    same_name = [f for f in files if f.rpartition("/")[2] == path.rpartition("/")[2]]
    places = [f for f in same_name if not f"/{f}".endswith(taken)]
    return f" (there is {places[0]}: move it)" if places else ""


def _rank(x: npt.NDArray[np.float64]) -> int:
    """How many principal components hold 99.9 % of the variance of `x` `[N, P]`."""
    x = x[:500] - x[:500].mean(axis=0)
    power = np.square(np.linalg.svd(x, compute_uv=False))
    return int(np.searchsorted(np.cumsum(power), 0.999 * power.sum()) + 1) if power.sum() > 0 else 0


def _nearest_centroid(x: npt.NDArray[np.floating[Any]], labels: Array) -> float:
    """Accuracy on every other row of `x` `[N, P]` of the classes' means over the rest."""
    known = np.unique(labels[::2])
    centres = np.stack([x[::2][labels[::2] == label].mean(axis=0) for label in known])
    distance = np.square(centres).sum(axis=1) - 2 * x[1::2] @ centres.T
    return float((known[distance.argmin(axis=1)] == labels[1::2]).mean())
