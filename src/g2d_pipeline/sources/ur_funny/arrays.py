"""UR-Funny's samples, cleaned and cut as published (datasets.md §4.3, §4.6), as open arrays beside the
pickles: written once, into a folder that the pickles' content identifies. Every change is noted."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from reprlib import repr as short_repr
from statistics import mode
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from g2d_pipeline.errors import data_error
from g2d_pipeline.files import atomic_folder, load_npy
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.hashing import hash_files
from g2d_pipeline.sources.ur_funny.readers import KEYS, READERS, Array, Collection, Sample

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same pickles give other arrays
RECORD = "samples.json"
STEPS = 50  # as MultiBench's file
UNEVEN = 2  # steps by which the modalities of a sentence may differ
V2_FOLDS = {"train": 7614, "val": 980, "test": 994}
VERSIONS = {
    75: "UR-Funny V1's, with other samples than V2: published accuracies are V2's",
    91: "a selection of 91 (HKT's)",
    371: "OpenFace 2, as in UR-Funny V2",
}
NUMBER = (int, float, np.integer, np.floating, np.bool_)
COLUMNS = ("sample_id", "split", "target", "steps")

Steps = npt.NDArray[np.float32]


class Record(BaseModel):
    """`rows`: the values of `COLUMNS` of each row of the arrays; `published`: samples that the published
    protocol leaves out; `bad`: unusable ones; `total`: of samples, bad ones included."""

    rows: list[tuple[str, str, int, int]] = []
    published: list[BadRow] = []
    bad: list[BadRow] = []
    total: int = 0
    notes: list[str] = []


def converted(
    root: Path, form: str, files: Mapping[str, str], context: bool, check: Callable[[Record], object]
) -> tuple[str, Record]:
    """The name of the folder of arrays below `root`, and its record; made unless it is there for these files.

    `form`: a key of `READERS`; `files`: content → name; `check` raises where a record has too many bad
    samples: nothing is written. The folder is named by the content of `files` and appears when it is whole:
    for each modality `<modality>.npy`, float32 [N, T, F] with T the longest sample's steps, at most 50; the
    steps behind a sample's end are NaN in all features, and nothing else is NaN. Raises DataError as the
    readers do, and where the folder can not be written."""
    paths = [root / name for name in sorted(files.values())]
    folder = f"converted-{hash_files(paths, root, f'ur_funny:{VERSION}:{context}', None)[:12]}"
    if (record := _read_record(root / folder)) is not None:
        return folder, record
    logger.info("Converting the pickles in %s to arrays, once …", root)
    record, arrays = clean(READERS[form](root, files, context))
    check(record)
    if not arrays:
        raise data_error(f"{root} holds no usable sample", map(str, record.published), "replace the files.")
    try:
        with atomic_folder(root / folder) as new:
            for modality in arrays[0]:
                _write_array(new / f"{modality}.npy", [sample[modality] for sample in arrays])
            (new / RECORD).write_bytes(record.model_dump_json().encode())
    except OSError as error:
        headline = f"The pickles can not be converted into {root / folder} ({error.strerror})"
        remedy = "make room and give permission there, or link the pickles into a folder that raw_dir names."
        raise data_error(headline, [], remedy) from None
    return folder, record


def _write_array(path: Path, samples: Sequence[Steps]) -> None:
    """A .npy file [N, T, F], one sample after the other: a full disk is an OSError, not a crash of a map."""
    block = np.empty((max(map(len, samples)), samples[0].shape[1]), "<f4")
    shape = (len(samples), *block.shape)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for sample in samples:
            block[: len(sample)] = sample
            block[len(sample) :] = np.nan
            file.write(block.tobytes())


def _read_record(folder: Path) -> Record | None:
    """The record of a folder that exists and is whole; None otherwise."""
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        arrays = [load_npy(folder / f"{m}.npy", "r") for m in KEYS]
        if {len(record.rows)} == set(map(len, arrays)):
            return record
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError):
        pass
    logger.warning("%s is not whole; it is made anew.", folder)
    return None


# --------------------------------------------------------------------------------------------------- cleaning
def clean(collection: Collection) -> tuple[Record, list[dict[str, Steps]]]:
    """The record, and for each of its rows modality → [L, F], 1 ≤ L ≤ 50.

    In this order: sentences whose modalities differ by one or two steps are cut to the shortest; samples
    without text are left out (published protocol); longer ones lose their first steps, so that the
    punchline's end stays; what is not finite becomes 0; labels below 1 are 0, the others 1."""
    record = Record(bad=list(collection.bad), total=len(collection.samples) + len(collection.bad))
    arrays: list[dict[str, Steps]] = []
    counts: Counter[str] = Counter()
    widths = _widths(collection.samples)
    first: dict[str, Sample] = {}
    repeated: list[str] = []
    for sample in collection.samples:
        if (other := first.setdefault(sample.id, sample)) is not sample:
            repeated.append(f"{sample.id}: {sample.file} and {other.file}")
        try:
            target = _target(sample.label, counts)
            joined = _join(sample.sentences, widths, counts)
        except (ValueError, OverflowError) as error:
            record.bad.append(BadRow(sample.file, sample.row, f"id {sample.id}: {error}"))
            continue
        if not sample.sentences[-1]["text"].any():
            reason = "the punchline has no text (no word, or all zero); left out as published"
            record.published.append(BadRow(sample.file, sample.row, f"id {sample.id}: {reason}"))
            continue
        length = len(joined["text"])
        counts["long"] += length > STEPS
        arrays.append({m: _finite(array[-STEPS:], m, counts) for m, array in joined.items()})
        counts["no face"] += not arrays[-1]["visual"].any()
        record.rows.append((sample.id, sample.split, target, min(length, STEPS)))
    if repeated:
        raise data_error("Ids that are not unique", repeated, "download the file again.")
    counts["no text"] = len(record.published)
    folds = Counter[str](sample.split for sample in collection.samples)
    record.notes = [*collection.notes, *_notes(folds, widths, counts)]
    return record, arrays


