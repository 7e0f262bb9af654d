"""From decoded to stored: samples that can not be used are left out, while their share is at most
`max_bad_fraction`; then transforms of whole arrays, normalisers, and notes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from g2d_pipeline.config import SPLITS
from g2d_pipeline.errors import SHOWN, data_error
from g2d_pipeline.features.files import (
    FITTED,
    Array,
    Floats,
    Rows,
    create,
    mapped,
    rename,
    rows_in_file,
    with_checksum,
)
from g2d_pipeline.features.kinds import FileKind, Findings
from g2d_pipeline.features.kinds.base import first_few
from g2d_pipeline.features.media import CHUNK, Media
from g2d_pipeline.features.statistics import relative_errors
from g2d_pipeline.features.store import write_cells
from g2d_pipeline.files import release_pages

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

REMEDY = "copy or download these files again, or leave them out of the raw data"


@dataclass
class Faults:
    """What is wrong with which cells: modality → position in its cells → reason.

    A sample is bad where a cell of it is, in any modality. `allowed`: the greatest share of bad samples."""

    media: Mapping[str, Media]
    sample_ids: Sequence[str]
    allowed: float
    reasons: dict[str, dict[int, str]] = field(default_factory=dict)

    def add(self, name: str, faults: Mapping[int, str]) -> None:
        if faults:
            self.reasons.setdefault(name, {}).update(faults)

    def check(self) -> None:
        """Raise DataError, naming cells and samples, where more samples are bad than are allowed."""
        bad, total = len(self.dropped()), len(self.sample_ids)
        if bad <= self.allowed * total:
            return
        parts, named = [], []
        for name, faults in self.reasons.items():
            media = self.media[name]
            parts.append(f"{len(faults)} of {len(media.cells)} {media.kind.plural} of modality {name!r}")
            named += [media.named(k, faults[k], self.sample_ids) for k in sorted(faults)]
        share = f"{bad} of {total} samples, {bad / total:.2%}; max_bad_fraction allows {self.allowed:.2%}"
        headline = f"{' and '.join(parts)} can not be used ({share})"
        remedy = f"{REMEDY}, or set max_bad_fraction to drop such samples; then run again."
        raise data_error(headline, named, remedy)

    def dropped(self) -> dict[int, dict[str, Any]]:
        """Row of every bad sample, ascending → its id, the first bad modality, the file, the reason."""
        bad: dict[int, dict[str, Any]] = {}
        for name, media in self.media.items():
            for k, reason in self.reasons.get(name, {}).items():
                about = {"modality": name, "file": media.cells[k], "reason": reason}
                for row in media.rows(k).tolist():
                    bad.setdefault(row, {"sample_id": self.sample_ids[row]} | about)
        return dict(sorted(bad.items()))


def without(
    table: pd.DataFrame, meta: Mapping[str, Any], dropped: Mapping[int, dict[str, Any]]
) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """(the manifest's table without the `dropped` rows, its facts about the target, notes).

    Of a regression the target is measured on the train samples that are left. Raises DataError where a split,
    or a class of train, would have no sample left, or a target of train but one value."""
    target = dict(meta["target"])
    if not dropped:
        return table, target, []
    kept = table.iloc[np.setdiff1d(np.arange(len(table)), list(dropped))].reset_index(drop=True)
    before, after = (t.loc[t["split"] == "train", "target"] for t in (table, kept))
    splits = set(table["split"]) - set(kept["split"])
    gone = [f"split {s}" for s in SPLITS if s in splits]
    if meta["task"] == "classification":
        names = list(meta["class_names"])
        lost = sorted(set(before) - set(after))
        gone += [f"class {names[c] if 0 <= c < len(names) else c} of train" for c in lost]
    elif before.nunique() > 1 and after.nunique() <= 1:
        gone.append("all values but one of the target in train")
    if gone:
        headline = f"Without the {len(dropped)} samples that can not be used, nothing would be left of"
        raise data_error(headline, gone, f"{REMEDY}; then run again.")
    if meta["task"] == "regression" and "std" in target:
        y = after.astype("float64")
        measured = {"mean": y.mean(), "std": y.std(ddof=0), "min": y.min(), "max": y.max()}
        target |= {key: float(value) for key, value in measured.items()}
    first, share = next(iter(dropped.values())), f"{len(dropped)} of {len(table)} samples"
    example = f"{first['sample_id']} ({first['file']} {first['reason']}){', …' if len(dropped) > 1 else ''}"
    note = f"{share} are dropped, as their files can not be used: {example}"
    logger.warning("%s; meta.json lists them.", note)
    return kept, target, [note]


def finish(
    folder: Path,
    media: Media,
    findings: Findings,
    kept: Rows,
    train: Rows,
    sample_ids: Sequence[str],
    split: Array,
    notes: list[str],
) -> dict[str, Any]:
    """From decoded to stored: the entry of a modality in `meta.json`; adds to its `notes`.

    `kept`: the decoded rows that are stored. `train` is of them, `sample_ids` and `split` are of all."""
    counts = describe_notes(media, findings, kept, sample_ids, split, notes)
    decoded, path = mapped(folder / media.file(media.kind.decoded)), folder / media.file()
    present, rows = np.unique(media.code[kept], return_index=True)  # cells, and a stored row of each
    statistics, more = dict[str, Any](), dict[str, Any]()
    if media.kind.decoded:
        samples = len(kept)
        array, statistics, errors = media.kind.transform(path, decoded, kept, train, sample_ids)
        more = {"decoded": str(decoded.dtype), FITTED: with_checksum(folder / media.file(FITTED))}
    else:
        samples, errors = _errors(folder, media, present, len(media.cells) - len(findings.faults))
        array = decoded
        if len(kept) < len(decoded):
            array = _move(folder / media.file("kept"), path, decoded, kept)
    scale = 1 / 255 if array.dtype == np.uint8 else 1.0
    mean, std, further = media.kind.normaliser(array, train, scale)
    release_pages(array)
    about: dict[str, Any] = {
        "shape": list(array.shape[1:]),
        "dtype": str(array.dtype),
        "normaliser": {"scale": scale, "mean": mean, "std": std},
        "statistics": statistics | further | {"distinct": len(present)},
        **more,
    }
    if errors is not None:
        count = samples * int(np.prod(decoded.shape[2:]))
        about["rounding"] = error = relative_errors(errors, count, std)
        notes.append(
            f"{media.name}: stored as float16, which rounds by at most {error['max']:.2g}, and by "
            f"{error['rms']:.2g} in the root mean square, in standard deviations of train."
        )
        logger.info(notes[-1])
    if (records := folder / media.file("records")).exists():
        cells = folder / media.file("cells")
        write_cells(cells, mapped(records)[present], rows)
        about["cells"] = with_checksum(cells)
    return about | {"found": counts}


def _errors(folder: Path, media: Media, present: Rows, good: int) -> tuple[int, Floats | None]:
    """How many cells, those that are `good` or `present`, have these rounding errors `[n, 2, C]`."""
    if media.spec.dtype != "float16":
        return 0, None
    if (file := folder / media.file("rounding")).exists():
        return good, np.asarray(mapped(file))
    records = mapped(folder / media.file("records"))[present]
    return len(present), np.stack([records["worst"], records["squares"]], axis=1)[:, :, None]


def _move(temporary: Path, path: Path, decoded: Array, kept: Rows) -> Array:
    """The rows `kept` of a decoded array alone, in its place."""
    array = create(temporary, decoded.dtype, (len(kept), *decoded.shape[1:]), rows_in_file(decoded))
    for start in range(0, len(kept), CHUNK):
        array[start : start + CHUNK] = decoded[kept[start : start + CHUNK]]
        release_pages(decoded)
        release_pages(array)
    array.flush()
    rename(temporary, path)
    return mapped(path)


def describe_notes(
    media: Media, findings: Findings, kept: Rows, sample_ids: Sequence[str], split: Array, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Add to `notes`, and log, what decoding noticed in the rows `kept`; returns for the data report
    note → how many `samples` of each split, and the `first` five."""
    noticed = {}
    for note, words in (FileKind.notes | media.kind.notes).items():
        counts = findings.notes[note]
        of_cell = np.zeros(len(media.cells), np.int64)
        of_cell[list(counts)] = list(counts.values())
        of_sample = of_cell[media.code]
        rows = kept[of_sample[kept] > 0]
        if not len(rows):
            continue
        ids = [sample_ids[row] for row in rows[: SHOWN + 1]]
        noticed[note] = {"samples": {s: int((split[rows] == s).sum()) for s in SPLITS}, "first": ids[:SHOWN]}
        what = f"{media.kind.plural} {words.format(total=of_sample[rows].sum())}"
        notes.append(f"{media.name}: {len(rows)} of {len(kept)} samples have {what}: {first_few(ids)}")
        logger.warning(notes[-1])
    return noticed
