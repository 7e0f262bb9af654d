"""UR-Funny's two published forms: the SDK's six pickles, and MultiBench's one (datasets.md §4.2)."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS, Split
from g2d_pipeline.errors import DataError, data_error, did_you_mean
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.pickles import load_plain

Array = npt.NDArray[Any]
FOLDS: dict[str, Split] = {"train": "train", "dev": "val", "valid": "val", "val": "val", "test": "test"}
KEYS = {"audio": "audio", "visual": "vision", "text": "text"}  # modality → MultiBench's key
LISTS = (list, tuple, np.ndarray)
NUMBERS = frozenset({int, float, bool, np.float16, np.float32, np.float64, np.int32, np.int64})


class Sample(NamedTuple):
    """`sentences`: the context's, where asked for, then the punchline: modality → [n, F]; n may differ
    between modalities. `file`, `row`: where it is, for messages."""

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


def layout_error(headline: str, offenders: list[str] | None = None) -> DataError:
    remedy = "take UR-Funny V2 as published: this file is damaged, or of another data set or version."
    return data_error(headline, offenders or [], remedy)


# ------------------------------------------------------------------------------------------ the SDK's pickles
def read_sdk(root: Path, files: Mapping[str, str], context: bool) -> Collection:
    """The samples of the folds, in their order; one of the large files at a time is in memory.

    `files`: content → name. Ids may be whole numbers in one file and text in another. Raises DataError where
    a file is not of this layout, or an id is in two folds; a missing or damaged sample is a bad row."""
    sentences = "the context's sentences and the punchline" if context else "the punchline alone"
    collection = Collection(notes=[f"Read from the SDK's six pickles: {sentences}."])
    splits = _read_folds(root / files["folds"])
    labels = _read_by_id(root / files["labels"], splits, collection.notes)
    look_up = _word_vectors(root / files["embeddings"])
    faults: dict[str, BadRow] = {}
    parts: dict[str, dict[str, list[Array]]] = {i: {} for i in splits}
    for modality in ("text", "audio", "visual"):
        suffix, convert = ("embedding_indexes", look_up) if modality == "text" else ("features", steps_of)
        entries = _read_by_id(root / files[modality], splits, collection.notes)
        for i in splits:
            try:
                listed = _sentences(entries.pop(i, None), suffix, context)
                parts[i][modality] = [convert(sentence) for sentence in listed]
            except ValueError as error:
                faults.setdefault(i, BadRow(files[modality], None, f"id {i}: {error}"))
    for i, split in splits.items():
        sample = parts.pop(i)
        if i not in faults and i not in labels:
            faults[i] = BadRow(files["labels"], None, f"id {i}: it is missing")
        elif i not in faults and len({len(part) for part in sample.values()}) > 1:
            counts = ", ".join(f"{modality} {len(part)}" for modality, part in sample.items())
            faults[i] = BadRow(files["text"], None, f"id {i}: the numbers of sentences differ: {counts}")
        if i in faults:
            collection.bad.append(faults[i])
            continue
        aligned = [dict(zip(sample, arrays, strict=True)) for arrays in zip(*sample.values(), strict=True)]
        collection.samples.append(Sample(i, split, labels[i], aligned, files["text"]))
    return collection


def _read_folds(path: Path) -> dict[str, Split]:
    """id → split, in the file's order."""
    splits: dict[str, Split] = {}
    repeated: list[str] = []
    for split, (name, ids) in _read_splits(path).items():
        if not isinstance(ids, LISTS):
            raise layout_error(f"{path}: fold {name!r} is a {type(ids).__name__}, not a list of ids")
        for i in (id_of(each, path) for each in ids):
            if i in splits:
                repeated.append(f"id {i} in {splits[i]} and in {split}")
            splits[i] = split
    if repeated:
        raise data_error(f"{path} has ids more than once", repeated, "download the file again.")
    return splits


