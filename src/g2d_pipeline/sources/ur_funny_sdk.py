"""UR-Funny's first form: the SDK's six pickles, one entry an id in each (datasets.md §4.2a)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Collection as Ids
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from g2d_pipeline.errors import DataError, data_error
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.pickles import load_plain
from g2d_pipeline.sources.ur_funny_samples import (
    WRONG_LAYOUT,
    Array,
    Collection,
    Sample,
    id_of,
    splits_of,
    steps_of,
)

if TYPE_CHECKING:
    from g2d_pipeline.config import Split


def read_sdk(root: Path, files: Mapping[str, str], context: bool) -> Collection:
    """The samples of the folds, in their order; one of the large files at a time is in memory.

    Ids may be whole numbers in one file and text in another. Raises DataError where a file is not of this
    layout, and where an id is in two folds; a sample that is missing or damaged in a file is a bad row."""
    found = Collection()
    splits = _folds(root / files["folds"])
    labels = _by_id(root / files["labels"], splits, found.notes)
    words = _lookup(root / files["embeddings"])
    names = {"text": files["language"], "audio": files["audio"], "visual": files["visual"]}
    parts: dict[str, dict[str, list[Array] | BadRow]] = {}
    for modality, file in names.items():
        suffix, convert = ("embedding_indexes", words) if modality == "text" else ("features", steps_of)
        entries = _by_id(root / file, splits, found.notes)
        parts[modality] = {
            i: _sentences(i, file, entries.pop(i, None), suffix, context, convert) for i in splits
        }
    for i, split in splits.items():
        of_id = {modality: parts[modality].pop(i) for modality in names}
        lists = {modality: part for modality, part in of_id.items() if isinstance(part, list)}
        if faults := [part for part in of_id.values() if isinstance(part, BadRow)]:
            found.bad.append(faults[0])
        elif i not in labels:
            found.bad.append(BadRow(files["labels"], None, f"id {i} is missing"))
        elif len({len(part) for part in lists.values()}) > 1:
            counts = ", ".join(f"{modality} {len(part)}" for modality, part in lists.items())
            found.bad.append(
                BadRow(names["text"], None, f"id {i}: the numbers of sentences differ: {counts}")
            )
        else:
            sentences = [
                dict(zip(lists, together, strict=True)) for together in zip(*lists.values(), strict=True)
            ]
            found.samples.append(Sample(i, split, labels[i], sentences, names["text"]))
    return found


def _folds(path: Path) -> dict[str, Split]:
    """id → split, in the file's order."""
    found: dict[str, Split] = {}
    twice: list[str] = []
    for split, (name, ids) in splits_of(load_plain(path), path).items():
        if not isinstance(ids, list | tuple | np.ndarray):
            raise data_error(
                f"{path}: fold {name!r} is a {type(ids).__name__}, not a list of ids", [], WRONG_LAYOUT
            )
        for i in ids:
            key = id_of(i, path)
            if key in found:
                twice.append(f"id {key} in {found[key]} and in {split}")
            found[key] = split
    if twice:
        raise data_error(f"{path} has ids more than once", twice, "download the file again.")
    return found


def _by_id(path: Path, wanted: Ids[str], notes: list[str]) -> dict[str, Any]:
    """id → what the file has for it, of the ids that are `wanted`; a note counts the others."""
    content = load_plain(path)
    if not isinstance(content, dict):
        raise data_error(f"{path} holds a {type(content).__name__}, not a dict of ids", [], WRONG_LAYOUT)
    keys = [id_of(i, path) for i in content]
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise data_error(f"{path} has ids both as numbers and as text", twice, "download the file again.")
    if others := len(set(keys) - set(wanted)):
        notes.append(f"{path.name}: {others} ids that are in no fold are left out.")
    return {key: entry for key, entry in zip(keys, content.values(), strict=True) if key in wanted}


def _sentences(
    i: str, file: str, entry: Any, suffix: str, context: bool, convert: Callable[[Any], Array]
) -> list[Array] | BadRow:
    """The context's sentences, where asked for, and the punchline, each [n, F]; or what is wrong with the
    entry."""
    before, punchline = f"context_{suffix}", f"punchline_{suffix}"
    if entry is None:
        return BadRow(file, None, f"id {i} is missing")
    if not isinstance(entry, dict) or punchline not in entry or (context and before not in entry):
        return BadRow(file, None, f"id {i} has no {punchline!r}" + (f" or no {before!r}" if context else ""))
    sentences = [entry[punchline]]
    if context:
        if not isinstance(entry[before], list | tuple | np.ndarray):
            return BadRow(
                file, None, f"id {i}: {before!r} is a {type(entry[before]).__name__}, not a list of sentences"
            )
        sentences = [*entry[before], *sentences]
    try:
        return [convert(sentence) for sentence in sentences]
    except ValueError as error:
        return BadRow(file, None, f"id {i}: {error}")


def _lookup(path: Path) -> Callable[[Any], Array]:
    """Word indexes [n] → the words' vectors [n, F] of the file `path`."""
    try:
        vectors = steps_of(load_plain(path), "word")
    except DataError:
        raise
    except ValueError as error:
        raise data_error(f"{path}: {error}", [], WRONG_LAYOUT) from None
    if not len(vectors):
        raise data_error(f"{path} holds no word", [], WRONG_LAYOUT)

    def look_up(indexes: Any) -> Array:
        if not isinstance(indexes, list | tuple | np.ndarray):
            raise ValueError(f"word indexes are a {type(indexes).__name__}, not a list")
        if not len(indexes):
            return np.zeros((0, 0), np.float32)
        whole = [k for k in indexes if isinstance(k, int | np.integer) and not isinstance(k, bool)]
        if len(whole) < len(indexes):
            raise ValueError("word indexes are not all whole numbers")
        if outside := [int(k) for k in whole if not 0 <= k < len(vectors)]:
            raise ValueError(f"word index {outside[0]} is outside the {len(vectors)} words of {path.name}")
        return vectors[np.array(whole, np.int64)]

    return look_up
