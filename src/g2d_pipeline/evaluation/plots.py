"""What all figures share: colours, a panel a method, mean curves with a band over seeds, phase marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from g2d_pipeline.html import GREY, INK, PALETTE, TEMPLATE, text

from .records import MULTI, TEACHER, repeat_columns

COLUMNS = 3
PANEL_WIDTH = 900  # pixels that the panels of a row have, about, in a narrow window
LETTER = 6.5  # pixels, about, of a letter of the labels above a panel


def figure_title(words: str, dataset: str, source: str, subtitle: str = "") -> dict[str, object]:
    """A figure's title with its dataset, prefixed `"SAMPLE · "` where the data are a sample."""
    sample = "SAMPLE · " if source == "sample" else ""
    title: dict[str, object] = {"text": f"{sample}{text(words)} · {text(dataset)}"}
    if subtitle:
        title["subtitle"] = {"text": text(subtitle), "font": {"size": 12, "color": GREY}}
    return title


def part_colours(modalities: Sequence[str]) -> dict[str, str]:
    """Part → colour, the same in every figure: ink for multimodal, the palette for modalities in order."""
    return {MULTI: INK, **{m: PALETTE[i % len(PALETTE)] for i, m in enumerate(modalities)}}


@dataclass(frozen=True)
class Panel:
    """One subplot: the rows of `history` of one method (or of all teachers), and where it is drawn."""

    name: str
    history: pd.DataFrame
    row: int
    col: int

    @property
    def is_teachers(self) -> bool:
        return self.name == TEACHER


def panel_figure(
    history: pd.DataFrame,
    title: dict[str, object],
    y_title: str,
    *,
    one_scale: bool,
    phases: Sequence[str] = (),
) -> tuple[go.Figure, list[Panel]]:
    """An empty figure with a panel a method in order of appearance, teachers together in the first.

    `one_scale`: all panels share the y range. `phases`: the modalities, where phase changes are marked."""
    names = list(dict.fromkeys(history["method"]))
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    height = 212 + 290 * rows
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes="all" if one_scale else False,
        horizontal_spacing=0.05 if one_scale else 0.08,
        vertical_spacing=0.0 if rows == 1 else min(0.95 / (rows - 1), 100 / (height - 212)),
    )
    panels = []
    for index, name in enumerate(names):
        panel = Panel(name, history[history["method"] == name], index // columns + 1, index % columns + 1)
        panels.append(panel)
        heading = "teachers alone" if panel.is_teachers else text(name)
        _note(figure, panel, f"<b>{heading}</b>", size=13, shift=34 if phases else 4)
        last = index + columns >= len(names)
        words = "epoch" if last else None
        figure.update_xaxes(title_text=words, showticklabels=True, row=panel.row, col=panel.col)
        if phases and not panel.is_teachers:
            _mark_phases(figure, panel, phases, PANEL_WIDTH / columns)
    figure.update_yaxes(title_text=y_title, col=1)
    figure.update_layout(template=TEMPLATE, title=title, height=height)
    return figure, panels


def _note(
    figure: go.Figure, panel: Panel, words: str, *, size: int, shift: int, x: float | None = None
) -> None:
    """Words above a panel: at its left edge, or at epoch `x`."""
    edge = {"x": 0, "xref": "x domain"} if x is None else {"x": x, "xref": "x"}
    figure.add_annotation(
        text=words,
        y=1,
        yref="y domain",
        xanchor="left",
        yanchor="bottom",
        yshift=shift,
        showarrow=False,
        font={"size": size, "color": INK if x is None else GREY},
        row=panel.row,
        col=panel.col,
        **edge,
    )


def _mark_phases(figure: go.Figure, panel: Panel, modalities: Sequence[str], width: float) -> None:
    """A vertical line where a phase begins, and above it who learns (all, one modality, or the phase's
    number), in the lower of two rows with room for it, if any. `width`: of the panel, in pixels."""
    frame = panel.history
    if frame["phase"].nunique() < 2:
        return
    first, last = int(frame["epoch"].min()), int(frame["epoch"].max())
    ends = [-math.inf, -math.inf]  # of the words in the two rows, in pixels
    for start in sorted({int(e) for e in frame.groupby([*repeat_columns(frame), "phase"])["epoch"].min()}):
        numbers = sorted({int(p) for p in frame.loc[frame["epoch"] == start, "phase"]})
        learning = {frozenset(str(s).split("+")) for s in frame.loc[frame["phase"].isin(numbers), "learning"]}
        active = next(iter(learning)) if len(learning) == 1 else frozenset()
        words = "all" if active == set(modalities) else " + ".join(m for m in modalities if m in active)
        words = words or "phase " + "/".join(map(str, numbers))
        at = start - (0.5 if start > first else 0)
        if start > first:
            figure.add_shape(
                type="line",
                x0=at,
                x1=at,
                y0=0,
                y1=1,
                yref="y domain",
                line={"color": GREY, "width": 1, "dash": "dash"},
                layer="below",
                row=panel.row,
                col=panel.col,
            )
        left = (at - first) / max(last - first, 1) * width
        row = next((row for row, end in enumerate(ends) if left >= end), None)
        if row is not None:
            ends[row] = left + LETTER * (len(words) + 1)
            _note(figure, panel, text(words), size=11, shift=3 + 15 * row, x=at)


def mean_curve(frame: pd.DataFrame, column: str, scale: float = 1.0) -> pd.DataFrame:
    """`epoch`, `mean`, `std` over the seeds that have it (ddof = 1; NaN for 1); empty without the column."""
    if column not in frame or frame[column].isna().all():
        return pd.DataFrame(columns=["epoch", "mean", "std"])
    values = frame[["epoch", column]].dropna().assign(**{column: lambda d: d[column].astype(float) * scale})
    return values.groupby("epoch")[column].agg(["mean", "std"]).reset_index()


def add_curve(
    figure: go.Figure,
    panel: Panel,
    curve: pd.DataFrame,
    name: str,
    colour: str,
    *,
    dash: str = "solid",
    width: float = 2.0,
    band: bool = True,
    shape: str = "linear",
    rank: int = 0,
) -> None:
    """A mean over seeds, under it a band of ± one standard deviation where there is more than one seed.

    Curves of one `name` share a legend entry and are switched together; `rank` orders the entries."""
    if curve.empty:
        return
    shown = any(trace.legendgroup == name and trace.showlegend is not False for trace in figure.data)
    where = {"row": panel.row, "col": panel.col}
    spread = curve.dropna(subset=["std"])
    if band and not spread.empty:
        mean, std, edge = spread["mean"], spread["std"], spread["epoch"].astype(int).tolist()
        figure.add_scatter(
            x=edge + edge[::-1],
            y=(mean + std).tolist() + (mean - std).tolist()[::-1],
            fill="toself",
            fillcolor=f"rgba({','.join(map(str, hex_to_rgb(colour)))},0.14)",
            mode="lines",
            line={"width": 0, "shape": "linear"},
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
            **where,
        )
    figure.add_scatter(
        x=curve["epoch"].astype(int).tolist(),
        y=curve["mean"].tolist(),
        name=text(name),
        mode="lines" if len(curve) > 1 else "markers",
        line={"color": colour, "dash": dash, "width": width, "shape": shape},
        marker={"color": colour},
        legendgroup=name,
        legendrank=1000 + rank,
        showlegend=not shown,
        hovertemplate="%{y:.4~g}",
        **where,
    )
