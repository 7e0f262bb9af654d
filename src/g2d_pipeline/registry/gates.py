"""Gates before training: may a model be trained on these data, as a successor of the champion?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from g2d_pipeline.config.retrain import GateSettings, Limits, Outcome
from g2d_pipeline.errors import SHOWN
from g2d_pipeline.evaluation.statistics import holm
from g2d_pipeline.html import page_environment
from g2d_pipeline.registry.drift import (
    LEAST,
    Shift,
    Sides,
    compare_categories,
    compare_features,
    compare_numbers,
    compare_shares,
)
from g2d_pipeline.registry.reference import (
    FOLDER,
    Reference,
    Seen,
    column_types,
    content_keys,
    contradicted,
    draw,
    look_at,
    new_rows,
    read_reference,
)
from g2d_pipeline.sources.manifest import Manifest

ORDER: tuple[Outcome, ...] = ("go", "warn", "stop")
Rows = npt.NDArray[np.int64]
TABLE = """<div class="scroll"><table class="gates"><thead><tr><th>Gate</th><th>Outcome</th>
<th class="right">Value</th><th class="right">Warn / stop from</th><th>What was seen</th></tr></thead><tbody>
{% for f in findings %}<tr class="{{ f.outcome }}"><th scope="row">{{ f.name }}</th><td>{{ f.outcome }}</td>
<td class="right">{{ f.value | number if f.value is not none else '–' }}</td><td class="right">
{{ f.warn | number if f.warn is not none else '–' }} / {{ f.stop | number if f.stop is not none else '–' }}
</td><td>{{ f.sentence }}</td></tr>
{% endfor %}</tbody></table></div>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}"""


@dataclass(frozen=True)
class Finding:
    """What a gate found: `value` is measured against `warn` and `stop`; `p` of its test; `first`: the first
    offenders."""

    name: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    warn: float | None = None
    stop: float | None = None
    p: float | None = None
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateReport:
    """`findings`: a gate each; `notes`: sentences on what was looked at; `rows`: new ones, those of them that
    were looked at, and those of the champion's data that are gone."""

    findings: list[Finding]
    notes: list[str]
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        return max((f.outcome for f in self.findings), key=ORDER.index, default="go")

    @property
    def sentences(self) -> list[str]:
        """What stops, what warns, then the notes."""
        loud = sorted((f for f in self.findings if f.outcome != "go"), key=lambda f: -ORDER.index(f.outcome))
        return [f"{f.name} ({f.outcome}): {f.sentence}" for f in loud] + self.notes

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        findings = [asdict(f) | {"first": list(f.first)} for f in self.findings]
        whole = {"outcome": self.outcome, "rows": self.rows, "sentences": self.sentences}
        return whole | {"findings": findings, "notes": self.notes}


def gate_table(report: GateReport) -> str:
    """The findings as an HTML table, for the report; everything is escaped."""
    template = page_environment().from_string(TABLE)
    return template.render(findings=report.findings, notes=report.notes)


def check_gates(
    manifest: Manifest,
    root: Path,
    champion: Path | None,
    settings: GateSettings,
    *,
    hashes: Path | None = None,
) -> GateReport:
    """Compare a manifest, whose paths start at `root`, with what the `champion` (a version's folder; None:
    there is none) was trained on. `hashes`: the cache of content hashes of raw files.

    Torch is imported, and files are decoded, only where there are new rows. Equal data give an equal report.
    Raises DataError where the champion's folder is damaged."""
    if champion is None:
        return GateReport([], ["There is no champion yet: nothing to compare these data with."])
    if (reference := read_reference(champion)) is None:
        remedy = "the next version that is promoted will have it"
        return GateReport([], [f"The champion has no {FOLDER}/: these data can not be compared; {remedy}."])
    findings = [*_schema(manifest, reference, settings), *_classes(manifest, reference, settings)]
    keys = content_keys(manifest, root, hashes)
    new, gone = new_rows(manifest, keys["content"], reference)
    dropped = _new_dropped(manifest, reference)
    looked = draw(new, settings.samples)
    rows = {"new": len(new), "looked_at": len(looked), "gone": gone}
    notes = [f"{len(new):,} rows are new, {gone:,} of the champion's {len(reference.samples):,} are gone."]
    if len(looked) < len(new):
        notes.append(f"{len(looked):,} of the new rows were looked at, drawn at random with a fixed seed.")
    if any(f.name == "schema" for f in findings):
        notes.append("As the schema is another one, files, shift and labels were not compared.")
        return GateReport(findings, notes, rows | {"looked_at": 0})
    if len(new) or dropped:
        delivery = Delivery(manifest, root, champion, reference, settings, keys, looked, len(new), dropped)
        findings += delivery.findings()
        notes += delivery.notes
    return GateReport(findings, notes, rows)


