"""UR-Funny's second form: MultiBench's one pickle of padded arrays (datasets.md §4.2b)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import nearest
from g2d_pipeline.sources.pickles import load_plain
from g2d_pipeline.sources.ur_funny_samples import WRONG_LAYOUT, Array, Collection, Sample, id_of, splits_of

KEYS = {"audio": "audio", "visual": "vision", "text": "text"}  # modality → the file's word


def read_multibench(path: Path) -> Collection:
    """train/valid/test → vision, audio, text [N, T, F], labels [N, …] and, where the file has them, id [N,
    …].

    The steps before the first one with text are padding, and so are those behind, where all three are zero:
    cut, of all three together. A step of zeros between others is an unknown word. Raises DataError where the
    file is not of this layout."""
    found = Collection()
    behind = 0
    for split, (name, part) in splits_of(load_plain(path), path).items():
        arrays, labels = _arrays(part, name, path)
        ids = _ids(part, name, len(labels), path, found.notes)
        for row, (i, label) in enumerate(zip(ids, labels, strict=True)):
            first, last = _real_steps({modality: array[row] for modality, array in arrays.items()})
            behind += last < arrays["text"].shape[1] and last > first
            sentence = {modality: array[row, first:last] for modality, array in arrays.items()}
            found.samples.append(Sample(i, split, label, [sentence], f"{path.name}, {name}", row))
    if behind:
        found.notes.append(f"{behind} samples are padded behind; those steps are cut, too.")
    return found


def _arrays(part: Any, name: str, path: Path) -> tuple[dict[str, Array], Array]:
    """modality → [N, T, F], and labels [N]."""
    if not isinstance(part, dict):
        headline = (
            f"{path}: {name!r} holds a {type(part).__name__}, not a dict of vision, audio, text and labels"
        )
        raise data_error(headline, [], WRONG_LAYOUT)
    if missing := [key for key in (*KEYS.values(), "labels") if key not in part]:
        named = [f"{key!r}{nearest(key, [k for k in part if isinstance(k, str)])}" for key in missing]
        raise data_error(f"{path}: {name!r} lacks", named, WRONG_LAYOUT)
    if wrong := [f"{key}: {_describe(part[key])}" for key in KEYS.values() if not _is_stack(part[key])]:
        raise data_error(f"{path}: {name!r} has features that are not numbers [N, T, F]", wrong, WRONG_LAYOUT)
    arrays: dict[str, Array] = {modality: part[key] for modality, key in KEYS.items()}
    labels = part["labels"] if isinstance(part["labels"], np.ndarray) else np.zeros(0)
    shapes = [f"{modality} {list(array.shape)}" for modality, array in arrays.items()]
    if len({array.shape[:2] for array in arrays.values()}) > 1:
        headline = f"{path}: {name!r} has different numbers of samples or steps, so they are not aligned"
        raise data_error(headline, shapes, WRONG_LAYOUT)
    count = len(arrays["text"])
    if labels.size != count or (count and len(labels) != count):
        headline = f"{path}: {name!r} has labels ({_describe(part['labels'])}) for {count} samples"
        raise data_error(headline, shapes, WRONG_LAYOUT)
    return arrays, labels.reshape(count)


def _is_stack(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype.kind in "fiu"


def _describe(value: Any) -> str:
    return (
        f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    )


def _ids(part: dict[str, Any], name: str, count: int, path: Path, notes: list[str]) -> list[str]:
    """An id a row; without ids in the file `train-0` and so on."""
    if "id" not in part:
        notes.append(f"{path.name}: {name!r} has no ids; samples are numbered.")
        return [f"{name}-{row}" for row in range(count)]
    ids = part["id"]
    if not isinstance(ids, list | tuple | np.ndarray) or len(ids) != count:
        raise data_error(f"{path}: {name!r} has not one id for each of its {count} samples", [], WRONG_LAYOUT)
    return ["_".join(id_of(each, path) for each in np.atleast_1d(np.asarray(i, object)).ravel()) for i in ids]


def _real_steps(sample: dict[str, Array]) -> tuple[int, int]:
    """The first step with text, and the one after the last in which anything is not zero; (0, 0): there is no
    text."""
    text = np.flatnonzero((sample["text"] != 0).any(axis=1))
    if not len(text):
        return 0, 0
    filled = np.flatnonzero(np.logical_or.reduce([(array != 0).any(axis=1) for array in sample.values()]))
    return int(text[0]), int(filled[-1]) + 1
