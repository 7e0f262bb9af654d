"""`retrain.html`: outcome, comparison and gates of the last retraining, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from g2d_pipeline.files import atomic_write
from g2d_pipeline.html import page_environment
from g2d_pipeline.retraining.outcome import outcome_file, read_outcome


def write_page(project: Path, dataset: str) -> None:
    """Write `retrain.html` beside `retrain.json`, of which it shows what stands in it and in `gates.json`."""
    from g2d_pipeline.registry.gates import Finding, GateReport, gate_table

    file = outcome_file(project, dataset)
    retrain, gates = read_outcome(file), read_outcome(file.with_name("gates.json"))
    findings = [Finding(**finding) for finding in gates.get("findings", ())]
    report = GateReport(findings, list(gates.get("notes", ())))
    comparisons: list[dict[str, Any]] = (retrain.get("decision") or {}).get("comparisons") or []
    text = page_environment().get_template("retrain.html.j2").render(
        dataset=dataset,
        retrain={"decision": None, "spread": None} | retrain,
        gates=gates,
        gate_table=Markup(gate_table(report)),
        columns=list(comparisons[0]) if comparisons else [],
        card=retrain.get("model_card", ""),
        report="/".join(Path(retrain.get("report", "")).parts[-2:]),  # a folder beside this page
    )  # fmt: skip
    with atomic_write(file.with_suffix(".html")) as path:
        path.write_text(text, encoding="utf-8")
