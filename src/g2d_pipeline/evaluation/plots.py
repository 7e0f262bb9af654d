"""Shared by figures: the frames they are drawn from, means over seeds, panels of curves and of points."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from g2d_pipeline.charts import ABOVE, CELL, LETTER, Chart
from g2d_pipeline.html import GREY, INK, PALETTE

from .analyses import FRAMES
from .records import MULTI, TEACHER, repeat_columns, repeats_note, select
from .tables import ABSENT


@dataclass(frozen=True)
class Frames:
    """The input of figures: `history` (see `records.history_frame`), `summary` (see `tables.summarise`),
    `comparisons` (see `statistics.comparisons`), and by name the frames of `analyses`; `modalities` are in
    the configuration's order, which fixes their colours; `metric` is that of the columns `val/<part>`, `unit`
    the target's, `classes` the names of its classes."""

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

    def analysis(self, name: str, **equal: Any) -> pd.DataFrame:
        """The rows of a frame of `analyses` whose columns have the values `equal`; none without the frame."""
        empty = pd.DataFrame(columns=["method", "seed", *FRAMES.get(name, ())])
        return select(self.analyses.get(name, empty), **equal)

    def chart(self, title: str, panels: Iterable[str], *notes: str, **options: Any) -> Chart:
        """An empty chart of this data set, with `notes` as its subtitle."""
        subtitle = "; ".join(filter(None, notes))
        return Chart(title, panels, dataset=self.dataset, source=self.source, subtitle=subtitle, **options)


def grouped(frame: pd.DataFrame, by: str = "method") -> dict[str, pd.DataFrame]:
    """Value of the column `by`, in order of appearance → its rows."""
    return {str(name): rows for name, rows in frame.groupby(by, sort=False)}


def spread_note(frame: pd.DataFrame, drawn: str = "bars") -> str:
    """`mean of 3 seeds, bars: ± 1 std`, or `1 seed`."""
    n = len(frame[repeat_columns(frame)].drop_duplicates())
    repeats = repeats_note(n, frame["fold"].nunique() if "fold" in frame else 0)
    return f"mean of {repeats}, {drawn}: ± 1 std" if n > 1 else repeats


def mean_curve(frame: pd.DataFrame, column: str, scale: float = 1.0) -> pd.DataFrame:
    """`epoch`, `mean`, `std` over the seeds that have it (ddof = 1; NaN for 1); empty without the column."""
    if column not in frame or frame[column].isna().all():
        return pd.DataFrame(columns=["epoch", "mean", "std"])
    values = frame[["epoch", column]].dropna().assign(**{column: lambda d: d[column].astype(float) * scale})
    return values.groupby("epoch")[column].agg(["mean", "std"]).reset_index()


# ---------------------------------------------------------------------------------------- curves over epochs
def history_chart(
    frames: Frames, history: pd.DataFrame, title: str, y: str, labels: Sequence[str], subtitle: str = ""
) -> tuple[Chart, dict[str, pd.DataFrame]]:
    """An empty chart with a panel per method in order of appearance, teachers together in the first, phases
    marked; and each panel's rows of `history`. `labels`: the names of the curves."""
    panels = grouped(history)
    phases = history.loc[history["method"] != TEACHER, "phase"].nunique() > 1
    chart = frames.chart(
        title,
        {name: "teachers alone" if name == TEACHER else name for name in panels},
        subtitle,
        spread_note(history, "band"),
        "dashed: new phase, with who learns" if phases else "",
        x="epoch",
        y=y,
        above=ABOVE + (32 if phases else 0),
        labels=labels,
    )
    for name, rows in panels.items():
        chart.axes[name].xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        if name != TEACHER and rows["phase"].nunique() > 1:
            _mark_phases(chart, name, rows, frames.modalities)
    return chart, panels


