"""One function a figure: data frames in, a plotly figure out.

`history` is what `records.history_frame` returns, `summary` what `tables.summarise` returns; `modalities` are
in the configuration's order, which fixes their colours. Everything is a mean over seeds with a band (or bar)
of ± one standard deviation. To add a figure: write its function, and name it in `make_figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from g2d_pipeline.html import INK, TEMPLATE, text

from .metrics import metric_spec, task_of
from .panels import add_curve, figure_title, mean_curve, panel_figure, part_colours
from .records import MULTI, TEACHER
from .tables import decimals, format_value, headline, seeds_note, selection_note

LOSS_TERMS = {
    "loss/total": ("total", "#332288", "solid"),
    "loss/task": ("task", INK, "solid"),
    "loss/feature_distillation": ("feature distillation", "#999933", "solid"),
    "loss/logit_distillation": ("logit distillation", "#882255", "solid"),
    "val/loss": ("task, validation", INK, "dot"),
}
"""History column → its name, colour and dash in `loss_curves`."""


def _reading(history: pd.DataFrame) -> str:
    """The subtitle's last words: over how many seeds the curves are, and what a dashed line is."""
    n = history["seed"].nunique()
    seeds = f"mean of {n} seeds, band: ± 1 std" if n > 1 else "1 seed"
    students = history[history["method"] != TEACHER]
    return f"{seeds}; dashed: new phase, with who learns" if students["phase"].nunique() > 1 else seeds


def _students(history: pd.DataFrame, prefix: str, modalities: Sequence[str]) -> pd.DataFrame:
    """The students that log `prefix/<modality>`; raises ValueError where none does."""
    columns = [f"{prefix}/{m}" for m in modalities if f"{prefix}/{m}" in history]
    frame = history[history["method"] != TEACHER]
    logged = frame.loc[frame[columns].notna().any(axis=1), "method"]
    if logged.empty:
        raise ValueError(f"no student's history has a {prefix}/<modality> column")
    return frame[frame["method"].isin(logged)]


def loss_curves(history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str) -> go.Figure:
    """Training loss and its terms by epoch, and the validation loss; teachers in one panel, coloured by
    modality."""
    subtitle = f"training: solid, validation: dotted; {_reading(history)}"
    title = figure_title("Loss by epoch", dataset, source, subtitle)
    figure, panels = panel_figure(history, title, "loss", one_scale=False, phases=modalities)
    colours = part_colours(modalities)
    for panel in panels:
        if panel.is_teachers:
            for m in modalities:
                own = panel.history[panel.history["modality"] == m]
                add_curve(figure, panel, mean_curve(own, "loss/task"), f"teacher {m}", colours[m])
                validation = mean_curve(own, "val/loss")
                add_curve(
                    figure, panel, validation, f"teacher {m}", colours[m], dash="dot", width=1.6, band=False
                )
            continue
        for column, (name, colour, dash) in LOSS_TERMS.items():
            curve = mean_curve(panel.history, column)
            if column == "loss/total" and curve.equals(mean_curve(panel.history, "loss/task")):
                continue  # nothing is added to the task loss
            add_curve(figure, panel, curve, name, colour, dash=dash, width=1.6 if dash == "dot" else 2.0)
    return figure


def metric_curves(
    history: pd.DataFrame,
    *,
    metric: str,
    modalities: Sequence[str],
    dataset: str,
    source: str,
    unit: str = "",
) -> go.Figure:
    """The selection metric by epoch: the whole and every modality, val solid, test dotted, phase changes
    marked.

    `metric` names what `val/<part>` and `test/<part>` hold, `unit` is the target's (for `rmse` and `mae`).
    """
    spec = metric_spec(metric)
    subtitle = f"validation: solid, test: dotted; {_reading(history)}"
    title = figure_title(f"{spec.label} by epoch", dataset, source, subtitle)
    figure, panels = panel_figure(history, title, text(spec.title(unit)), one_scale=True, phases=modalities)
    colours = part_colours(modalities)
    for panel in panels:
        for rank, part in enumerate([MULTI, *modalities]):
            frame = panel.history[panel.history["modality"] == part] if panel.is_teachers else panel.history
            width = 2.8 if part == MULTI else 1.8
            for split, dash in (("val", "solid"), ("test", "dot")):
                curve = mean_curve(frame, f"{split}/{part}", spec.scale)
                band = split == "val"
                add_curve(
                    figure, panel, curve, part, colours[part], dash=dash, width=width, band=band, rank=rank
                )
    return figure


def confidence_curves(
    history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str
) -> go.Figure:
    """Each teacher's mean confidence over the batches of an epoch: what the ranking is made from (Fig. 3)."""
    frame = _students(history, "confidence", modalities)
    title = figure_title("Teachers' confidence ρ on training batches", dataset, source, _reading(frame))
    figure, panels = panel_figure(frame, title, "confidence ρ (0 to 1)", one_scale=True, phases=modalities)
    colours = part_colours(modalities)
    for panel in panels:
        for m in modalities:
            add_curve(figure, panel, mean_curve(panel.history, f"confidence/{m}"), m, colours[m])
    return figure