def _read_by_id(path: Path, ids: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """id → the file's entry, of those in `ids`; a note counts the others."""
    content = load_plain(path)
    if not isinstance(content, dict):
        raise layout_error(f"{path} holds a {type(content).__name__}, not a dict of ids")
    keys = [id_of(i, path) for i in content]
    entries = dict(zip(keys, content.values(), strict=True))
    if repeated := sorted(key for key, count in Counter(keys).items() if count > 1):
        raise data_error(f"{path} has ids both as numbers and as text", repeated, "download the file again.")
    if others := entries.keys() - ids.keys():
        notes.append(f"{path.name}: {len(others)} ids that are in no fold are left out.")
    return {i: entry for i, entry in entries.items() if i in ids}


def _sentences(entry: Any, suffix: str, context: bool) -> list[Any]:
    """The context's sentences, where asked for, and the punchline; ValueError: what is wrong with them."""
    before, punchline = f"context_{suffix}", f"punchline_{suffix}"
    if entry is None:
        raise ValueError("it is missing")
    for key in (punchline, before) if context else (punchline,):
        if not isinstance(entry, dict) or key not in entry:
            raise ValueError(f"it has no {key!r}")
    sentences = entry[before] if context else []
    if not isinstance(sentences, LISTS):
        raise ValueError(f"{before!r} is a {type(sentences).__name__}, not a list of sentences")
    return [*sentences, entry[punchline]]


def _word_vectors(path: Path) -> Callable[[Any], Array]:
    """A function from word indexes [n] to the vectors [n, F] in the file `path`."""
    content = load_plain(path)
    try:
        vectors = steps_of(content, "word")
    except ValueError as error:
        raise layout_error(f"{path}: {error}") from None
    if not len(vectors):
        raise layout_error(f"{path} holds no word")

    def look_up(indexes: Any) -> Array:
        if not isinstance(indexes, LISTS):
            raise ValueError(f"word indexes are a {type(indexes).__name__}, not a list")
        if not all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in indexes):
            raise ValueError("word indexes are not all whole numbers")
        if outside := [int(k) for k in indexes if not 0 <= k < len(vectors)]:
            raise ValueError(f"word index {outside[0]} is outside the {len(vectors)} words of {path.name}")
        return vectors[np.array(indexes, np.int64)] if len(indexes) else np.zeros((0, 0), np.float32)

    return look_up


# ------------------------------------------------------------------------------------------ MultiBench's file
def read_multibench(root: Path, files: Mapping[str, str], context: bool) -> Collection:
    """train/valid/test → vision, audio, text [N, T, F], labels [N, …] and, in some files, id [N, …].

    Padding is cut: the steps before the first one with text, and those at the end where all is zero. A step
    of zeros between others is an unknown word. Raises DataError where the file is not of this layout."""
    path = root / files["multibench"]
    collection = Collection(notes=[f"Read from {path.name}, MultiBench's form of UR-Funny."])
    padded = 0
    for split, (name, part) in _read_splits(path).items():
        arrays, labels = _check_part(part, f"{path}: {name!r}")
        if "id" not in part:
            collection.notes.append(f"{path.name}: {name!r} has no ids; samples are numbered.")
        ids = part.get("id", [f"{name}-{row}" for row in range(len(labels))])
        if not isinstance(ids, LISTS) or len(ids) != len(labels):
            raise layout_error(f"{path}: {name!r} has not one id for each of its {len(labels)} samples")
        filled = {modality: np.any(array, axis=2) for modality, array in arrays.items()}  # [N, T]
        text, real = filled["text"], np.logical_or.reduce(list(filled.values()))
        for row, (parts, label) in enumerate(zip(ids, labels, strict=True)):
            steps = slice(0, 0)
            if text[row].any():
                steps = slice(int(text[row].argmax()), int(real[row].nonzero()[0][-1]) + 1)
                padded += steps.stop < len(text[row])
            sentence = {modality: array[row, steps] for modality, array in arrays.items()}
            i = "_".join(id_of(each, path) for each in np.ravel(np.asarray(parts, object)))
            collection.samples.append(Sample(i, split, label, [sentence], f"{path.name}, {name}", row))
    if padded:
        collection.notes.append(f"{padded} samples are padded behind; those steps are cut, too.")
    if context:
        unchanged = "context: true changes nothing: this file has one sequence a sample, as it is."
        collection.notes.append(unchanged)
    return collection