def _widths(samples: Sequence[Sample]) -> dict[str, int]:
    """modality → F, the most frequent one."""
    parts = chain.from_iterable(s.items() for sample in samples for s in sample.sentences)
    widths = [(modality, array.shape[1]) for modality, array in parts if len(array)]
    return {modality: mode(f for m, f in widths if m == modality) for modality in dict(widths)}


def _join(
    sentences: Sequence[Mapping[str, Array]], widths: Mapping[str, int], counts: Counter[str]
) -> dict[str, Array]:
    """modality → [L, F] of all sentences; ValueError where the modalities do not fit each other."""
    parts: dict[str, list[Array]] = {m: [np.zeros((0, widths.get(m, 0)), np.float32)] for m in sentences[0]}
    uneven = False
    for sentence in sentences:
        lengths = {modality: len(array) for modality, array in sentence.items()}
        shortest, longest = min(lengths.values()), max(lengths.values())
        if longest - shortest > UNEVEN:
            listed = ", ".join(f"{modality} {n}" for modality, n in lengths.items())
            raise ValueError(f"the steps of a sentence differ by more than {UNEVEN}: {listed}")
        uneven |= longest > shortest
        for modality, array in sentence.items():
            width = widths.get(modality, 0)
            if len(array) and array.shape[1] != width:
                raise ValueError(f"{modality} has steps of {array.shape[1]} numbers; the others have {width}")
            if shortest:
                parts[modality].append(array[:shortest])
    counts["uneven"] += uneven
    joined = {modality: np.concatenate(arrays) for modality, arrays in parts.items()}
    if not len(joined["text"]) and uneven:
        raise ValueError("a modality has no step")
    return joined


def _target(label: Any, counts: Counter[str]) -> int:
    """0 or 1, of a number or an array of one; ValueError for anything else."""
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.reshape(-1)[0]
    if not isinstance(label, NUMBER) or not math.isfinite(label):
        raise ValueError(f"its label is {short_repr(label)}, not a number")
    counts["labels"] += float(label) not in (0.0, 1.0)
    return int(float(label) >= 1)


def _finite(array: Array, modality: str, counts: Counter[str]) -> Steps:
    """float32 [L, F] with 0 in the place of NaN and of what is infinite."""
    with np.errstate(over="ignore"):
        steps = np.array(array, np.float32)
    wrong = int((~np.isfinite(steps)).sum())
    counts[f"{modality} values"] += wrong
    counts[f"{modality} samples"] += wrong > 0
    return np.nan_to_num(steps, copy=False, nan=0, posinf=0, neginf=0)


def _notes(folds: Counter[str], widths: Mapping[str, int], counts: Counter[str]) -> list[str]:
    audio, visual, text = (widths.get(modality, 0) for modality in ("audio", "visual", "text"))
    version = VERSIONS.get(visual, "of no published version")
    sizes = ", ".join(f"{split} {folds[split]}" for split in V2_FOLDS)
    same = "as" if all(folds[split] == n for split, n in V2_FOLDS.items()) else "unlike"
    published = " / ".join(f"{n:,}" for n in V2_FOLDS.values())
    wrong = "values in {} samples are NaN or infinite, and become 0."
    sentences = {
        "no text": "{} samples without text are left out, as published; they are listed.",
        **{f"{m} values": f"{m}: {{}} {wrong.format(counts[f'{m} samples'])}" for m in widths},
        "uneven": "{} samples whose modalities differ by one or two steps are cut to the shortest.",
        "long": f"{{}} samples are longer than {STEPS} steps; their first ones are cut.",
        "no face": "{} samples are all zero in visual: no face was found.",
        "labels": "{} labels are neither 0 nor 1: those below 1 become 0, the others 1.",
    }
    return [
        f"Numbers a step: audio {audio}, visual {visual} ({version}), text {text}.",
        f"Samples that could be read: {sizes}, {same} the published V2 ({published}).",
        *(sentence.format(counts[key]) for key, sentence in sentences.items() if counts[key]),
    ]
