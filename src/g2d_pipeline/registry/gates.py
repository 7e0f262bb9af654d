"""Gates before training: may a model be trained on these data, as a successor of the champion?"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
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
    """`findings`: of each gate that was asked; `notes`: sentences on what was looked at; `rows`: `new` ones,
    those of them that were `looked_at`, and those of the champion's data that are `gone`."""

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
    rows (`content_keys`) that passed before, and are no news: else they would dilute the next delivery.

    Torch is imported, and files are decoded, only where there are new rows. Equal data give an equal report.
    Raises DataError where the champion's folder is damaged."""
    if champion is None:
        return GateReport([], ["There is no champion yet: nothing to compare these data with."])
    if (reference := read_reference(champion)) is None:
        text = (
            f"The champion has no {FOLDER}/: these data can not be compared; the next version will have it."
        )
        return GateReport([], [text])
    findings = [*_schema(manifest, reference, settings), *_classes(manifest, reference, settings)]
    if any(f.name == "schema" for f in findings):
        return GateReport(findings, ["As the schema is another one, rows were not compared."])
    keys = content_keys(manifest, reference.about["meta"]["columns"], root, hashes)
    new, gone = new_rows(manifest, keys["content"], reference)
    new = new[~keys["content"].iloc[new].isin(set(admitted)).to_numpy()]
    dropped = _new_dropped(manifest, reference)
    looked = draw(new, settings.samples)
    rows = {"new": len(new), "looked_at": len(looked), "gone": gone}
    notes = [f"{len(new):,} rows are new, {gone:,} of the champion's {len(reference.samples):,} are gone."]
    if len(looked) < len(new):
        notes.append(f"{len(looked):,} of the new rows were looked at, drawn at random with a fixed seed.")
    if len(new) or dropped:
        from g2d_pipeline.registry.delivery import Delivery  # scipy, scikit-learn and torch

        delivery = Delivery(manifest, root, champion, reference, settings, keys, looked, len(new), dropped)
        findings += delivery.findings()
        notes += delivery.notes
    return GateReport(findings, notes, rows)


def _schema(manifest: Manifest, reference: Reference, settings: GateSettings) -> Iterator[Finding]:
    """What the champion needs and does not find; what it does not know."""
    old, new = reference.about["meta"], manifest.meta
    wrong = [f"{k} is {new[k]!r}, was {old[k]!r}" for k in ("dataset", "task") if new[k] != old[k]]
    for k in ("name", "unit"):
        if (a := old["target"].get(k, "")) != (b := new["target"].get(k, "")):
            wrong.append(f"the target's {k} is {b!r}, was {a!r}")
    fresh = [f"modality {m!r}" for m in new["columns"] if m not in old["columns"]]
    types, before = column_types(manifest), reference.about["types"]
    for m, columns in old["columns"].items():
        if (present := new["columns"].get(m)) is None:
            wrong.append(f"modality {m!r} is missing")
            continue
        if (a := old["kinds"].get(m)) != (b := new["kinds"].get(m)):
            wrong.append(f"modality {m!r} is of kind {b!r}, was {a!r}")
        wrong += [f"column {c!r} of {m!r} is missing" for c in columns if c not in present]
        both = [c for c in columns if c in present and types[c] != before[c]]
        wrong += [f"column {c!r} of {m!r} holds {types[c]}, held {before[c]}" for c in both]
        fresh += [f"column {c!r} of {m!r}" for c in present if c not in columns]
    differ = "the data differ from the champion's: {}; bring them into that form, or start a new data set."
    yield from _listed("schema", settings.schema_change, wrong, differ)
    yield from _listed(
        "columns", settings.new_columns, fresh, "the champion does not know {}; is that meant?"
    )


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
        text = text.format(name_first(offenders))
        yield Finding(name, outcome, text, float(len(offenders)), first=(*offenders[:SHOWN],))


def _new_dropped(manifest: Manifest, reference: Reference) -> list[dict[str, Any]]:
    """What ingest has dropped that it had not when the champion was trained."""
    before = {json.dumps(item, sort_keys=True, default=str) for item in reference.about["meta"]["dropped"]}
    items = manifest.meta["dropped"]
    return [item for item in items if json.dumps(item, sort_keys=True, default=str) not in before]


def judged(
    name: str,
    value: float,
    limits: Limits,
    sentence: str,
    named: Sequence[str],
    p: float | None = None,
    certain: bool = True,
) -> Finding:
    """A finding with the outcome that its limits give; where a test does not show it, that is go."""
    outcome: Outcome = "go"
    if certain and value > 0:
        reached: list[Outcome] = ["warn"] if limits.warn is not None and value >= limits.warn else []
        reached += ["stop"] if limits.stop is not None and value >= limits.stop else []
        outcome = reached[-1] if reached else "go"
    return Finding(name, outcome, sentence, value, limits.warn, limits.stop, p, (*named[:SHOWN],))


def limited(limits: Limits) -> bool:
    return limits.warn is not None or limits.stop is not None


def name_first(names: Iterable[str]) -> str:
    return enumerated(names, SHOWN)
