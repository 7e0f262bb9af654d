"""UR-Funny's samples, cleaned and cut as published; what is done is counted and noted (datasets.md §4.3,
§4.6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.errors import data_error
from g2d_pipeline.sources.faults import BadRow
from g2d_pipeline.sources.ur_funny_samples import Array, Collection, Sample

STEPS = 50  # as MultiBench's file
APART = 2  # steps by which the modalities of a sentence may differ
V2_FOLDS = {"train": 7614, "val": 980, "test": 994}
VERSIONS = {
    75: "UR-Funny V1's, with other samples than V2: published accuracies are V2's",
    91: "a selection of 91 (HKT's)",
    371: "OpenFace 2, as in UR-Funny V2",
}

Steps = npt.NDArray[np.float32]


@dataclass
class Record:
    """What is in the arrays, a row a sample, and what is not: `published`: dropped by protocol; `bad`:
    unusable."""

    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    published: list[BadRow] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    total: int = 0
    notes: list[str] = field(default_factory=list)


def clean(collection: Collection) -> tuple[Record, list[dict[str, Steps]]]:
    """The record, and of each of its samples modality → [L, F], 1 ≤ L ≤ 50.

    In this order: sentences whose modalities differ by one or two steps are cut to the shortest; samples
    without text are dropped (published protocol); longer ones lose their first steps, so that the punchline's
    end stays; what is not finite becomes 0; labels below 1 are 0, the others 1."""
    record = Record(bad=list(collection.bad), total=len(collection.samples) + len(collection.bad))
    arrays: list[dict[str, Steps]] = []
    counts: Counter[str] = Counter()
    widths = _widths(collection.samples)
    seen: dict[str, Sample] = {}
    twice: list[str] = []
    for sample in collection.samples:
        if sample.id in seen:
            twice.append(f"{sample.id}: {sample.file} and {seen[sample.id].file}")
        seen[sample.id] = sample
        try:
            target = _target(sample.label, counts)
            together = _join(sample.sentences, widths, counts)
        except ValueError as error:
            record.bad.append(BadRow(sample.file, sample.row, f"id {sample.id}: {error}"))
            continue
        if not sample.sentences[-1]["text"].any():
            reason = "the punchline has no text (no word, or all zero); left out as published"
            record.published.append(BadRow(sample.file, sample.row, f"id {sample.id}: {reason}"))
            continue
        length = len(together["text"])
        counts["long"] += length > STEPS
        arrays.append({m: _finite(array[-STEPS:], m, counts) for m, array in together.items()})
        counts["no face"] += not arrays[-1]["visual"].any()
        record.ids.append(sample.id)
        record.splits.append(sample.split)
        record.targets.append(target)
        record.steps.append(min(length, STEPS))
    if twice:
        raise data_error("Ids that are not unique", twice, "download the file again.")
    record.notes = [*collection.notes, *_notes(record, collection, widths, counts)]
    return record, arrays


def _widths(samples: Sequence[Sample]) -> dict[str, int]:
    """modality → F, the most frequent one."""
    found: dict[str, Counter[int]] = {}
    for sample in samples:
        for sentence in sample.sentences:
            for modality, array in sentence.items():
                if len(array):
                    found.setdefault(modality, Counter())[array.shape[1]] += 1
    return {modality: counter.most_common(1)[0][0] for modality, counter in found.items()}


def _join(
    sentences: Sequence[Mapping[str, Array]], widths: Mapping[str, int], counts: Counter[str]
) -> dict[str, Array]:
    """modality → [L, F] of all sentences; ValueError where the modalities do not fit each other."""
    kept: dict[str, list[Array]] = {m: [np.zeros((0, widths.get(m, 0)), np.float32)] for m in sentences[0]}
    uneven = False
    for sentence in sentences:
        lengths = {modality: len(array) for modality, array in sentence.items()}
        shortest = min(lengths.values())
        if max(lengths.values()) - shortest > APART:
            named = ", ".join(f"{modality} {n}" for modality, n in lengths.items())
            raise ValueError(f"the steps of a sentence differ by more than {APART}: {named}")
        uneven |= max(lengths.values()) > shortest
        for modality, array in sentence.items():
            if len(array) and array.shape[1] != widths[modality]:
                raise ValueError(
                    f"{modality} has steps of {array.shape[1]} numbers; the others have {widths[modality]}"
                )
            if shortest:
                kept[modality].append(array[:shortest])
    counts["uneven"] += uneven
    together = {modality: np.concatenate(parts) for modality, parts in kept.items()}
    if not len(together["text"]) and uneven:
        raise ValueError("a modality has no step")
    return together


def _target(label: Any, counts: Counter[str]) -> int:
    """0 or 1, of a number or an array of one; ValueError for anything else."""
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.reshape(-1)[0]
    if not isinstance(label, int | float | np.number | np.bool_) or not math.isfinite(float(label)):
        raise ValueError(f"its label is {label!r:.40}, not a number")
    counts["labels"] += float(label) not in (0.0, 1.0)
    return int(float(label) >= 1)


def _finite(array: Array, modality: str, counts: Counter[str]) -> Steps:
    """float32 [L, F] with 0 in the place of NaN and of what is infinite."""
    with np.errstate(over="ignore"):
        steps = np.array(array, np.float32)
    wrong = ~np.isfinite(steps)
    if wrong.any():
        steps[wrong] = 0
        counts[f"{modality} values"] += int(wrong.sum())
        counts[f"{modality} samples"] += 1
    return steps


def _notes(
    record: Record, collection: Collection, widths: Mapping[str, int], counts: Counter[str]
) -> list[str]:
    visual = widths.get("visual", 0)
    of = VERSIONS.get(visual, "of no published version")
    notes = [
        f"Numbers a step: audio {widths.get('audio', 0)}, visual {visual} ({of}), text {widths.get('text', 0)}."
    ]
    folds = Counter[str](sample.split for sample in collection.samples)
    shown = ", ".join(f"{split} {folds[split]}" for split in V2_FOLDS)
    same = "as" if all(folds[split] == n for split, n in V2_FOLDS.items()) else "unlike"
    notes.append(f"Samples that could be read: {shown}, {same} the published V2 ({_and(V2_FOLDS)}).")
    if record.published:
        notes.append(
            f"{len(record.published)} samples without text are left out, as published; they are listed."
        )
    for modality in widths:
        if values := counts[f"{modality} values"]:
            samples = counts[f"{modality} samples"]
            notes.append(
                f"{modality}: {values} values in {samples} samples are NaN or infinite, and become 0."
            )
    if counts["uneven"]:
        notes.append(
            f"{counts['uneven']} samples whose modalities differ by one or two steps are cut to the shortest."
        )
    if counts["long"]:
        notes.append(f"{counts['long']} samples are longer than {STEPS} steps; their first ones are cut.")
    if counts["no face"]:
        notes.append(f"{counts['no face']} samples are all zero in visual: no face was found.")
    if counts["labels"]:
        notes.append(f"{counts['labels']} labels are neither 0 nor 1: those below 1 become 0, the others 1.")
    return notes


def _and(counts: Mapping[str, int]) -> str:
    return " / ".join(f"{n:,}" for n in counts.values())
