"""Plans over artefacts that are pretended: their stage cards alone."""

from __future__ import annotations

from pathlib import Path

from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.code import CodeGraph
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.stages import PACKAGE, STAGES, Plan


def plan_of(
    configuration: Configuration,
    folder: Path,
    raw: str = "raw",
    package: Path = PACKAGE,
    cache: Path | None = None,
) -> Plan:
    folders = {stage: str(folder / stage / "{run}-{fingerprint}") for stage in STAGES}
    folders |= {stage: str(folder / stage / "{fingerprint}") for stage in ("ingest", "featurize")}
    return Plan(configuration, raw, CodeGraph(package, cache), folders)


def make_missing(plan: Plan, same: tuple[str, ...] = ()) -> set[str]:
    """Write the cards of the artefacts that are not fresh, from left to right. Their content follows from the
    fingerprint or, for the stages in `same`, is the same whatever they are made from.

    Returns the stages of which something was made."""
    made = set()
    for stage in STAGES:
        for run in plan.runs(stage):
            if not plan.is_fresh(stage, run):
                made.add(stage)
                card, folder = plan.card(stage, run), plan.folder(stage, run)
                folder.mkdir(parents=True)
                content = f"{stage} {run}" if stage in same else str(card["fingerprint"])
                write_card(folder, card, Clock.start(), content)
    return made


class FixedPlan(Plan):
    """A plan of one artefact, whose card and folder are known."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folders, self.failures = {"featurize": str(folder)}, {}
        self._cards = {("featurize", ""): {"stage": "featurize", "fingerprint": fingerprint}}

    def runs(self, stage: str) -> list[str]:
        return [""]

    def refresh(self) -> None:
        """It stays as it is."""
