"""Figures of the analyses (see `analyses.FRAMES`) and comparisons: a function each, `Frames` in, a chart out.

Points are means over seeds with bars of ± one standard deviation; a panel a modality, a row a method."""

import math
from typing import Any

import pandas as pd

from g2d_pipeline.charts import Chart
from g2d_pipeline.html import GREY, PALETTE

from .metrics import metric_spec
from .plots import Frames, point_rows, points_chart, spread_note
from .records import MULTI, TEACHER
from .statistics import BETTER, LEVEL
from .tables import ABSENT, format_value, main_metric

SCATTERED, CLASSES = 120, 12  # points a modality; classes of a confusion matrix that is legible


def _points(
    frames: Frames,
    frame: pd.DataFrame,
    value: str,
    words: str,
    x: str,
    *,
    panel: str = "modality",
    subtitle: str = "",
    scale: float = 1.0,
    origin: float | None = None,
    bars: bool = False,
) -> Chart | None:
    """A panel for each value of the column `panel`, a row a method: the mean of column `value`, `scale`d.

    `origin`: where a vertical line stands; `bars` start there."""
    if frame.empty or frame[value].isna().all():
        return None
    panels = [str(name) for name in frame[panel].drop_duplicates()]
    ordered = [name for name in frames.modalities if name in panels] or panels
    tables = {}
    for name in ordered:
        grouped = frame[frame[panel] == name].groupby("method", sort=False)[value]
        mean, std = grouped.mean() * scale, grouped.std() * scale
        digits = 1 if scale > 1 else 3
        texts = [ABSENT if math.isnan(one) else f"{one:.{digits}f}".replace("-", "−") for one in mean]
        tables[name] = point_rows(mean.index, mean, std, texts)
    note = "; ".join(filter(None, [subtitle, spread_note(frame)]))
    return points_chart(frames, words, tables, x, note, origin=origin, bars=bars)


def comparisons(frames: Frames) -> Chart | None:
    """The difference of each method to joint training, the best teacher and the ensemble of teachers, with
    its 95 % interval; > 0 is better."""
    if frames.comparisons is None or frames.comparisons.empty:
        return None
    name = main_metric(frames.summary)
    spec, c = metric_spec(name), frames.comparisons
    own = c[(c["metric"] == name) & (c["split"] == "test") & (c["part"] == MULTI)]
    own = own[own["difference"].notna()]
    if own.empty:
        return None
    ends = [own[column] * spec.scale for column in ("difference", "low", "high")]
    texts = [format_value(name, value).replace("-", "−") for value in own["difference"]]
    table = pd.DataFrame(dict(zip(("mean", "low", "high"), ends, strict=True)))
    table = table.assign(label=own["method"], text=texts, bold=own["result"] == BETTER)
    groups = {str(against): rows for against, rows in table.groupby(own["against"], sort=False)}
    unit = {"%": "points", "target": frames.unit}.get(spec.unit, spec.unit)
    words, x = (
        f"Difference of {spec.label} on the test split",
        f"difference ({unit})" if unit else "difference",
    )
    note = f"> 0: better; bars: {LEVEL:.0%} interval over seeds and samples; bold: p < {1 - LEVEL:.2g}"
    headings = {against: f"against {against}" for against in groups}
    return points_chart(frames, words, groups, x, note, headings=headings, origin=0)


def absent_modalities(frames: Frames) -> Chart | None:
    """What is kept of the main metric where a modality is missing from all test samples."""
    own = _robustness(frames, absent=True)
    words = f"Kept of {metric_spec(main_metric(frames.summary)).label} without a modality"
    note = "panel: the modality that is absent"
    return _points(frames, own, "kept", words, "kept (%)", subtitle=note, scale=100.0, origin=100.0)


def corruptions(frames: Frames) -> Chart | None:
    """What is kept of the main metric where a modality is corrupted, mild to severe; a curve a method."""
    own = _robustness(frames, absent=False)
    if own.empty:
        return None
    methods = list(own["method"].unique())
    colours = {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(methods)} | {TEACHER: GREY}
    panels = {f"{m}, {c}": rows for (m, c), rows in own.groupby(["modality", "corruption"], sort=False)}
    chart = frames.chart(
        f"Kept of {metric_spec(main_metric(frames.summary)).label} with a corrupted modality",
        {name: name for name in panels},
        subtitle=f"left: as it is, then from mild to severe; {spread_note(own, 'band')}",
        y="kept (%)",
        labels=methods,
    )
    for name, rows in panels.items():
        labels = rows.drop_duplicates("label")
        steps = dict(zip(labels["label"], range(1, len(labels) + 1), strict=True))
        words = [label.removeprefix(rows["corruption"].iloc[0]).strip() for label in labels["label"]]
        sizes, _, units = zip(*(word.partition(" ") for word in words), strict=True)
        chart.axes[name].set_xticks([0, *steps.values()], ["none", *sizes])
        unit = f" ({units[0]})" if units[0] else ""
        chart.axes[name].set_xlabel(f"{rows['corruption'].iloc[0]}{unit}")
        for method, curve in rows.groupby("method", sort=False):
            means = curve.groupby(curve["label"].map(steps))["kept"].agg(["mean", "std"]) * 100
            means.loc[0] = (100.0, math.nan if means["std"].isna().all() else 0.0)
            means = means.sort_index().rename_axis("step").reset_index()
            chart.curve(name, means, str(method), colours[str(method)])
    chart.share_limits()
    return chart


