"""Samples that can not be used: an error, or left out while their share is at most `max_bad_fraction`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from g2d_pipeline.config import SPLITS
from g2d_pipeline.errors import data_error
from g2d_pipeline.features.media import Media

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
        bad, total = int(self.bad_rows().sum()), len(self.sample_ids)
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

    def bad_rows(self) -> npt.NDArray[np.bool_]:
        """`[N]`: which samples are bad."""
        bad = np.zeros(len(self.sample_ids), bool)
        for name, faults in self.reasons.items():
            for k in faults:
                bad[self.media[name].rows(k)] = True
        return bad

    def dropped(self) -> list[dict[str, Any]]:
        """Every bad sample, in the manifest's order: its id, the first bad modality, the file, the reason."""
        bad: dict[int, dict[str, Any]] = {}
        for name, media in self.media.items():
            for k, reason in self.reasons.get(name, {}).items():
                for row in media.rows(k).tolist():
                    about = {"modality": name, "file": media.cells[k], "reason": reason}
                    bad.setdefault(row, {"sample_id": self.sample_ids[row]} | about)
        return [bad[row] for row in sorted(bad)]


def without(table: pd.DataFrame, meta: Mapping[str, Any], bad: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """The manifest's table without the bad rows. Raises DataError where a split, or a class of train, would
    have no sample left, or a target of train but one value."""
    kept = table.loc[~bad]
    gone = [f"split {s}" for s in SPLITS if (table["split"] == s).any() and not (kept["split"] == s).any()]
    before, after = (t.loc[t["split"] == "train", "target"] for t in (table, kept))
    if meta["task"] == "classification":
        names = list(meta["class_names"])
        lost = sorted(set(before) - set(after))
        gone += [f"class {names[c] if 0 <= c < len(names) else c} of train" for c in lost]
    elif before.nunique() > 1 and after.nunique() <= 1:
        gone.append("all values but one of the target in train")
    if gone:
        headline = f"Without the {int(bad.sum())} samples that can not be used, nothing would be left of"
        raise data_error(headline, gone, f"{REMEDY}; then run again.")
    return kept


def target_of(table: pd.DataFrame, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's facts about the target; of a regression, measured on the train samples that are left."""
    target = dict(meta["target"])
    if meta["task"] == "regression" and "std" in target:
        y = table.loc[table["split"] == "train", "target"].astype("float64")
        measured = {"mean": y.mean(), "std": y.std(ddof=0), "min": y.min(), "max": y.max()}
        target |= {key: float(value) for key, value in measured.items()}
    return target


def note_dropped(dropped: Sequence[Mapping[str, Any]], total: int) -> list[str]:
    """A sentence for `meta.json`; it is logged, too."""
    if not dropped:
        return []
    first = dropped[0]
    example = f"{first['sample_id']} ({first['file']} {first['reason']})"
    more = "" if len(dropped) == 1 else ", …"
    note = f"{len(dropped)} of {total} samples are dropped, as their files can not be used: {example}{more}"
    logger.warning("%s; meta.json lists them.", note)
    return [note]
