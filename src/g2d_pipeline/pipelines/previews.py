"""What Kedro-Viz shows on a task's page: Mermaid diagrams of what will be trained, by the configuration."""

from collections.abc import Sequence
from typing import cast

from kedro.pipeline.preview_contract import MermaidPreview
from omegaconf import OmegaConf

from g2d_pipeline.config import SMPSettings
from g2d_pipeline.configuration import Configuration


def configuration() -> Configuration | None:
    """The session's configuration, by the resolver of the catalog's entries; None without a session."""
    if not OmegaConf.has_resolver("plan"):
        return None
    entry = OmegaConf.create({"plan": "${plan:}"}, flags={"allow_objects": True})
    return cast(Configuration, entry.plan.configuration)


def teachers_preview() -> MermaidPreview | None:
    """A teacher a modality: its encoder and its task."""
    c = configuration()
    first = {run.modality: run for run in c.teachers().runs.values()} if c else {}
    lines = [
        f"m{i}[{_quoted(m)}] --> e{i}[{_quoted(run.encoder.name)}] --> y{i}[{_quoted(run.task)}]"
        for i, (m, run) in enumerate(first.items())
    ]
    return _diagram(lines)


def students_preview() -> MermaidPreview | None:
    """The parts of the model of each method, and the phases of those that prioritise."""
    c = configuration()
    runs = {run.method: run for run in c.distill().runs.values()} if c else {}
    lines = []
    for i, (method, run) in enumerate(runs.items()):
        lines += [f"subgraph s{i}[{_quoted(method)}]", "direction LR"]
        for j, (m, encoder) in enumerate(run.encoders.items()):
            lines.append(f"m{i}_{j}[{_quoted(m)}] --> e{i}_{j}[{_quoted(encoder.name)}] --> f{i}")
            lines += [f"t{i}_{j}([{_quoted(f'teacher {m}')}]) -.-> e{i}_{j}"] * run.needs_teachers
        lines += [f"f{i}{{{{{_quoted(f'{run.fusion.name} fusion')}}}}} --> y{i}[{_quoted(run.task)}]"]
        lines += _phases(i, run.smp, len(run.encoders), run.training.epochs) if run.smp else []
        lines.append("end")
    return _diagram(lines)


def _phases(i: int, smp: SMPSettings, modalities: int, epochs: int) -> list[str]:
    """A box a phase, one after the other."""
    learning = ["the least confident modality alone", *["the next one alone"] * (modalities - 2), "all"]
    if smp.suppression == "partial":
        learning = ["all, the more confident ones less", "all"]
    lengths = enumerate(zip(smp.phases(modalities, epochs), learning, strict=True))
    boxes = (f"p{i}_{j}[{_quoted(f'phase {j + 1}, {n} epochs: {text}')}]" for j, (n, text) in lengths)
    return [" ==> ".join(boxes)]


def _quoted(text: object) -> str:
    """Text for Mermaid, without markup."""
    return '"' + str(text).replace('"', "#quot;").replace("<", "#lt;") + '"'


def _diagram(lines: Sequence[str]) -> MermaidPreview | None:
    return MermaidPreview(content="\n  ".join(["graph LR", *lines])) if lines else None