def kappa_curves(history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str) -> go.Figure:
    """The coefficient κ of each encoder by epoch, of the methods that modulate (of all, where none does).

    Lines get thinner from one modality to the next, so that those that lie on one another are all seen.
    """
    frame = _students(history, "kappa", modalities)
    columns = [f"kappa/{m}" for m in modalities if f"kappa/{m}" in frame]
    modulated = frame.loc[(frame[columns] < 1).any(axis=1), "method"].unique()
    if len(modulated):
        frame = frame[frame["method"].isin(modulated)]
    subtitle = f"0: the encoder is suppressed, 1: it learns in full; {_reading(frame)}"
    title = figure_title("Coefficient κ of each encoder", dataset, source, subtitle)
    figure, panels = panel_figure(frame, title, "κ (mean over batches)", one_scale=True, phases=modalities)
    colours = part_colours(modalities)
    for panel in panels:
        for i, m in enumerate(modalities):
            width = 2.0 + 3.0 * (len(modalities) - 1 - i)
            add_curve(
                figure,
                panel,
                mean_curve(panel.history, f"kappa/{m}"),
                m,
                colours[m],
                width=width,
                shape="hvh",
            )
    figure.update_yaxes(range=[-0.08, 1.08])
    return figure


def summary_bars(
    summary: pd.DataFrame,
    *,
    modalities: Sequence[str],
    dataset: str,
    source: str,
    unit: str = "",
    metric: str | None = None,
) -> go.Figure:
    """One metric of every teacher and method: a bar a part, error bars of ± one standard deviation over
    seeds.

    `metric`: by default the first headline metric that is a number. `unit` is the target's.
    """
    finite = set(summary.loc[summary["mean"].notna(), "metric"])
    candidates = [*headline(summary), *(["rmse"] if task_of(summary) == "regression" else [])]
    name = metric or next((n for n in candidates if n in finite), candidates[0])
    spec, colours = metric_spec(name), part_colours(modalities)
    rows = summary[summary["metric"] == name]
    digits = decimals(name, rows["mean"])
    labels = list(dict.fromkeys((str(r.method), str(r.modality)) for r in rows.itertuples(index=False)))
    bars: dict[str, list[tuple[float, float, float]]] = {}
    ticks, x = [], 0.0
    for method, modality in labels:
        own = rows[(rows["method"] == method) & (rows["modality"] == modality)]
        parts = [p for p in [MULTI, *modalities] if p in set(own["part"])]
        ticks.append(x + (len(parts) - 1) / 2)
        for part in parts:
            value = own[own["part"] == part].iloc[0]
            bars.setdefault(part, []).append((x, float(value["mean"]), float(value["std"])))
            x += 1.0
        x += 0.7
    figure = go.Figure()
    for part in [p for p in [MULTI, *modalities] if p in bars]:
        values = [(mean, std) for _, mean, std in bars[part]]
        errors = [std * spec.scale if math.isfinite(std) else 0.0 for _, std in values]
        figure.add_bar(
            x=[place for place, _, _ in bars[part]],
            y=[mean * spec.scale if math.isfinite(mean) else None for mean, _ in values],
            width=0.92,
            name=text(part),
            marker={"color": colours[part]},
            error_y={
                "array": errors,
                "color": "#3d4250",
                "thickness": 1.4,
                "width": 4,
                "visible": any(errors),
            },
            text=[format_value(name, m, digits=digits) for m, _ in values],
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
            hovertext=[format_value(name, m, s, digits) for m, s in values],
            hovertemplate="%{hovertext}",
        )
    split, n = str(summary["split"].iloc[0]), int(summary["n"].max())
    spread = f"mean of {seeds_note(summary)}, error bars: ± 1 std" if n > 1 else "1 seed"
    note = selection_note(summary)
    direction = "higher is better" if spec.higher_is_better else "lower is better"
    figure.update_layout(
        template=TEMPLATE,
        title=figure_title(
            f"{spec.label} on the {split} split",
            dataset,
            source,
            "; ".join(filter(None, [direction, spread, note])),
        ),
        barmode="overlay",
        hovermode="closest",
        height=420,
        margin={"t": 84},
        showlegend=True,
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    names = [f"{text(modality)}<br>alone" if modality else text(method) for method, modality in labels]
    middle, half = (x - 1.7) / 2, max(x - 0.7, 7.0) / 2 + 0.3  # few bars keep a decent width
    figure.update_xaxes(tickvals=ticks, ticktext=names, tickangle=0, ticks="", showgrid=False)
    figure.update_xaxes(range=[middle - half, middle + half], title_text="teacher or method")
    figure.update_yaxes(title_text=text(spec.title(unit)))
    return figure


def make_figures(
    history: pd.DataFrame,
    summary: pd.DataFrame,
    *,
    metric: str,
    modalities: Sequence[str],
    dataset: str,
    source: str,
    unit: str = "",
) -> dict[str, go.Figure]:
    """Every figure that these data can fill, by name, in the report's order."""
    common: dict[str, Any] = {"modalities": list(modalities), "dataset": dataset, "source": source}
    figures = {"summary_bars": summary_bars(summary, **common, unit=unit)}
    if history.empty:
        return figures
    figures["metric_curves"] = metric_curves(history, metric=metric, **common, unit=unit)
    figures["loss_curves"] = loss_curves(history, **common)
    for name, prefix, draw in (
        ("confidence_curves", "confidence", confidence_curves),
        ("kappa_curves", "kappa", kappa_curves),
    ):
        students = history[history["method"] != TEACHER]
        columns = [f"{prefix}/{m}" for m in modalities if f"{prefix}/{m}" in students]
        if columns and bool(students[columns].notna().to_numpy().any()):
            figures[name] = draw(history, **common)
    return figures
