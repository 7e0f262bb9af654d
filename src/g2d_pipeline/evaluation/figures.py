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

from .metrics import metric_spec
from .plots import add_curve, figure_title, mean_curve, panel_figure, part_colours
from .records import MULTI, TEACHER, repeat_columns, repeats_note
from .tables import decimals, format_value, main_metric, seeds_note, selection_note

LOSS_TERMS = {
    "loss/total": ("total", "#332288", "solid"),
    "loss/task": ("task", INK, "solid"),
    "loss/feature_distillation": ("feature distillation", "#999933", "solid"),
    "loss/logit_distillation": ("logit distillation", "#882255", "solid"),
    "val/loss": ("task, validation", INK, "dot"),
}
"""History column → its name, colour and dash in `loss_curves`."""
ERROR_BAR = {"color": "#3d4250", "thickness": 1.4, "width": 4}


def _reading(history: pd.DataFrame) -> str:
    """The subtitle's last words: over how many folds and seeds the curves are, and what a dashed line is."""
    n = len(history[repeat_columns(history)].drop_duplicates())
    words = repeats_note(n, history["fold"].nunique() if "fold" in history else 0)
    seeds = f"mean of {words}, band: ± 1 std" if n > 1 else words
    students = history[history["method"] != TEACHER]
    return f"{seeds}; dashed: new phase, with who learns" if students["phase"].nunique() > 1 else seeds


def _students(
    history: pd.DataFrame, prefix: str, modalities: Sequence[str], must: bool = False
) -> pd.DataFrame:
    """The rows of the students that log `prefix/<modality>`; ValueError where there `must` be some."""
    columns = [f"{prefix}/{m}" for m in modalities if f"{prefix}/{m}" in history]
    frame = history[history["method"] != TEACHER]
    frame = frame[frame["method"].isin(frame.loc[frame[columns].notna().any(axis=1), "method"])]
    if must and frame.empty:
        raise ValueError(f"no student's history has a {prefix}/<modality> column")
    return frame


def loss_curves(history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str) -> go.Figure:
    """Training loss, its terms and the validation loss by epoch; teachers in one panel, by modality."""
    subtitle = f"training: solid, validation: dotted; {_reading(history)}"
    title = figure_title("Loss by epoch", dataset, source, subtitle)
    figure, panels = panel_figure(history, title, "loss", one_scale=False, phases=modalities)
    colours = part_colours(modalities)
    dotted: dict[str, Any] = {"dash": "dot", "width": 1.6}
    for panel in panels:
        for m in modalities if panel.is_teachers else ():
            own = panel.history[panel.history["modality"] == m]
            add_curve(figure, panel, mean_curve(own, "loss/task"), f"teacher {m}", colours[m])
            validation = mean_curve(own, "val/loss")
            add_curve(figure, panel, validation, f"teacher {m}", colours[m], band=False, **dotted)
        for column, (name, colour, dash) in () if panel.is_teachers else LOSS_TERMS.items():
            curve = mean_curve(panel.history, column)
            if column == "loss/total" and curve.equals(mean_curve(panel.history, "loss/task")):
                continue  # nothing is added to the task loss
            add_curve(figure, panel, curve, name, colour, **(dotted if dash == "dot" else {}))
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
    """The selection metric by epoch: the whole and every modality, val solid, test dotted, phases marked.

    `metric` names what `val/<part>` and `test/<part>` hold, `unit` is the target's (`rmse` and `mae`)."""
    spec = metric_spec(metric)
    tested = any(str(column).startswith("test/") for column in history)
    subtitle = f"validation{': solid, test: dotted' if tested else ''}; {_reading(history)}"
    title = figure_title(f"{spec.label} by epoch", dataset, source, subtitle)
    figure, panels = panel_figure(history, title, text(spec.title(unit)), one_scale=True, phases=modalities)
    colours = part_colours(modalities)
    for panel in panels:
        for rank, part in enumerate([MULTI, *modalities]):
            frame = panel.history[panel.history["modality"] == part] if panel.is_teachers else panel.history
            style: dict[str, Any] = {"width": 2.8 if part == MULTI else 1.8, "rank": rank}
            validation, test = (mean_curve(frame, f"{split}/{part}", spec.scale) for split in ("val", "test"))
            add_curve(figure, panel, validation, part, colours[part], **style)
            add_curve(figure, panel, test, part, colours[part], dash="dot", band=False, **style)
    return figure


def confidence_curves(
    history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str
) -> go.Figure:
    """Each teacher's mean confidence over the batches of an epoch: what the ranking is made from (Fig. 3)."""
    frame = _students(history, "confidence", modalities, must=True)
    title = figure_title("Teachers' confidence ρ on training batches", dataset, source, _reading(frame))
    figure, panels = panel_figure(frame, title, "confidence ρ (0 to 1)", one_scale=True, phases=modalities)
    for panel in panels:
        for m in modalities:
            curve = mean_curve(panel.history, f"confidence/{m}")
            add_curve(figure, panel, curve, m, part_colours(modalities)[m])
    return figure


