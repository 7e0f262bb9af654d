"""What UR-Funny's two forms have in common: a sample, its split, its id, and numbers in whatever container
they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow

if TYPE_CHECKING:
    from g2d_pipeline.config import Split

Array = npt.NDArray[Any]
FOLDS: dict[str, Split] = {"train": "train", "dev": "val", "valid": "val", "val": "val", "test": "test"}
NUMBERS = frozenset({int, float, bool, np.float16, np.float32, np.float64, np.int32, np.int64})
WRONG_LAYOUT = "take UR-Funny V2 as published: this file is damaged, or of another data set or version."


@dataclass(frozen=True)
class Sample:
    """`sentences`: the context's, where asked for, then the punchline: modality → [n, F]; n may differ
    between them.

    `file`, `row`: where it is, for messages.
    """

    id: str
    split: Split
    label: Any
    sentences: list[dict[str, Array]]
    file: str
    row: int | None = None


@dataclass
class Collection:
    """The `samples` that could be read, `bad` for the others, and `notes` on the files."""

    samples: list[Sample] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def splits_of(content: Any, path: Path) -> dict[Split, tuple[str, Any]]:
    """split → (its name in the file, what the file has there); DataError where one of the three is missing."""
    if not isinstance(content, dict):
        headline = f"{path} holds a {type(content).__name__}, not a dict of train, dev (or valid) and test"
        raise data_error(headline, [], WRONG_LAYOUT)
    found = {FOLDS[name]: (name, part) for name, part in content.items() if name in FOLDS}
    order: tuple[Split, ...] = ("train", "val", "test")
    if missing := [split for split in order if split not in found]:
        has = ", ".join(repr(name)[:40] for name in list(content)[:8]) or "nothing"
        raise data_error(f"{path} has no {' and no '.join(missing)} part; it has {has}", [], WRONG_LAYOUT)
    return {split: found[split] for split in order}


def id_of(value: Any, path: Path) -> str:
    """An id as text: the whole number 12 and the text "12" are the same id. DataError for anything else."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str) and (text := value.strip()):
        return str(int(text)) if text.isascii() and text.isdecimal() else text
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if number and math.isfinite(value) and value == int(value):
        return str(int(value))
    raise data_error(
        f"{path} has an id that is neither a whole number nor text: {value!r:.60}", [], WRONG_LAYOUT
    )


def steps_of(value: Any, what: str = "step") -> Array:
    """A sentence's features, an array or lists of numbers, → [n, F]; without a step [0, 0], however it is
    written.

    Raises ValueError: what is wrong with it.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        if value.size == 0:
            return np.zeros((0, 0), np.float32)
        if value.ndim != 2:
            raise ValueError(f"features of shape {list(value.shape)} instead of [{what}s, numbers]")
        return value
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"features are a {type(value).__name__}, not a list of {what}s")
    rows = [_numbers(row, f"{what} {i}") for i, row in enumerate(value)]
    if not rows:
        return np.zeros((0, 0), np.float32)
    if len(widths := sorted({len(row) for row in rows})) > 1:
        raise ValueError(f"{what}s of {', '.join(map(str, widths))} numbers")
    return np.stack(rows)


def _numbers(row: Any, name: str) -> Array:
    """One step's numbers [F] as float32; what float32 can not hold becomes infinite."""
    if isinstance(row, np.ndarray) and row.dtype.kind in "fiub" and row.ndim == 1:
        with np.errstate(over="ignore"):
            return row.astype(np.float32)
    if not isinstance(row, list | tuple) or not set(map(type, row)) <= NUMBERS:
        raise ValueError(f"{name} is not a list of numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(row, np.float64).astype(np.float32)
    except OverflowError:
        raise ValueError(f"{name} has a number of more than 300 digits") from None
