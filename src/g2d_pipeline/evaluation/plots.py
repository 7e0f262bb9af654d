"""What the figures over epochs share: a panel a method, means over seeds, marks where a phase begins."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from g2d_pipeline.charts import ABOVE, CELL, LETTER, Chart
from g2d_pipeline.html import GREY, INK, PALETTE

from .analyses import FRAMES
from .records import MULTI, TEACHER, repeat_columns, repeats_note


@dataclass(frozen=True)
class Frames:
    """What figures are drawn from: `history` (see `records.history_frame`), `summary` (see
    `tables.summarise`), `comparisons` (see `statistics.comparisons`), and by name the frames of `analyses`;
    `modalities` are in the configuration's order, which fixes their colours; `metric` is what `val/<part>`
    holds, `unit` the target's, `classes` the names of its classes."""

    dataset: str
    source: str
    modalities: Sequence[str]
    metric: str
    history: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame | None = None
    unit: str = ""
    analyses: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    classes: Sequence[str] = ()

    @property
    def colours(self) -> dict[str, str]:
        """Part → colour, the same in every figure: ink for multimodal, the palette for modalities."""
        return {MULTI: INK, **{m: PALETTE[i % len(PALETTE)] for i, m in enumerate(self.modalities)}}

    def students(self, prefix: str) -> pd.DataFrame:
        """The rows of the history of the students that log `prefix/<modality>`."""
        columns = [f"{prefix}/{m}" for m in self.modalities if f"{prefix}/{m}" in self.history]
        frame = self.history[self.history["method"] != TEACHER]
        return frame[frame["method"].isin(frame.loc[frame[columns].notna().any(axis=1), "method"])]

    def analysis(self, name: str) -> pd.DataFrame:
        """A frame of `analyses`; one that is not there has no rows."""
        return self.analyses.get(name, pd.DataFrame(columns=["method", "seed", *FRAMES.get(name, ())]))

    def chart(self, words: str, panels: dict[str, str], **options: Any) -> Chart:
        """An empty chart of this data set."""
        return Chart(words, panels, dataset=self.dataset, source=self.source, **options)


def history_chart(
    frames: Frames, history: pd.DataFrame, words: str, y: str, labels: Sequence[str], subtitle: str = ""
) -> tuple[Chart, dict[str, pd.DataFrame]]:
    """An empty chart with a panel a method in order of appearance, teachers together in the first, phases
    marked; and each panel's rows of `history`. `labels`: the names of the curves."""
    panels = {str(name): rows for name, rows in history.groupby("method", sort=False)}
    students = history[history["method"] != TEACHER]
    phases = students["phase"].nunique() > 1
    notes = [subtitle, spread_note(history, "band"), "dashed: new phase, with who learns" if phases else ""]
    chart = frames.chart(
        words,
        {name: "teachers alone" if name == TEACHER else name for name in panels},
        subtitle="; ".join(filter(None, notes)),
        x="epoch",
        y=y,
        above=ABOVE + (32 if phases else 0),
        labels=labels,
    )
    for name, rows in panels.items():
        chart.axes[name].xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        if name != TEACHER:
            mark_phases(chart, name, rows, frames.modalities)
    return chart, panels


def spread_note(frame: pd.DataFrame, drawn: str = "bars") -> str:
    """`mean of 3 seeds, bars: ± 1 std`, or `1 seed`."""
    n = len(frame[repeat_columns(frame)].drop_duplicates())
    words = repeats_note(n, frame["fold"].nunique() if "fold" in frame else 0)
    return f"mean of {words}, {drawn}: ± 1 std" if n > 1 else words


def mark_phases(chart: Chart, panel: str, rows: pd.DataFrame, modalities: Sequence[str]) -> None:
    """A vertical line where a phase begins, and above it who learns (all, one modality, or the phase's
    number), in the lower of two rows with room for it, if any."""
    if rows["phase"].nunique() < 2:
        return
    axes = chart.axes[panel]
    width = axes.get_position().width * CELL * chart.columns
    first, last = int(rows["epoch"].min()), int(rows["epoch"].max())
    ends = [-math.inf, -math.inf]  # of the words in the two rows, in pixels
    for start in sorted({int(e) for e in rows.groupby([*repeat_columns(rows), "phase"])["epoch"].min()}):
        numbers = sorted({int(p) for p in rows.loc[rows["epoch"] == start, "phase"]})
        learning = {frozenset(str(s).split("+")) for s in rows.loc[rows["phase"].isin(numbers), "learning"]}
        active = next(iter(learning)) if len(learning) == 1 else frozenset()
        words = "all" if active == set(modalities) else " + ".join(m for m in modalities if m in active)
        words = words or "phase " + "/".join(map(str, numbers))
        at = start - (0.5 if start > first else 0)
        if start > first:
            axes.axvline(at, color=GREY, linewidth=0.9, linestyle="dashed")
        left = (at - first) / max(last - first, 1) * width
        row = next((row for row, end in enumerate(ends) if left >= end), None)
        if row is not None:
            ends[row] = left + LETTER * (len(words) + 1)
            chart.words(panel, words, up=4 + 14 * row, x=left)


def point_rows(
    labels: Iterable[str], mean: pd.Series, std: pd.Series, texts: Iterable[str], bold: Any = False
) -> pd.DataFrame:
    """The rows of `Chart.points`: means with bars of ± one standard deviation."""
    columns = {"mean": mean, "low": mean - std, "high": mean + std}
    return pd.DataFrame(columns).assign(label=list(labels), text=list(texts), bold=bold)


def points_chart(
    frames: Frames,
    words: str,
    tables: Mapping[str, pd.DataFrame],
    x: str,
    subtitle: str,
    *,
    headings: dict[str, str] | None = None,
    origin: float | None = None,
    bars: bool = False,
) -> Chart:
    """A panel for each of `tables` (see `point_rows`), all on one scale. `origin`: where a vertical line
    stands; `bars` start there."""
    every = pd.concat(tables.values())
    chart = frames.chart(
        words,
        headings or {name: name for name in tables},
        subtitle=subtitle,
        x=x,
        lines=max(map(len, tables.values())),
        names=list(every["label"]),
        labels=list(every["text"]),
    )
    for name, rows in tables.items():
        if origin is not None:
            chart.axes[name].axvline(origin, color=GREY, linewidth=0.9, linestyle="dashed")
        chart.points(name, rows, frames.colours.get(name, INK), origin if bars else None)
    chart.share_limits("x")
    return chart


def mean_curve(frame: pd.DataFrame, column: str, scale: float = 1.0) -> pd.DataFrame:
    """`epoch`, `mean`, `std` over the seeds that have it (ddof = 1; NaN for 1); empty without the column."""
    if column not in frame or frame[column].isna().all():
        return pd.DataFrame(columns=["epoch", "mean", "std"])
    values = frame[["epoch", column]].dropna().assign(**{column: lambda d: d[column].astype(float) * scale})
    return values.groupby("epoch")[column].agg(["mean", "std"]).reset_index()