def _check_part(part: Any, place: str) -> tuple[dict[str, Array], Array]:
    """modality → [N, T, F], and labels [N], of one split of MultiBench's file."""
    keys = [*KEYS.values(), "labels"]
    if not isinstance(part, dict):
        raise layout_error(f"{place} holds a {type(part).__name__}, not a dict of {', '.join(keys)}")
    if missing := [key for key in keys if key not in part]:
        names = [key for key in part if isinstance(key, str)]
        raise layout_error(f"{place} lacks", [f"{key!r}{did_you_mean(key, names)}" for key in missing])
    arrays, labels = {modality: part[key] for modality, key in KEYS.items()}, part["labels"]
    forms = [f"{key}: {_form(part[key])}" for key in keys]
    for array in arrays.values():
        if not (isinstance(array, np.ndarray) and array.ndim == 3 and array.dtype.kind in "fiu"):
            raise layout_error(f"{place} has features that are not numbers [N, T, F]", forms)
    if len({array.shape[:2] for array in arrays.values()}) > 1:
        unlike = "has different numbers of samples or steps, so they are not aligned"
        raise layout_error(f"{place} {unlike}", forms)
    count = len(arrays["text"])
    if not isinstance(labels, np.ndarray) or labels.size != count or (count and len(labels) != count):
        raise layout_error(f"{place} has not one label for each of its {count} samples", forms)
    return arrays, labels.reshape(count)


def _form(value: Any) -> str:
    is_array = isinstance(value, np.ndarray)
    return f"{value.dtype} {list(value.shape)}" if is_array else f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------------- both
def _read_splits(path: Path) -> dict[Split, tuple[str, Any]]:
    """split → (its name in the file, its content); DataError where one of the three is missing."""
    content = load_plain(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise layout_error(f"{path} holds a {kind}, not a dict of train, dev (or valid) and test")
    parts = {FOLDS[name]: (name, part) for name, part in content.items() if name in FOLDS}
    if missing := [split for split in SPLITS if split not in parts]:
        names = ", ".join(repr(name)[:40] for name in list(content)[:8]) or "nothing"
        raise layout_error(f"{path} has no {' and no '.join(missing)} part; it has {names}")
    return {split: parts[split] for split in SPLITS}


def id_of(value: Any, path: Path) -> str:
    """An id as text: the whole number 12 and the text "12" are the same id. DataError for anything else."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str) and (text := value.strip()):
        return str(int(text)) if text.isascii() and text.isdecimal() and len(text) < 19 else text
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) < 10**18:
        return str(int(value))
    raise layout_error(f"{path} has an id that is neither a whole number nor text: {short_repr(value)}")


def steps_of(value: Any, what: str = "step") -> Array:
    """A sentence's features, an array or lists of numbers, → [n, F]; without a step [0, 0], however written.

    Numbers in lists become float32; what float32 can not hold is infinite. ValueError: what is wrong."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        if value.size == 0:
            return np.zeros((0, 0), np.float32)
        if value.ndim != 2:
            raise ValueError(f"features of shape {list(value.shape)} instead of [{what}s, numbers]")
        return value
    if not isinstance(value, LISTS):
        raise ValueError(f"features are a {type(value).__name__}, not a list of {what}s")
    rows: list[Array] = []
    for i, row in enumerate(value):
        numeric = isinstance(row, np.ndarray) and row.dtype.kind in "fiub" and row.ndim == 1
        if not numeric and (not isinstance(row, list | tuple) or not set(map(type, row)) <= NUMBERS):
            raise ValueError(f"{what} {i} is not a list of numbers")
        try:
            with np.errstate(over="ignore"):
                rows.append((row if numeric else np.array(row, np.float64)).astype(np.float32))
        except OverflowError:
            raise ValueError(f"{what} {i} has a number of more than 300 digits") from None
    if len(widths := sorted({len(row) for row in rows})) > 1:
        raise ValueError(f"{what}s of {', '.join(map(str, widths))} numbers")
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


READERS = {"sdk": read_sdk, "multibench": read_multibench}
