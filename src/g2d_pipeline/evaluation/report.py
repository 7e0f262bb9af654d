"""The report: one HTML file that needs nothing else, the same bytes for the same inputs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from g2d_pipeline.charts import Chart
from g2d_pipeline.config import SMPSettings
from g2d_pipeline.data_report.page import data_context
from g2d_pipeline.html import describe_dropped, page_environment

from . import tables
from .metrics import metric_spec
from .records import MULTI, SELECTIONS, TEACHER, Run, modality_order, ordered_runs, row_label, select
from .summary_json import plain, ranked_run, ranking_disagreements, ranking_record
from .verdict import Sentence

DROPPED_SHOWN = 40
CARDS_SHOWN = 6


def build_report(
    results: tables.Results,
    metrics: pd.DataFrame,
    figures: Mapping[str, Chart],
    runs: Sequence[Run],
    manifest_meta: Mapping[str, Any],
    rankings: pd.DataFrame,
    configuration: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    verdict: Sequence[Sentence] = (),
) -> str:
    """The whole evaluation as one self-contained HTML page: figures as SVG, no script, no network, no time
    stamps.

    `metrics`: see `collect_metrics`; `figures`: name → figure, drawn in this order; `manifest_meta`:
    `dataset`, `task`, `class_names`, `target_name`, `target_unit`, `counts`, `source`, `dropped`, `notes`;
    `rankings`: see `ranking_record`; `configuration`: as resolved; `data`: see
    `data_report.report.describe_data`; `notes`: see `result_notes`. All text from data is escaped."""
    summary, split = results.summary, str(results.summary["split"].iloc[0])
    dropped = list(manifest_meta.get("dropped") or [])
    main, other = (tables.summary_table(results, names) for names in (None, tables.other_metrics(summary)))
    by_seed = table_cells(tables.seed_table(metrics, split), replace(results, comparisons=None, failures=()))
    template = page_environment().get_template("report.html.j2")
    return template.render(
        meta=manifest_meta,
        results=results,
        split=split,
        modalities=modality_order(runs),
        seeds=sorted({run.seed for run in runs}),
        folds=len({run.fold for run in runs if run.fold}),
        seeds_note=tables.seeds_note(summary),
        protocol=protocol(runs),
        warn_selection=tables.selection_note(metrics),
        code=configuration.get("code"),
        notes=notes,
        verdict=verdict,
        marks_note=tables.marks_note(results.comparisons),
        cards=cards(results, str(configuration.get("method", ""))),
        compared=comparison_rows(results),
        main=table_cells(main, results),
        other=table_cells(other, results),
        by_seed=with_epochs(by_seed, runs),
        methods=method_rows(runs),
        dropped=[describe_dropped(item) for item in dropped[:DROPPED_SHOWN]],
        dropped_total=len(dropped),
        rankings=[record | {"run": ranked_run(record)} for record in ranking_record(rankings)],
        disagreements=ranking_disagreements(rankings),
        configuration=json.dumps(plain(configuration), indent=2, ensure_ascii=False),
        **data_context(data),
        figures=[figure.html(name) for name, figure in figures.items()],
    )


def protocol(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How the evaluated epochs were chosen: a row per selection and metric, with the runs it holds for."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for run in ordered_runs(runs):
        info, selection = run.info, str(run.info.get("selection", "val"))
        text = SELECTIONS.get(selection, selection)
        if selection != "last" and info.get("selection_epochs", (1, 1))[0] > 1:
            text += " of the last phase"
        metric = metric_spec(str(info.get("selection_metric", info.get("metric", "")))).label
        names.setdefault((selection, text, metric), []).append(row_label(run.method, run.modality))
    return [
        {
            "selection": selection,
            "words": text,
            "metric": metric,
            "who": "all runs" if len(names) == 1 else ", ".join(dict.fromkeys(labels)),
        }
        for (selection, text, metric), labels in names.items()
    ]


def with_epochs(table: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """The table by seeds, its epochs with those that they were selected from: `"29 of 21–30"`."""
    infos = {(row_label(run.method, run.modality), *run.repeated.values()): run.info for run in runs}
    for row in table["rows"]:
        first, last = infos[row["label"], *row["extra"][:-1]].get("selection_epochs", (1, 1))
        if last > first > 1:
            row["extra"][-1] = f"{row['extra'][-1]} of {first}–{last}"
    return table


def cards(results: tables.Results, method: str = "") -> list[dict[str, Any]]:
    """The best teacher and each method, by `main_metric`; of too many, the run's `method` and the first."""
    name = tables.main_metric(results.summary)
    spec, rows = metric_spec(name), select(results.summary, metric=name)
    digits, marks = tables.decimals(name, rows["mean"]), tables.marks(results.comparisons)
    teachers = select(rows, method=TEACHER).dropna(subset=["mean"])
    teachers = teachers.sort_values("mean", ascending=not spec.higher_is_better, kind="stable").head(1)
    students = select(rows[rows["method"] != TEACHER], part=MULTI)
    others = students[students["method"] != method].head(CARDS_SHOWN - len(teachers) - 1)["method"]
    students = students[students["method"].isin([*others, method])]
    chosen = pd.concat([teachers, students]).to_dict(orient="records")
    if method not in set(students["method"]) and method in {failure.method for failure in results.failures}:
        chosen.append({"method": method, "mean": math.nan, "std": math.nan, "n": 0})
    return [
        {
            "label": f"best teacher · {row['modality']}" if row["method"] == TEACHER else row["method"],
            "value": tables.format_value(name, row["mean"], digits=digits) if row["n"] else tables.FAILED,
            "spread": tables.format_value(name, row["std"], digits=digits) if row["n"] > 1 else "",
            "metric": spec.label,
            "unit": spec.unit if spec.unit != "target" else "",
            "result": marks.get((row["method"], name), ""),
        }
        for row in chosen
    ]