# ---------------------------------------------------------------------------------------- columns and classes
def _schema(manifest: Manifest, reference: Reference, settings: GateSettings) -> Iterator[Finding]:
    """What the champion needs and does not find; what it does not know."""
    was, now = reference.about["meta"], manifest.meta
    wrong = [f"{k} is {now[k]!r}, was {was[k]!r}" for k in ("dataset", "task") if now[k] != was[k]]
    for k in ("name", "unit"):
        if (a := was["target"].get(k, "")) != (b := now["target"].get(k, "")):
            wrong.append(f"the target's {k} is {b!r}, was {a!r}")
    fresh = [f"modality {m!r}" for m in now["columns"] if m not in was["columns"]]
    types, before = column_types(manifest), reference.about["types"]
    for m, columns in was["columns"].items():
        if (own := now["columns"].get(m)) is None:
            wrong.append(f"modality {m!r} is missing")
            continue
        if (a := was["kinds"].get(m)) != (b := now["kinds"].get(m)):
            wrong.append(f"modality {m!r} is of kind {b!r}, was {a!r}")
        wrong += [f"column {c!r} of {m!r} is missing" for c in columns if c not in own]
        both = [c for c in columns if c in own and types[c] != before[c]]
        wrong += [f"column {c!r} of {m!r} holds {types[c]}, held {before[c]}" for c in both]
        fresh += [f"column {c!r} of {m!r}" for c in own if c not in columns]
    if wrong:
        remedy = "bring the delivery into the form of before, or train the first version of a new data set"
        text = f"{_counted(len(wrong), 'difference')} from the champion's data: {_first(wrong)}; {remedy}."
        yield Finding("schema", settings.schema_change, text, float(len(wrong)), first=(*wrong[:SHOWN],))
    if fresh:
        text = f"the champion does not know {_first(fresh)}; is that meant?"
        yield Finding("columns", settings.new_columns, text, float(len(fresh)), first=(*fresh[:SHOWN],))


def _classes(manifest: Manifest, reference: Reference, settings: GateSettings) -> Iterator[Finding]:
    was, now = (list(meta["class_names"]) for meta in (reference.about["meta"], manifest.meta))
    if manifest.meta["task"] != reference.about["meta"]["task"]:
        return
    counts = manifest.table["target"].value_counts()
    fresh = [f"{c!r} ({counts.get(i, 0)} rows)" for i, c in enumerate(now) if c not in was]
    if fresh:
        remedy = (
            "correct these labels, or say gates.new_classes=warn: it then counts as wrong on these classes"
        )
        text = (
            f"{_counted(len(fresh), 'class', 'classes')} that the champion can not predict: {_first(fresh)}"
        )
        yield Finding(
            "classes/new",
            settings.new_classes,
            f"{text}; {remedy}.",
            float(len(fresh)),
            first=(*fresh[:SHOWN],),
        )
    if gone := [repr(c) for c in was if c not in now]:
        text = (
            f"{_counted(len(gone), 'class', 'classes')} without a row now: {_first(gone)}; are labels lost?"
        )
        yield Finding(
            "classes/vanished", settings.vanished_classes, text, float(len(gone)), first=(*gone[:SHOWN],)
        )


def _new_dropped(manifest: Manifest, reference: Reference) -> list[dict[str, Any]]:
    """What ingest has dropped that it had not when the champion was trained."""
    known = {json.dumps(item, sort_keys=True, default=str) for item in reference.about["meta"]["dropped"]}
    items = manifest.meta["dropped"]
    return [item for item in items if json.dumps(item, sort_keys=True, default=str) not in known]


