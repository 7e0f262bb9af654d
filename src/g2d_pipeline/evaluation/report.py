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
from .records import MULTI, SELECTIONS, TEACHER, Run, modality_order, ordered_runs, row_label
from .statistics import BETTER
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
    `rankings`: see `rankings.teacher_orders`; `configuration`: as resolved; `data`: see
    `data_report.report.describe_data`; `notes`: see `result_notes`. All text from data is escaped."""
    summary, split = results.summary, str(results.summary["split"].iloc[0])
    dropped = list(manifest_meta.get("dropped") or [])
    main, other = (tables.summary_table(results, own) for own in (None, tables.other_metrics(summary)))
    by_seed = tables.seed_table(metrics, split)
    template = page_environment().get_template("report.html.j2")
    return template.render(
        meta=manifest_meta,
        sample=manifest_meta["source"] == "sample",
        unit=results.unit,
        split=split,
        modalities=modality_order(runs),
        seeds=sorted({run.seed for run in runs}),
        folds=len({run.fold for run in runs if run.fold}),
        seeds_note=tables.seeds_note(summary),
        many_seeds=int(summary["n"].max()) > 1,
        protocol=protocol(runs),
        warn_selection=tables.selection_note(metrics),
        code_ignored=configuration.get("code") == "ignore",
        failures=results.failures,
        notes=notes,
        verdict=verdict,
        marks_note=tables.marks_note(results.comparisons),
        cards=cards(results, str(configuration.get("method", ""))),
        headline=headline_rows(main, results),
        compared=comparison_rows(results),
        main=table_cells(main, results),
        other=table_cells(other, results),
        by_seed=with_epochs(table_cells(by_seed, replace(results, comparisons=None, failures=())), runs),
        methods=method_rows(runs),
        dropped=[describe_dropped(item) for item in dropped[:DROPPED_SHOWN]],
        dropped_more=max(0, len(dropped) - DROPPED_SHOWN),
        dropped_total=len(dropped),
        rankings=[record | {"run": ranked_run(record)} for record in ranking_record(rankings)],
        disagreements=ranking_disagreements(rankings),
        ranked_on=ranked_on(runs),
        configuration=json.dumps(plain(configuration), indent=2, ensure_ascii=False),
        **data_context(data),
        figures=[figure.html(name) for name, figure in figures.items()],
    )


def protocol(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How the evaluated epochs were chosen: a row a selection and metric, with the runs it holds for."""
    names: dict[tuple[str, str, str], dict[str, None]] = {}  # the values: an ordered set
    for run in ordered_runs(runs):
        info = run.info
        words = SELECTIONS.get(selection := str(info.get("selection", "val")), selection)
        if selection != "last" and info.get("selection_epochs", (1, 1))[0] > 1:
            words += " of the last phase"
        key = (selection, words, str(info.get("selection_metric", info.get("metric", ""))))
        names.setdefault(key, {})[row_label(run.method, run.modality)] = None
    return [
        {
            "selection": selection,
            "words": words,
            "metric": metric_spec(metric).label,
            "who": "all runs" if len(names) == 1 else ", ".join(own),
        }
        for (selection, words, metric), own in names.items()
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
    summary, name = results.summary, tables.main_metric(results.summary)
    spec, own = metric_spec(name), summary[summary["metric"] == name]
    digits, marks = tables.decimals(name, own["mean"]), tables.marks(results.comparisons)
    teachers = own[(own["method"] == TEACHER) & own["mean"].notna()]
    teachers = teachers.sort_values("mean", ascending=not spec.higher_is_better, kind="stable").head(1)
    students = own[(own["method"] != TEACHER) & (own["part"] == MULTI)]
    beside = students[students["method"] != method].head(CARDS_SHOWN - len(teachers) - 1)["method"]
    students = students[students["method"].isin([*beside, method])]
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
    """A wide table for the template: `groups` (metric titles), `parts` and `rows` (label, extra, cells)."""
    marks, rows, labels = tables.marks(results.comparisons), [], tables.row_labels(results)
    index: list[Any] = list(wide.index)
    columns: list[Any] = list(wide.columns)
    for (method, modality, *extra), texts in zip(index, wide.to_numpy(), strict=True):
        cells = []
        for (name, part), text in zip(columns, texts, strict=True):
            best = part == MULTI and marks.get((method, name)) == BETTER
            cells.append({"text": text, "multi": part == MULTI, "best": best})
        label = labels[method, modality]
        rows.append({"label": label, "teacher": method == TEACHER, "extra": extra, "cells": cells})
    return {
        "groups": [metric_spec(name).title(results.unit) for name in wide.columns.unique("metric")],
        "parts": list(wide.columns.unique("part")),
        "rows": rows,
    }


def headline_rows(wide: pd.DataFrame, results: tables.Results) -> list[dict[str, Any]]:
    """A row a teacher or method: its `label` and, for each metric, the value of the whole (of a teacher: its
    modality's) and its spread. `wide`: see `summary_table`."""
    labels, names = tables.row_labels(results), list(wide.columns.unique("metric"))
    keys: list[Any] = list(wide.index)
    rows = []
    for method, modality in keys:
        own = wide.loc[(method, modality)]
        cells = [str(own.get((name, modality or MULTI), tables.ABSENT)).partition(" ± ") for name in names]
        values = [(value, spread) for value, _, spread in cells]
        rows.append({"label": labels[method, modality], "teacher": method == TEACHER, "cells": values})
    return rows


def comparison_rows(results: tables.Results) -> dict[str, Any] | None:
    """The comparisons of the main metric on test: its `title`, and `rows` in words."""
    if (comparisons := results.comparisons) is None:
        return None
    summary, name = results.summary, tables.main_metric(results.summary)
    chosen = (comparisons["metric"] == name) & (comparisons["split"] == "test")
    own = comparisons[chosen & (comparisons["part"] == MULTI) & comparisons["difference"].notna()]
    digits = tables.decimals(name, summary.loc[summary["metric"] == name, "mean"])

    def signed(value: float) -> str:
        text = tables.format_value(name, value, digits=digits)
        return text.replace("-", "−") if value < 0 else f"+{text}".replace(f"+{tables.ABSENT}", tables.ABSENT)

    rows = [
        row
        | {column: signed(row[column]) for column in ("difference", "low", "high")}
        | {"p": "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.2g}".replace("nan", tables.ABSENT)}
        for row in own.to_dict(orient="records")
    ]
    return {"title": metric_spec(name).title(results.unit), "rows": rows} if rows else None


def method_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row a method, as the first of its runs was trained: fusion, parameters that differ from the defaults,
    schedule."""
    first: dict[str, Run] = {}
    for run in ordered_runs(runs):
        if not run.is_teacher:
            first.setdefault(run.method, run)
    return [
        {
            "method": method,
            "fusion": str(run.info.get("fusion") or "–"),
            "parameters": describe(run.info.get("parameters_changed", run.info.get("parameters"))),
            "smp": describe(schedule(run.info.get("smp"))),
        }
        for method, run in first.items()
    ]


def schedule(smp: Any) -> Any:
    """What of an SMP schedule says something: its phases, what ranks, and what differs from the defaults."""
    if not isinstance(smp, Mapping):
        return smp
    defaults = SMPSettings().model_dump(mode="json") | {"tau": None, "confidence_on": None}
    return {key: value for key, value in smp.items() if value != defaults.get(key)}


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