def _robustness(frames: Frames, absent: bool) -> pd.DataFrame:
    frame = frames.analysis("robustness")
    return frame[
        (frame["metric"] == main_metric(frames.summary)) & ((frame["corruption"] == "absent") == absent)
    ]


def shapley_values(frames: Frames) -> Chart | None:
    """What each modality contributes; over the modalities they sum to the whole's gain over a constant."""
    frame = frames.analysis("shapley")
    if frame.empty:
        return None
    spec, words = metric_spec(str(frame["metric"].iloc[0])), "Shapley value of each modality"
    unit = {"%": "points", "target": frames.unit}.get(spec.unit, spec.unit)
    x = " ".join(filter(None, [spec.label, f"({unit})" if unit else ""]))
    note = "they sum to the gain over the best constant"
    return _points(
        frames, frame, "value", words, x, panel="part", subtitle=note, scale=spec.scale, origin=0.0, bars=True
    )


def probes(frames: Frames) -> Chart | None:
    """A linear probe on the frozen features of each modality, in its teacher and inside each method."""
    frame = frames.analysis("probes")
    frame = frame[(frame["split"] == "test") & frame["metric"].isin(["accuracy", "r2"])]
    if frame.empty:
        return None
    spec = metric_spec(str(frame["metric"].iloc[0]))
    note = f"fitted on validation, scored on test; {TEACHER}: the teacher"
    x = spec.title(frames.unit)
    return _points(frames, frame, "value", "Linear probe on the features", x, subtitle=note, scale=spec.scale)


def modality_gap(frames: Frames) -> Chart | None:
    """The distance between the centroids of two modalities' features (Fig. 4)."""
    frame = frames.analysis("gap")
    frame = frame[frame["split"] == "test"].assign(pair=lambda d: d["first"] + " – " + d["second"])
    words, x = "Modality gap", "distance of centroids (0 to 2)"
    return _points(frames, frame, "distance", words, x, panel="pair")


def projection(frames: Frames) -> Chart | None:
    """Two principal components of the features of test samples, a panel a method (Fig. 4)."""
    frame = frames.analysis("projection")
    if frame.empty:
        return None
    panels = {str(name): rows for name, rows in frame.groupby("method", sort=False)}
    note = f"first run of each; at most {SCATTERED} test samples"
    names = {name: name for name in panels}
    axes: dict[str, Any] = {"x": "first component", "y": "second", "labels": frames.modalities}
    chart = frames.chart("Features of each modality, projected", names, subtitle=note, **axes)
    for name, rows in panels.items():
        for m in frames.modalities:
            own = rows[rows["modality"] == m]
            chart.scatter(name, own.iloc[:: max(1, math.ceil(len(own) / SCATTERED))], m, frames.colours[m])
    return chart


def alignment(frames: Frames) -> Chart | None:
    """The mean cosine of student's and teacher's features, a panel a modality (Fig. 5)."""
    frame = frames.analysis("alignment")
    words = "Alignment with the teacher"
    x = "mean cosine of features"
    return _points(frames, frame[frame["split"] == "test"], "cosine", words, x, origin=0.0)


def confidence_ratio(frames: Frames) -> Chart | None:
    """Confidence of each modality alone inside the student ÷ its teacher's (Fig. 6)."""
    frame = frames.analysis("confidence_ratio")
    weakest = [str(m) for m in frame.loc[frame["weakest"].astype(bool), "modality"].unique()]
    note = f"1: as confident as the teacher; least confident teacher: {', '.join(weakest)}" * bool(weakest)
    words, frame = "Confidence ratio, student ÷ teacher", frame[frame["split"] == "test"]
    return _points(frames, frame, "ratio", words, "ratio of mean confidences", subtitle=note, origin=1.0)


def alpha_beta(frames: Frames) -> Chart | None:
    """The selection metric by α and β, where runs vary them (Table 7); a panel a split."""
    frame = frames.analysis("alpha_beta")
    if frame.empty:
        return None
    spec = metric_spec(frames.metric)
    panels = {str(split): rows for split, rows in frame.groupby("split", sort=False)}
    words, y = f"{spec.label} by α and β", "β"
    chart = frames.chart(words, {n: n for n in panels}, x="α", y=y, lines=frame["beta"].nunique())
    for name, rows in panels.items():
        table = rows.pivot_table(index="beta", columns="alpha", values="value")
        chart.heat(name, table * spec.scale, table.map(lambda value: format_value(frames.metric, value)))
    return chart


def confusion(frames: Frames) -> Chart | None:
    """How samples of a class (row) are classified, in percent of the class; a panel a method."""
    frame = frames.analysis("confusion")
    if frame.empty or frame["target"].nunique() > CLASSES:
        return None
    own = frame[(frame["split"] == "test") & (frame["part"] == MULTI)]
    classes = sorted({*own["target"].astype(int), *own["prediction"].astype(int)})
    names = [frames.classes[c] if c < len(frames.classes) else str(c) for c in classes]
    panels = {str(method): rows for method, rows in own.groupby("method", sort=False)}
    if not panels:
        return None
    chart = frames.chart(
        "Confusion matrix on the test split",
        {name: name for name in panels},
        subtitle="row: true class, column: predicted; % of the row, all seeds together",
        lines=len(classes),
        names=names,
    )
    for name, rows in panels.items():
        counts = rows.pivot_table(index="target", columns="prediction", values="samples", aggfunc="sum")
        counts = counts.reindex(index=classes, columns=classes).fillna(0)
        shares = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        shares.index, shares.columns = pd.Index(names), pd.Index(names)
        chart.heat(name, shares.iloc[::-1], shares.iloc[::-1].map("{:.0f}".format))
    return chart