# ------------------------------------------------------------------------------------------------- new rows
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
        if _limited(s.unreadable):
            yield self._unreadable()
        if len(self.looked) and _limited(s.silent):
            yield from self._silent()
        if len(self.looked) and _limited(s.shift):
            yield from self._shift()
        if len(self.looked) and _limited(s.label_noise):
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

    def sides(self, reference: Rows | None = None, new: Any = None) -> Sides:
        """The groups of these rows of both sides, of all by default."""
        old, own = self.reference.samples, self.table
        if (
            "group" not in old
            or "group" not in own
            or (own["group"].isna().any() or old["group"].isna().any())
        ):
            return Sides()
        both = pd.concat([old["group"].astype(str), own["group"].astype(str)])
        codes = pd.factorize(both)[0].astype(np.int64)
        a, b = codes[: len(old)], codes[len(old) :]
        return Sides(a if reference is None else a[reference], b if new is None else b[new])

    def _unreadable(self) -> Finding:
        faults = self.seen.faults if len(self.looked) else {}
        share = len(faults) / len(self.looked) if len(self.looked) else 0.0
        value = (share * self.total + len(self.dropped)) / (self.total + len(self.dropped))
        named = [f"{self.ids[i]} ({why})" for i, why in sorted(faults.items())]
        named += [", ".join(f"{k} {v}" for k, v in item.items() if v is not None) for item in self.dropped]
        looked = f"{len(faults):,} of {len(self.looked):,} new rows that were looked at can not be used"
        lost = f", {len(self.dropped):,} were dropped when the data were read" if self.dropped else ""
        remedy = "copy or download them again, or take them out of the delivery"
        text = f"{looked}{lost} ({value:.1%} of what is new): {_first(named)}; {remedy}."
        return _judged("unreadable", value, self.settings.unreadable, text if named else f"{looked}.", named)

    def _silent(self) -> Iterator[Finding]:
        usable, good = self.reference.usable, np.flatnonzero(self.seen.good)
        for m, blank in self.seen.blank.items():
            before = self.reference.contents[f"blank/{m}"].to_numpy(float)[usable]
            own = blank[good].astype(float)
            value, p = compare_shares(before, own, self.sides(usable, good))
            if not own.any() and not before.any():
                continue
            named = [self.ids[i] for i in good[blank[good]]]
            text = (
                f"{m}: {len(named):,} of {len(good):,} new samples are silent or blank, {before.mean():.1%} "
                f"were at training time (p = {p:.2g}): {_first(named)}; check how they were recorded."
            )
            certain = p < self.settings.alpha
            yield _judged(f"silent/{m}", max(0.0, value), self.settings.silent, text, named, p, certain)

    # ------------------------------------------------------------------------------------------------- shift
    def _shift(self) -> Iterator[Finding]:
        own = [*self._tests()]
        untested = sorted({name for name, shift in own if math.isnan(shift.p)})
        if untested:
            few = f"{len(self.looked):,} new rows are too few, or of too few groups,"
            self.notes.append(
                f"{few} for a test of {', '.join(untested)} (at least {LEAST} independent rows)."
            )
        adjusted = holm(np.array([shift.p for _, shift in own]))
        tests: dict[str, list[tuple[Shift, float]]] = {}
        for (name, shift), p in zip(own, adjusted.tolist(), strict=True):
            if not math.isnan(p):
                tests.setdefault(name, []).append((shift, p))
        for name, of in tests.items():
            yield self._shifted(name, of)

    def _shifted(self, name: str, tests: list[tuple[Shift, float]]) -> Finding:
        clear = sorted((t for t in tests if t[1] < self.settings.alpha), key=lambda t: -t[0].effect)
        worst, p = clear[0] if clear else max(tests, key=lambda t: t[0].effect)
        named = list(worst.first)
        first = f"a classifier tells them apart, the most unlike are {_first(named)}"
        if not named:
            named = [f"{t.of} ({t.measure} {t.effect:.2f})" for t, _ in clear or [(worst, p)]]
            first = f"{len(clear):,} of {len(tests):,} columns: {_first(named)}"
        kind = f"{worst.measure} = {worst.effect:.2f}, p = {p:.2g}"
        text = f"the new data are like the champion's ({kind})."
        if clear:
            remedy = "look at these; if the change is meant, raise gates.shift"
            text = (
                f"{len(self.looked):,} new rows differ from the champion's data ({kind}): {first}; {remedy}."
            )
        return _judged(name, worst.effect, self.settings.shift, text, named, p, bool(clear))

    def _tests(self) -> Iterator[tuple[str, Shift]]:
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
                    yield f"shift/{m}", compare_numbers(c, a, b, sides)
                elif types[c] == "text":  # dates are later, and not tested
                    both = pd.concat([old[c], self.table[c]]).astype(object).fillna("")
                    codes = pd.factorize(both)[0].astype(np.int64)
                    yield f"shift/{m}", compare_categories(c, codes[: len(old)], codes[len(old) :], sides)
        before = old["target"].to_numpy(np.float64)
        known = ~np.isnan(self.targets)
        groups, name = self.sides(None, known), meta["target"].get("name") or "target"
        if not self.classes:
            yield "shift/target", compare_numbers(name, before, self.targets, groups)
        elif known.any():
            codes = self.targets[known].astype(np.int64)
            yield "shift/target", compare_categories(name, before.astype(np.int64), codes, groups)

    def _media(self, m: str) -> Iterator[Shift]:
        """Tests of a modality by the encoder's features, of contents that the champion was not trained on.

        An encoder remembers what it was trained on, so that new data are compared with rows of val and test.
        Those of groups that were trained on, which it knows a little, may be like either: the lesser
        distance counts, from val and test, or from train."""
        old, key = self.reference, f"key/{m}"
        trained = old.trained[old.usable]
        before, now = old.contents[key].iloc[old.usable], self.keys[key].iloc[self.looked]
        contents = set(old.contents[key][old.trained])
        held = ~trained & ~before.isin(contents) & ~before.mask(trained).duplicated()
        alike = {False: np.asarray(held, bool), True: trained & ~before.duplicated().to_numpy(bool)}
        fresh = self.seen.good & ~(now.isin(contents) | now.duplicated()).to_numpy(bool)
        sides = self.sides()
        known = np.zeros(len(fresh), bool)
        if sides.reference is not None and sides.new is not None:
            known = np.isin(sides.new, sides.reference[old.trained])
        for of_known in (False, True):
            rows = np.flatnonzero(fresh & (known == of_known))
            if not len(rows):
                continue
            shifts = []
            for mask in alike.values() if of_known else [alike[False]]:
                own = self.sides(old.usable[mask], rows)
                shifts.append(compare_features(m, old.features[m][mask], self.seen.features[m][rows], own))
            least = min(shifts, key=lambda shift: (not math.isnan(shift.p), shift.effect))
            order = np.argsort(-least.scores, kind="stable")
            yield replace(least, first=tuple(self.ids[i] for i in rows[order]))

    def _label_noise(self) -> Finding:
        s, usable = self.settings, self.reference.held_out
        wrong = contradicted(self.seen, self.targets, s.confidence, self.reference.about["residual"])
        good = np.flatnonzero(self.seen.good & ~np.isnan(self.targets))
        before = self.reference.contents["contradicted"].to_numpy(float)[usable]
        value, p = compare_shares(before, wrong[good].astype(float), self.sides(usable, good))
        rows = np.flatnonzero(wrong)
        if self.classes:
            rows = rows[np.argsort(-self.seen.sure[rows], kind="stable")]
        named = [f"{self.ids[i]} ({self._words(i)})" for i in rows.tolist()]
        how = (
            f"at least {s.confidence:g} sure" if self.classes else "an error beyond the 99 % of training time"
        )
        rate = f"{before.mean():.1%}" if len(before) else "unknown"
        text = f"the champion contradicts {len(rows):,} of {len(good):,} new labels ({how})"
        text += f", its share on data it was not trained on is {rate} (p = {p:.2g})"
        if named:
            text += f": {_first(named)}"
        remedy = "check these labels, and whether the new data are of another kind"
        return _judged(
            "label_noise", max(0.0, value), s.label_noise, f"{text}; {remedy}.", named, p, p < s.alpha
        )

    def _words(self, i: int) -> str:
        label, predicted = self.targets[i], self.seen.predicted[i]
        if not self.classes:
            return f"{label:g}, predicted {predicted:g}"
        return f"{self.classes[int(label)]}, predicted {self.classes[int(predicted)]}"


def _judged(
    name: str,
    value: float,
    limits: Limits,
    sentence: str,
    named: Sequence[str],
    p: float | None = None,
    certain: bool = True,
) -> Finding:
    """The outcome by its limits; one that a test does not show goes."""
    outcome: Outcome = "go"
    if certain and value > 0:
        reached = {"warn": limits.warn, "stop": limits.stop}
        outcome = max(
            (o for o in ORDER[1:] if (at := reached[o]) is not None and value >= at),
            key=ORDER.index,
            default="go",
        )
    return Finding(name, outcome, sentence, value, limits.warn, limits.stop, p, (*named[:SHOWN],))


def _limited(limits: Limits) -> bool:
    return limits.warn is not None or limits.stop is not None


def _first(names: Iterable[str]) -> str:
    every = list(names)
    more = f", … ({len(every):,} in all)" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
