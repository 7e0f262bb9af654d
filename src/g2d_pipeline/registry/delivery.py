"""New rows beside a champion's reference: can they be read, are they silent, shifted, labelled otherwise?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.config.retrain import GateSettings
from g2d_pipeline.evaluation.statistics import holm
from g2d_pipeline.registry import drift
from g2d_pipeline.registry.gates import Finding, judged, limited, name_first
from g2d_pipeline.registry.reference import Reference, Rows, Seen, contradicted, look_at
from g2d_pipeline.sources.manifest import Manifest


@dataclass
class Delivery:
    """The new rows of a manifest, `looked` of `total` that are looked at, beside a champion's reference."""

    manifest: Manifest
    root: Path
    champion: Path
    reference: Reference
    settings: GateSettings
    keys: pd.DataFrame
    looked: Rows
    total: int
    dropped: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def findings(self) -> Iterator[Finding]:
        """Of every gate that has a limit."""
        s = self.settings
        if limited(s.unreadable):
            yield self._unreadable()
        if len(self.looked) and limited(s.silent):
            yield from self._silent()
        if len(self.looked) and limited(s.shift):
            yield from self._shift()
        if len(self.looked) and limited(s.label_noise):
            yield self._label_noise()

    @cached_property
    def table(self) -> pd.DataFrame:
        return self.manifest.table.iloc[self.looked].reset_index(drop=True)

    @cached_property
    def ids(self) -> list[str]:
        return [str(i) for i in self.table["sample_id"]]

    @cached_property
    def seen(self) -> Seen:
        """The new rows through the champion, decoded once for all gates."""
        from g2d_pipeline.serving import load_model

        return look_at(load_model(self.champion), self.table, self.root)

    @cached_property
    def classes(self) -> list[str]:
        return list(self.reference.about["meta"]["class_names"])

    @cached_property
    def targets(self) -> npt.NDArray[np.float64]:
        """Values, or the champion's numbers of classes `[n]`: NaN of such that it does not know."""
        values = self.table["target"]
        if self.classes:
            numbers = {c: float(i) for i, c in enumerate(self.classes)}
            values = values.map({i: numbers.get(c) for i, c in enumerate(self.manifest.meta["class_names"])})
        return values.to_numpy(np.float64)

    def sides(self, reference: Rows | None = None, new: Any = None) -> drift.Sides:
        """The groups of these rows of both sides, of all by default."""
        groups = [t["group"] for t in (self.reference.samples, self.table) if "group" in t]
        if len(groups) < 2 or any(group.isna().any() for group in groups):
            return drift.Sides()
        codes = pd.factorize(pd.concat(groups).astype(str))[0].astype(np.int64)
        a, b = codes[: len(groups[0])], codes[len(groups[0]) :]
        return drift.Sides(a if reference is None else a[reference], b if new is None else b[new])

    def _unreadable(self) -> Finding:
        faults = self.seen.faults if len(self.looked) else {}
        share = len(faults) / len(self.looked) if len(self.looked) else 0.0
        value = (share * self.total + len(self.dropped)) / (self.total + len(self.dropped))
        named = [f"{self.ids[i]} ({why})" for i, why in sorted(faults.items())]
        named += [", ".join(f"{k} {v}" for k, v in item.items() if v is not None) for item in self.dropped]
        looked = f"{len(faults):,} of {len(self.looked):,} new rows that were looked at can not be used"
        lost = f", {len(self.dropped):,} were dropped when the data were read" if self.dropped else ""
        remedy = "copy or download them again, or take them out of the delivery"
        text = f"{looked}{lost} ({value:.1%} of what is new): {name_first(named)}; {remedy}."
        return judged("unreadable", value, self.settings.unreadable, text if named else f"{looked}.", named)

    def _silent(self) -> Iterator[Finding]:
        usable, good = self.reference.usable, np.flatnonzero(self.seen.good)
        for m, blank in self.seen.blank.items():
            before = self.reference.contents[f"blank/{m}"].to_numpy(float)[usable]
            blanks = blank[good].astype(float)
            value, p = drift.compare_shares(before, blanks, self.sides(usable, good))
            if not blanks.any() and not before.any():
                continue
            named = [self.ids[i] for i in good[blank[good]]]
            text = (
                f"{m}: {len(named):,} of {len(good):,} new samples are silent or blank, {before.mean():.1%} "
                f"were at training time (p = {p:.2g}): {name_first(named)}; check how they were recorded."
            )
            certain = p < self.settings.alpha
            yield judged(f"silent/{m}", max(0.0, value), self.settings.silent, text, named, p, certain)

    # ------------------------------------------------------------------------------------------------- shift
    def _shift(self) -> Iterator[Finding]:
        results = [*self._tests()]
        untested = sorted({name for name, shift in results if math.isnan(shift.p)})
        if untested:
            why = f"fewer than {drift.LEAST} new samples, counted as independent ones"
            self.notes.append(f"Not tested: {', '.join(untested)} ({why}).")
        adjusted = holm(np.array([shift.p for _, shift in results]))
        tests: dict[str, list[tuple[drift.Shift, float]]] = {}
        for (name, shift), p in zip(results, adjusted.tolist(), strict=True):
            if not math.isnan(p):
                tests.setdefault(name, []).append((shift, p))
        for name, shifts in tests.items():
            yield self._shifted(name, shifts)

    def _shifted(self, name: str, tests: list[tuple[drift.Shift, float]]) -> Finding:
        clear = sorted((t for t in tests if t[1] < self.settings.alpha), key=lambda t: -t[0].effect)
        worst, p = clear[0] if clear else max(tests, key=lambda t: t[0].effect)
        named = list(worst.first)
        first = f"a classifier tells them apart, the most unlike are {name_first(named)}"
        if not named:
            named = [f"{t.subject} ({t.measure} {t.effect:.2f})" for t, _ in clear or [(worst, p)]]
            first = f"{len(clear):,} of {len(tests):,} columns: {name_first(named)}"
        kind = f"{worst.measure} = {worst.effect:.2f}, p = {p:.2g}"
        text = f"the new data are like the champion's ({kind})."
        if clear:
            remedy = "look at these; if the change is meant, raise gates.shift"
            text = f"{len(self.looked):,} new rows differ from the champion's ({kind}): {first}; {remedy}."
        return judged(name, worst.effect, self.settings.shift, text, named, p, bool(clear))

    def _tests(self) -> Iterator[tuple[str, drift.Shift]]:
        """The finding's name, and what is compared: columns and the target of all rows, media by features."""
        meta, types = self.reference.about["meta"], self.reference.about["types"]
        old, sides = self.reference.samples, self.sides()
        for m in self.reference.features:
            if meta["kinds"].get(m) != "tabular":
                yield from ((f"shift/{m}", shift) for shift in self._media(m))
        for m, columns in meta["columns"].items():
            if meta["kinds"].get(m) != "tabular":
                continue
            for c in columns:
                if types[c] == "numbers":
                    a, b = (side[c].to_numpy(np.float64) for side in (old, self.table))
                    yield f"shift/{m}", drift.compare_numbers(c, a, b, sides)
                elif types[c] == "text":  # dates are later, and not tested
                    both = pd.concat([old[c], self.table[c]]).astype(object).fillna("")
                    codes = pd.factorize(both)[0].astype(np.int64)
                    yield (
                        f"shift/{m}",
                        drift.compare_categories(c, codes[: len(old)], codes[len(old) :], sides),
                    )
        before = old["target"].to_numpy(np.float64)
        known = ~np.isnan(self.targets)
        groups, name = self.sides(None, known), meta["target"].get("name") or "target"
        if not self.classes:
            yield "shift/target", drift.compare_numbers(name, before, self.targets, groups)
        elif known.any():
            codes = self.targets[known].astype(np.int64)
            yield "shift/target", drift.compare_categories(name, before.astype(np.int64), codes, groups)

    def _media(self, m: str) -> Iterator[drift.Shift]:
        """Tests of a modality by the encoder's features, of contents that the champion was not trained on.

        An encoder remembers what it was trained on, so that new data are compared with rows of val and test.
        Those of groups that were trained on, which it knows a little, may be like either: the lesser
        distance counts, from val and test, or from train."""
        old, key = self.reference, f"key/{m}"
        trained = old.trained[old.usable]
        before, current = old.contents[key].iloc[old.usable], self.keys[key].iloc[self.looked]
        learnt = old.contents[key][old.trained]
        held_out = ~trained & ~(before.isin(learnt) | before.mask(trained).duplicated()).to_numpy(bool)
        train = trained & ~before.duplicated().to_numpy(bool)
        fresh = self.seen.good & ~(current.isin(learnt) | current.duplicated()).to_numpy(bool)
        sides, known = self.sides(), np.zeros(len(fresh), bool)
        if sides.reference is not None and sides.new is not None:
            known = np.isin(sides.new, sides.reference[old.trained])
        for rows, alike in ((fresh & ~known, [held_out]), (fresh & known, [held_out, train])):
            if not rows.any():
                continue
            features = self.seen.features[m][rows]
            pairs = ((old.features[m][mask], self.sides(old.usable[mask], rows)) for mask in alike)
            shifts = [drift.compare_features(m, values, features, groups) for values, groups in pairs]
            least = min(shifts, key=lambda shift: (not math.isnan(shift.p), shift.effect))
            order = np.flatnonzero(rows)[np.argsort(-least.scores, kind="stable")]
            yield replace(least, first=tuple(self.ids[i] for i in order))

    def _label_noise(self) -> Finding:
        s, usable = self.settings, self.reference.held_out
        wrong = contradicted(self.seen, self.targets, s.confidence, self.reference.about["residual"])
        good = np.flatnonzero(self.seen.good & ~np.isnan(self.targets))
        before = self.reference.contents["contradicted"].to_numpy(float)[usable]
        value, p = drift.compare_shares(before, wrong[good].astype(float), self.sides(usable, good))
        rows = np.flatnonzero(wrong)
        if self.classes:
            rows = rows[np.argsort(-self.seen.sure[rows], kind="stable")]
        named = [f"{self.ids[i]} ({self._words(i)})" for i in rows.tolist()]
        how = f"{s.confidence:g} sure or more" if self.classes else "by an error beyond 99 % of those before"
        rate = f"{before.mean():.1%}" if len(before) else "unknown"
        text = f"the champion contradicts {len(rows):,} of {len(good):,} new labels ({how})"
        text += f", its share on data it was not trained on is {rate} (p = {p:.2g})"
        if named:
            text += f": {name_first(named)}"
        text += "; check these labels, and whether the new data are of another kind."
        return judged("label_noise", max(0.0, value), s.label_noise, text, named, p, p < s.alpha)

    def _words(self, i: int) -> str:
        label, predicted = self.targets[i], self.seen.predicted[i]
        if not self.classes:
            return f"{label:g}, predicted {predicted:g}"
        return f"{self.classes[int(label)]}, predicted {self.classes[int(predicted)]}"