def kappa_curves(history: pd.DataFrame, *, modalities: Sequence[str], dataset: str, source: str) -> go.Figure:
    """The coefficient κ of each encoder by epoch, of the methods that modulate (of all, where none does).

    Lines get thinner from one modality to the next, so that those that lie on one another are seen."""
    frame = _students(history, "kappa", modalities, must=True)
    columns = [f"kappa/{m}" for m in modalities if f"kappa/{m}" in frame]
    modulated = frame["method"].isin(frame.loc[(frame[columns] < 1).any(axis=1), "method"])
    frame = frame[modulated] if modulated.any() else frame
    subtitle = f"0: the encoder is suppressed, 1: it learns in full; {_reading(frame)}"
    title = figure_title("Coefficient κ of each encoder", dataset, source, subtitle)
    figure, panels = panel_figure(frame, title, "κ (mean over batches)", one_scale=True, phases=modalities)
    for panel in panels:
        for i, m in enumerate(modalities):
            curve, width = mean_curve(panel.history, f"kappa/{m}"), 2.0 + 3.0 * (len(modalities) - 1 - i)
            add_curve(figure, panel, curve, m, part_colours(modalities)[m], width=width, shape="hvh")
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
    seeds. `metric`: by default the first headline metric that is a number. `unit` is the target's."""
    name = metric or main_metric(summary)
    spec, rows = metric_spec(name), summary[summary["metric"] == name]
    bars, ticks, end = _place_bars(rows, [MULTI, *modalities])
    digits, colours, figure = decimals(name, rows["mean"]), part_colours(modalities), go.Figure()
    for part, own in bars.groupby("part", sort=False):
        values: list[Any] = list(own[["mean", "std"]].itertuples(index=False, name=None))
        errors = (own["std"] * spec.scale).fillna(0.0).tolist()
        figure.add_bar(
            x=own["x"].tolist(),
            y=[mean * spec.scale if math.isfinite(mean) else None for mean, _ in values],
            width=0.92,
            name=text(part),
            marker={"color": colours[str(part)]},
            error_y={**ERROR_BAR, "array": errors, "visible": any(errors)},
            text=[format_value(name, mean, digits=digits) for mean, _ in values],
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
            hovertext=[format_value(name, mean, std, digits) for mean, std in values],
            hovertemplate="%{hovertext}",
        )
    many = int(summary["n"].max()) > 1
    notes = [
        "higher is better" if spec.higher_is_better else "lower is better",
        f"mean of {seeds_note(summary)}, error bars: ± 1 std" if many else "1 seed",
        selection_note(summary),
    ]
    words = f"{spec.label} on the {summary['split'].iloc[0]} split"
    figure.update_layout(
        template=TEMPLATE,
        title=figure_title(words, dataset, source, "; ".join(filter(None, notes))),
        barmode="overlay",
        hovermode="closest",
        height=420,
        margin={"t": 84},
        showlegend=True,
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    middle, half = (end - 1.7) / 2, max(end - 0.7, 7.0) / 2 + 0.3  # few bars keep a decent width
    at, labels = list(ticks), list(ticks.values())
    figure.update_xaxes(tickvals=at, ticktext=labels, tickangle=0, ticks="", showgrid=False)
    figure.update_xaxes(range=[middle - half, middle + half], title_text="teacher or method")
    figure.update_yaxes(title_text=text(spec.title(unit)))
    return figure


def _place_bars(rows: pd.DataFrame, parts: Sequence[str]) -> tuple[pd.DataFrame, dict[float, str], float]:
    """Bars (`x`, `part`, `mean`, `std`) by part; middle of each teacher or method → its label; the end."""
    bars, ticks, x = [], {}, 0.0
    for (method, modality), own in rows.groupby(["method", "modality"], sort=False):
        values: dict[str, Any] = {row["part"]: row for row in own.to_dict(orient="records")}
        present = [part for part in parts if part in values]
        ticks[x + (len(present) - 1) / 2] = f"{text(modality)}<br>alone" if modality else text(method)
        for part in present:
            bars.append((x, part, values[part]["mean"], values[part]["std"]))
            x += 1.0
        x += 0.7
    frame = pd.DataFrame(bars, columns=["x", "part", "mean", "std"])
    return frame.sort_values("part", key=lambda part: part.map(list(parts).index), kind="stable"), ticks, x


def make_figures(
    history: pd.DataFrame, summary: pd.DataFrame, *, metric: str, unit: str = "", **common: Any
) -> dict[str, go.Figure]:
    """Every figure that these data can fill, by name, in the report's order. `common`: `modalities`,
    `dataset`, `source`."""
    figures = {"summary_bars": summary_bars(summary, **common, unit=unit)}
    if history.empty:
        return figures
    figures["metric_curves"] = metric_curves(history, metric=metric, **common, unit=unit)
    figures["loss_curves"] = loss_curves(history, **common)
    for prefix, draw in (("confidence", confidence_curves), ("kappa", kappa_curves)):
        if not _students(history, prefix, common["modalities"]).empty:
            figures[draw.__name__] = draw(history, **common)
    return figures
