"""Pairs of an image and a clip of the same digit, such that no image and no clip crosses splits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS, Split
from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.digits import Clip

if TYPE_CHECKING:
    import pandas as pd

# Test draws first: the test pairs stay the same when train gets more.
DRAWING: tuple[Split, ...] = ("test", "val", "train")
Images = dict[Split, list[list[int]]]  # split → for each class 0-9 the rows of its images


class Pair(NamedTuple):
    """One sample: `row` is the image's row in its array file, `clip` an index into the caller's list."""

    split: Split
    digit: int
    row: int
    clip: int


def balanced(total: int, capacity: Sequence[int]) -> list[int]:
    """How many of each class add up to `total`, as equal as the `capacity` of each class allows.

    Raises ValueError where all classes together do not hold as many."""
    if total > sum(capacity):
        raise ValueError(f"{total} wanted, {sum(capacity)} there")
    counts = [0] * len(capacity)
    for _ in range(total):
        has_more = [i for i, held in enumerate(capacity) if counts[i] < held]
        counts[min(has_more, key=counts.__getitem__)] += 1
    return counts


def _mixed(items: npt.ArrayLike, *seed: int) -> list[int]:
    mixed: list[int] = np.random.default_rng(seed).permutation(items).tolist()
    return mixed


def draw_images(labels: npt.NDArray[np.uint8], counts: Mapping[Split, int], seed: int) -> Images:
    """The images of each split; no row twice, classes as equal as possible.

    `labels` [N]. Raises ValueError where there are fewer images than asked for."""
    pools = [_mixed(np.flatnonzero(labels == digit), seed, 0, digit) for digit in range(10)]
    drawn: Images = {}
    for split in DRAWING:
        sizes = balanced(counts[split], [len(pool) for pool in pools])
        drawn[split] = [pool[:n] for pool, n in zip(pools, sizes, strict=True)]
        pools = [pool[n:] for pool, n in zip(pools, sizes, strict=True)]
    return drawn


def pair(
    images: Images, digits: Sequence[int], splits: Sequence[Split], seed: int, remedy: str
) -> list[Pair]:
    """Every picture of `images` with a clip of its digit from the same split.

    Clip i speaks `digits[i]` and belongs to `splits[i]`; clips are taken in turn. The order of pairs within a
    split is drawn by `seed`. Raises DataError where a split has images of a digit but no clip."""
    clips: dict[tuple[Split, int], list[int]] = {}
    for i, key in enumerate(zip(splits, digits, strict=True)):
        clips.setdefault(key, []).append(i)
    wanted = [(split, digit) for split in SPLITS for digit, rows in enumerate(images[split]) if rows]
    if missing := [f"digit {digit} in {split}" for split, digit in wanted if (split, digit) not in clips]:
        raise data_error("There is no recording for some digits", missing, remedy)
    pairs: list[Pair] = []
    for number, split in enumerate(SPLITS):
        of_split: list[Pair] = []
        for digit, rows in enumerate(images[split]):
            if rows:
                turn = _mixed(clips[split, digit], seed, 1, number, digit)
                of_split += [Pair(split, digit, row, turn[k % len(turn)]) for k, row in enumerate(rows)]
        pairs += [of_split[k] for k in _mixed(np.arange(len(of_split)), seed, 2, number)]
    return pairs


def paired_table(
    pairs: Sequence[Pair], ids: Sequence[str], clips: Sequence[Clip], columns: Mapping[str, str], array: str
) -> "pd.DataFrame":
    """The manifest's table: `columns` names the columns of "audio" and "image", as far as they are asked for;
    `array`: the path of the images' file."""
    import pandas as pd

    cells = {"audio": [clips[p.clip].path for p in pairs], "image": [f"{array}#{p.row}" for p in pairs]}
    target = np.array([p.digit for p in pairs], np.int64)
    content: dict[str, Any] = {"sample_id": ids, "split": [p.split for p in pairs], "target": target}
    content |= {column: cells[modality] for modality, column in columns.items()}
    return pd.DataFrame(content)
