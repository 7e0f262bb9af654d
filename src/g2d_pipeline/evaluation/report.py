"""The report: one HTML file that needs nothing else, the same bytes for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from g2d_pipeline.data_report.page import data_context
from g2d_pipeline.html import describe_dropped, figure_html, page_environment

from .metrics import metric_spec
from .rankings import ranking_disagreements
from .records import MULTI, SELECTIONS, TEACHER, Run, modality_order, ordered_runs, row_label
from .summary_json import plain, ranking_record
from .tables import (
    best_methods,
    decimals,
    format_value,
    headline,
    other_metrics,
    seed_table,
    seeds_note,
    selection_note,
    summary_table,
)

DROPPED_SHOWN = 40
TILES_SHOWN = 6


def build_report(
    metrics: pd.DataFrame,
    summary: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    runs: Sequence[Run],
    manifest_meta: Mapping[str, Any],
    rankings: pd.DataFrame,
    configuration: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> str:
    """The whole evaluation as one self-contained HTML page: plotly inlined once, no network, no time stamps.

    `metrics`: see `collect_metrics`; `summary`: see `summarise`; `figures`: name → figure, drawn in this
    order; `manifest_meta`: `dataset`, `task`, `class_names`, `target_name`, `target_unit`, `counts`,
    `source`, `dropped`, `notes`; `rankings`: see `rankings.teacher_orders`; `configuration`: as resolved;
    `data`: see `data_report.report.describe_data`. All text from data is escaped."""
    unit = str(manifest_meta.get("target_unit") or "")
    modalities = modality_order(runs)
    split = str(summary["split"].iloc[0])
    wrong = ranking_disagreements(rankings)
    template = page_environment().get_template("report.html.j2")
    dropped = list(manifest_meta.get("dropped") or [])
    return template.render(
        meta=manifest_meta,
        sample=manifest_meta["source"] == "sample",
        unit=unit,
        split=split,
        modalities=modalities,
        seeds=sorted({run.seed for run in runs}),
        seeds_note=seeds_note(summary),
        many_seeds=int(summary["n"].max()) > 1,
        protocol=protocol(runs),
        warn_selection=selection_note(metrics),
        tiles=tiles(summary, modalities),
        main=table_cells(summary_table(summary), summary, unit),
        other=table_cells(summary_table(summary, other_metrics(summary)), summary, unit),
        by_seed=table_cells(seed_table(metrics, split), summary, unit),
        methods=method_rows(runs),
        dropped=[describe_dropped(item) for item in dropped[:DROPPED_SHOWN]],
        dropped_more=max(0, len(dropped) - DROPPED_SHOWN),
        dropped_total=len(dropped),
        rankings=ranking_record(rankings),
        disagreements=wrong,
        ranked_on=ranked_on(runs),
        configuration=json.dumps(plain(configuration), indent=2, ensure_ascii=False),
        **data_context(data),
        plotly_js=Markup(get_plotlyjs()) if figures or data else "",
        figures=[(name, figure_html(name, figure)) for name, figure in figures.items()],
    )


def protocol(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How the evaluated epochs were chosen: a row a selection and metric, with the runs it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in ordered_runs(runs):
        key = (str(run.info.get("selection", "val")), str(run.info.get("metric", "")))
        label = row_label(run.method, run.modality)
        names = found.setdefault(key, [])
        if label not in names:
            names.append(label)
    return [
        {
            "selection": selection,
            "words": SELECTIONS.get(selection, selection),
            "metric": metric_spec(metric).label,
            "who": "all runs" if len(found) == 1 else ", ".join(names),
        }
        for (selection, metric), names in found.items()
    ]


def tiles(summary: pd.DataFrame, modalities: Sequence[str]) -> list[dict[str, Any]]:
    """The first thing seen: the best teacher and each method, by the first headline metric that is a number."""
    finite = set(summary.loc[summary["mean"].notna(), "metric"])
    name = next(
        (n for n in [*headline(summary), *other_metrics(summary)] if n in finite), headline(summary)[0]
    )
    spec, own = metric_spec(name), summary[summary["metric"] == name]
    digits, best = decimals(name, own["mean"]), best_methods(summary).get(name, [])
    teachers = own[(own["method"] == TEACHER) & own["mean"].notna()]
    chosen = []
    if len(teachers):
        row = teachers.sort_values("mean", ascending=not spec.higher_is_better, kind="stable").iloc[0]
        chosen.append((f"best teacher · {row['modality']}", row, False))
    students = own[(own["method"] != TEACHER) & (own["part"] == MULTI)]
    chosen += [(str(row["method"]), row, row["method"] in best) for _, row in students.iterrows()]
    return [
        {
            "label": label,
            "value": format_value(name, float(row["mean"]), digits=digits),
            "spread": format_value(name, float(row["std"]), digits=digits)
            if row["std"] == row["std"]
            else "",
            "metric": spec.label,
            "unit": spec.unit if spec.unit != "target" else "",
            "best": is_best,
        }
        for label, row, is_best in chosen[:TILES_SHOWN]
    ]


def table_cells(wide: pd.DataFrame, summary: pd.DataFrame, unit: str) -> dict[str, Any]:
    """A wide table for the template: `groups` (metric title, parts) and `rows` (label, extra columns, cells)."""
    best = best_methods(summary)
    names = list(dict.fromkeys(wide.columns.get_level_values("metric")))
    parts = list(dict.fromkeys(wide.columns.get_level_values("part")))
    rows = []
    columns = [(str(name), str(part)) for name in names for part in parts]  # summary_table's own order
    for key, texts in zip(wide.index, wide.to_numpy(), strict=True):
        method, modality, *extra = key
        cells = []
        for (name, part), words in zip(columns, texts, strict=True):
            winner = not extra and part == MULTI and method in best.get(name, [])
            cells.append({"text": words, "multi": part == MULTI, "best": winner})
        label = row_label(method, modality)
        rows.append({"label": label, "teacher": method == TEACHER, "extra": extra, "cells": cells})
    marked = any(cell["best"] for row in rows for cell in row["cells"])
    return {
        "groups": [metric_spec(n).title(unit) for n in names],
        "parts": parts,
        "rows": rows,
        "marked": marked,
    }


def method_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row a method: fusion, parameters and schedule, as the first of its runs was trained."""
    first: dict[str, Run] = {}
    for run in ordered_runs(runs):
        if not run.is_teacher:
            first.setdefault(run.method, run)
    return [
        {
            "method": method,
            "fusion": str(run.info.get("fusion") or "–"),
            "parameters": describe(run.info.get("parameters")),
            "smp": describe(run.info.get("smp")),
        }
        for method, run in first.items()
    ]


def describe(values: Any) -> str:
    """`{"alpha": 1.0, "tau": [5, 10]}` → `"alpha = 1, tau = 5/10"`; nothing → "–"."""
    if not isinstance(values, Mapping):
        return "–" if values is None else str(values)

    def one(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "/".join(one(item) for item in value)
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} = {one(value)}" for key, value in values.items()) or "–"


def ranked_on(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(method, `"train"` or `"val"`) of the methods that use a ranking."""
    used: dict[str, str] = {}
    for run in ordered_runs(runs):
        if isinstance(smp := run.info.get("smp"), Mapping):
            used.setdefault(run.method, str(smp.get("confidence_on", "train")))
    return list(used.items())