def table_cells(wide: pd.DataFrame, results: tables.Results) -> dict[str, Any]:
    """A wide table (see `summary_table`) for the template: `groups` (metric titles), `parts` and `rows`:
    label, extra, cells, and as `headline` for each metric the value and its spread, of all modalities (of a
    teacher: of its own)."""
    rows, labels, names = [], tables.row_labels(results), wide.columns.unique("metric")
    multi, best = wide.columns.get_level_values("part") == MULTI, tables.better_cells(wide, results)
    for (method, modality, *extra), texts, better in zip(wide.index, wide.to_numpy(), best, strict=True):
        by_column: dict[Any, str] = dict(zip(wide.columns, texts, strict=True))
        whole = [by_column.get((name, modality or MULTI), tables.ABSENT) for name in names]
        cells = zip(texts, multi, better, strict=True)
        rows.append(
            {
                "label": labels[method, modality],
                "teacher": method == TEACHER,
                "extra": extra,
                "cells": [dict(zip(("text", "multi", "best"), cell, strict=True)) for cell in cells],
                "headline": [text.partition(" ± ")[::2] for text in whole],
            }
        )
    groups = [metric_spec(name).title(results.unit) for name in names]
    return {"groups": groups, "parts": list(wide.columns.unique("part")), "rows": rows}


def comparison_rows(results: tables.Results) -> dict[str, Any] | None:
    """The comparisons of the main metric on test: its `title`, and `rows` of text."""
    if results.comparisons is None:
        return None
    name = tables.main_metric(results.summary)
    digits = tables.decimals(name, select(results.summary, metric=name)["mean"])
    rows = select(results.comparisons, metric=name, split="test", part=MULTI).dropna(subset=["difference"])

    def signed(value: float) -> str:
        text = tables.format_value(name, value, digits=digits)
        return text.replace("-", "−") if value < 0 or not math.isfinite(value) else f"+{text}"

    p = [tables.ABSENT if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}" for p in rows["p_holm"]]
    texts = {column: rows[column].map(signed) for column in ("difference", "low", "high")}
    records = rows.assign(p=p, **texts).to_dict(orient="records")
    return {"title": metric_spec(name).title(results.unit), "rows": records} if records else None


def method_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row per method, as the first of its runs was trained: fusion, parameters that differ from the
    defaults, schedule, and the split that it ranks teachers on (`"train"`, `"val"` or "")."""
    first: dict[str, Run] = {}
    for run in ordered_runs(runs):
        if not run.is_teacher:
            first.setdefault(run.method, run)
    return [
        {
            "method": method,
            "fusion": str(run.info.get("fusion") or "–"),
            "parameters": describe(run.info.get("parameters_changed", run.info.get("parameters"))),
            "smp": describe(schedule(smp := run.info.get("smp"))),
            "ranked_on": str(smp.get("confidence_on", "train")) if isinstance(smp, Mapping) else "",
        }
        for method, run in first.items()
    ]


def schedule(smp: Any) -> Any:
    """The settings of an SMP schedule that differ from the defaults, its phases, and the ranking's split."""
    if not isinstance(smp, Mapping):
        return smp
    defaults = SMPSettings().model_dump(mode="json") | {"tau": None, "confidence_on": None}
    return {key: value for key, value in smp.items() if value != defaults.get(key)}


def describe(values: Any) -> str:
    """`{"alpha": 1.0, "tau": [5, 10]}` → `"alpha = 1, tau = 5/10"`; nothing → "–"."""
    if not isinstance(values, Mapping):
        return "–" if values is None else str(values)

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "/".join(map(text, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} = {text(value)}" for key, value in values.items()) or "–"