def _mark_phases(chart: Chart, panel: str, rows: pd.DataFrame, modalities: Sequence[str]) -> None:
    """A vertical line where a phase begins, and above it who learns (all, one modality, or the phase's
    number), in the lower of two rows with room for it, if any."""
    axes = chart.axes[panel]
    width = axes.get_position().width * CELL * chart.columns
    first, last = int(rows["epoch"].min()), int(rows["epoch"].max())
    ends = [-math.inf, -math.inf]  # of the text in the two rows, in pixels
    for start in sorted({int(e) for e in rows.groupby([*repeat_columns(rows), "phase"])["epoch"].min()}):
        numbers = sorted({int(p) for p in rows.loc[rows["epoch"] == start, "phase"]})
        learning = {frozenset(str(s).split("+")) for s in rows.loc[rows["phase"].isin(numbers), "learning"]}
        active = next(iter(learning)) if len(learning) == 1 else frozenset()
        text = "all" if active == set(modalities) else " + ".join(m for m in modalities if m in active)
        text = text or "phase " + "/".join(map(str, numbers))
        at = start - (0.5 if start > first else 0)
        if start > first:
            axes.axvline(at, color=GREY, linewidth=0.9, linestyle="dashed")
        left = (at - first) / max(last - first, 1) * width
        row = next((row for row, end in enumerate(ends) if left >= end), None)
        if row is not None:
            ends[row] = left + LETTER * (len(text) + 1)
            chart.note(panel, text, (left, 4 + 14 * row))


# --------------------------------------------------------------------------------- a point per row, with bars
def mean_points(means: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """The rows of `points_chart` from the columns `mean` and `std`: bars of ± one standard deviation.
    `columns`: the others, `panel`, `label`, `text` and `bold`."""
    mean, std = means["mean"], means["std"]
    return pd.DataFrame({"mean": mean, "low": mean - std, "high": mean + std}).assign(**columns)


def points_chart(
    frames: Frames,
    title: str,
    rows: pd.DataFrame,
    x: str,
    *notes: str,
    headings: str = "{}",
    origin: float | None = None,
    bars: bool = False,
) -> Chart:
    """A panel for each value of the column `panel` of `rows` (parts in their order, others by appearance), on
    one scale; the other columns: see `Chart.points`. `origin`: where a vertical line stands; `bars` start
    there. `headings`: how a panel is headed."""
    parts = [MULTI, *frames.modalities]
    panels = grouped(rows, "panel")
    names = sorted(panels, key=lambda name: parts.index(name) if name in parts else len(parts))
    chart = frames.chart(
        title,
        {name: headings.format(name) for name in names},
        *notes,
        x=x,
        lines=max(map(len, panels.values())),
        names=list(rows["label"]),
        labels=list(rows["text"]),
    )
    for name in names:
        if origin is not None:
            chart.axes[name].axvline(origin, color=GREY, linewidth=0.9, linestyle="dashed")
        colour = frames.colours.get(name, INK)
        chart.points(name, panels[name].drop(columns="panel"), colour, origin if bars else None)
    chart.share_limits("x")
    return chart


def method_points(
    frames: Frames,
    frame: pd.DataFrame,
    value: str,
    title: str,
    x: str,
    *,
    panel: str = "modality",
    note: str = "",
    scale: float = 1.0,
    **options: Any,
) -> Chart | None:
    """A `points_chart` with a panel for each value of the column `panel` and a row per method: the mean of
    the column `value`, `scale`d."""
    if frame[value].isna().all():
        return None
    by_panel = {
        name: rows.groupby("method", sort=False)[value].agg(["mean", "std"])
        for name, rows in grouped(frame, panel).items()
    }
    means = (pd.concat(by_panel, names=[panel]) * scale).reset_index()
    digits = 1 if scale > 1 else 3
    text = [ABSENT if math.isnan(v) else f"{v:.{digits}f}".replace("-", "−") for v in means["mean"]]
    rows = mean_points(means, label=means["method"], text=text, bold=False, panel=means[panel])
    return points_chart(frames, title, rows, x, note, spread_note(frame), **options)
