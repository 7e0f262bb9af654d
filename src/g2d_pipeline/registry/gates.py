"""Gates before training: may a model be trained on these data, as a successor of the champion?"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from g2d_pipeline.config.retrain import GateSettings, Limits, Outcome
from g2d_pipeline.errors import SHOWN, enumerated
from g2d_pipeline.registry.reference import (
    FOLDER,
    Reference,
    column_types,
    content_keys,
    draw,
    new_rows,
    read_reference,
)
from g2d_pipeline.sources.manifest import Manifest

ORDER: tuple[Outcome, ...] = ("go", "warn", "stop")


@dataclass(frozen=True)
class Finding:
    """What a gate measured: `value` is compared with the limits `warn` and `stop`; `p` of its test; `first`:
    the first offenders."""

    name: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    warn: float | None = None
    stop: float | None = None
    p: float | None = None
    first: list[str] = field(default_factory=list)

    @classmethod
    def judge(
        cls,
        name: str,
        value: float,
        limits: Limits,
        sentence: str,
        offenders: list[str],
        p: float | None = None,
        significant: bool = True,
    ) -> "Finding":
        """A finding with the outcome of its limits: go for a value of 0, or if no test shows it."""
        pairs = (("warn", limits.warn), ("stop", limits.stop))
        reached: list[Any] = [name for name, limit in pairs if limit is not None and value >= limit]
        outcome: Outcome = reached[-1] if significant and value > 0 and reached else "go"
        return cls(name, outcome, sentence, value, limits.warn, limits.stop, p, offenders[:SHOWN])


@dataclass(frozen=True)
class GateReport:
    """`findings`: of each gate that was asked; `notes`: sentences on the comparison; `rows`: how many are
    `new`, how many of them were `looked_at`, and how many of the champion's data are `gone`."""

    findings: list[Finding]
    notes: list[str]
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """The worst one."""
        return max((f.outcome for f in self.findings), key=ORDER.index, default="go")

    @property
    def sentences(self) -> list[str]:
        """What stops, what warns, then the notes."""
        loud = sorted((f for f in self.findings if f.outcome != "go"), key=lambda f: -ORDER.index(f.outcome))
        return [f"{f.name} ({f.outcome}): {f.sentence}" for f in loud] + self.notes

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"outcome": self.outcome, "rows": self.rows, "sentences": self.sentences} | asdict(self)


def check_gates(
    manifest: Manifest,
    root: Path,
    champion: Path | None,
    settings: GateSettings,
    *,
    hashes: Path | None = None,
    admitted: Collection[str] = (),
) -> GateReport:
    """Compare a manifest, whose paths start at `root`, with what the `champion` (a version's folder; None:
    there is none) was trained on. `hashes`: the cache of content hashes of raw files; `admitted`: contents of
    rows (`content_keys`) that passed before, and are not new: else they would dilute the next delivery.

    Torch is imported, and files are decoded, only if there are new rows. Equal data give an equal report.
    Raises DataError if the champion's folder is damaged."""
    if champion is None:
        return GateReport([], ["There is no champion yet: nothing to compare these data with."])
    if (reference := read_reference(champion)) is None:
        missing = f"The champion has no {FOLDER}/: these data can not be compared;"
        return GateReport([], [f"{missing} the next version will have it."])
    findings = [*_schema(manifest, reference, settings), *_classes(manifest, reference, settings)]
    if any(f.name == "schema" for f in findings):
        return GateReport(findings, ["As the schema is another one, rows were not compared."])
    keys = content_keys(manifest, reference.about["meta"]["columns"], root, hashes)
    new, gone = new_rows(manifest, keys["content"], reference)
    new = new[~keys["content"].iloc[new].isin(set(admitted)).to_numpy()]
    drawn = draw(new, settings.samples)
    notes = [f"{len(new):,} rows are new, {gone:,} of the champion's {len(reference.samples):,} are gone."]
    if len(drawn) < len(new):
        notes.append(f"{len(drawn):,} of the new rows were looked at, drawn at random with a fixed seed.")
    known = {frozenset(item.items()) for item in reference.about["meta"]["dropped"]}
    dropped = [item for item in manifest.meta["dropped"] if frozenset(item.items()) not in known]
    if len(new) or dropped:
        from g2d_pipeline.registry.drift import Delivery  # scipy, scikit-learn and torch

        delivery = Delivery(manifest, root, champion, reference, settings, keys, drawn, len(new), dropped)
        findings += delivery.findings()
        notes += delivery.notes
    return GateReport(findings, notes, {"new": len(new), "looked_at": len(drawn), "gone": gone})


def _schema(manifest: Manifest, reference: Reference, settings: GateSettings) -> Iterator[Finding]:
    """What the champion needs and the data lack, and what it does not know."""
    old, new = reference.about["meta"], manifest.meta
    wrong = [f"{k} is {new[k]!r}, was {old[k]!r}" for k in ("dataset", "task") if new[k] != old[k]]
    for k in ("name", "unit"):
        if (before := old["target"].get(k, "")) != (after := new["target"].get(k, "")):
            wrong.append(f"the target's {k} is {after!r}, was {before!r}")
    fresh = [f"modality {m!r}" for m in new["columns"] if m not in old["columns"]]
    types, types_before = column_types(manifest), reference.about["types"]
    for m, columns in old["columns"].items():
        if (present := new["columns"].get(m)) is None:
            wrong.append(f"modality {m!r} is missing")
            continue
        if (before := old["kinds"].get(m)) != (after := new["kinds"].get(m)):
            wrong.append(f"modality {m!r} is of kind {after!r}, was {before!r}")
        wrong += [f"column {c!r} of {m!r} is missing" for c in columns if c not in present]
        changed = [c for c in columns if c in present and types[c] != types_before[c]]
        wrong += [f"column {c!r} of {m!r} holds {types[c]}, held {types_before[c]}" for c in changed]
        fresh += [f"column {c!r} of {m!r}" for c in present if c not in columns]
    text = "the data differ from the champion's: {}; bring them into that form, or start a new data set."
    yield from _listed("schema", settings.schema_change, wrong, text)
    text = "the champion does not know {}; is that meant?"
    yield from _listed("columns", settings.new_columns, fresh, text)


def _classes(manifest: Manifest, reference: Reference, settings: GateSettings) -> Iterator[Finding]:
    old, new = (list(meta["class_names"]) for meta in (reference.about["meta"], manifest.meta))
    counts = manifest.table["target"].value_counts()
    fresh = [f"{c!r} ({counts.get(i, 0)} rows)" for i, c in enumerate(new) if c not in old]
    remedy = "correct these labels, or, if they are meant, set gates.new_classes to warn"
    text = f"the champion can not predict {{}}, so that it can not be compared; {remedy}."
    yield from _listed("classes/new", settings.new_classes, fresh, text)
    gone = [repr(c) for c in old if c not in new]
    text = "no row is left of {}; are labels lost, or named anew?"
    yield from _listed("classes/vanished", settings.vanished_classes, gone, text)


def _listed(name: str, outcome: Outcome, offenders: list[str], text: str) -> Iterator[Finding]:
    if offenders:
        sentence, count = text.format(enumerated(offenders, SHOWN)), float(len(offenders))
        yield Finding(name, outcome, sentence, count, first=offenders[:SHOWN])
