"""A function per figure: `Frames` in, a chart out, or None where there is nothing to draw.

Curves and points are means over seeds with bands or bars of ± one standard deviation. To add a figure: write
its function, and name it in `FIGURES`."""

import math
from collections.abc import Callable

import pandas as pd
from matplotlib import rc_context

from g2d_pipeline.charts import STYLE, Chart
from g2d_pipeline.html import GREY, INK, PALETTE

from .metrics import metric_spec
from .plots import (
    Frames,
    grouped,
    history_chart,
    mean_curve,
    mean_points,
    method_points,
    points_chart,
    spread_note,
)
from .records import MULTI, TEACHER, row_label, select
from .statistics import BETTER, LEVEL
from .tables import decimals, format_value, main_metric, marks, seeds_note, selection_note

SCATTERED, CLASSES = 120, 12  # points per modality; classes of a confusion matrix that is legible
LOSS_TERMS = {
    "loss/total": ("total", "#332288", "solid"),
    "loss/task": ("task", INK, "solid"),
    "loss/feature_distillation": ("distilled features", "#999933", "solid"),
    "loss/logit_distillation": ("distilled logits", "#882255", "solid"),
    "val/loss": ("task", INK, "dotted"),
}
"""History column → its name, colour and dash in `loss_curves`."""


def results(frames: Frames, metric: str | None = None) -> Chart:
    """One metric of every teacher and method: a panel per part, a point per row, bars of ± one standard
    deviation over seeds. `metric`: by default the first headline metric that is a number."""
    summary, name = frames.summary, metric or main_metric(frames.summary)
    spec, rows = metric_spec(name), select(frames.summary, metric=name)
    digits, known = decimals(name, rows["mean"]), marks(frames.comparisons)
    better = rows["method"].map(lambda method: known.get((method, name)) == BETTER)
    points = mean_points(
        rows[["mean", "std"]] * spec.scale,
        label=[row_label(*key) for key in zip(rows["method"], rows["modality"], strict=True)],
        text=[format_value(name, *v, digits) for v in zip(rows["mean"], rows["std"], strict=True)],
        bold=(rows["part"] == MULTI) & better,
        panel=rows["part"],
    )
    notes = [
        "higher is better" if spec.higher_is_better else "lower is better",
        f"mean of {seeds_note(summary)}, bars: ± 1 std" if summary["n"].max() > 1 else "1 seed",
        selection_note(summary),
    ]
    title = f"{spec.label} on the {summary['split'].iloc[0]} split"
    return points_chart(frames, title, points, spec.title(frames.unit), *notes)


def comparisons(frames: Frames) -> Chart | None:
    """The difference of each method to joint training, the best teacher and the ensemble of teachers, with
    its 95 % interval; > 0 is better."""
    if frames.comparisons is None:
        return None
    name = main_metric(frames.summary)
    spec = metric_spec(name)
    unit = spec.difference_unit(frames.unit)
    rows = select(frames.comparisons, metric=name, split="test", part=MULTI).dropna(subset=["difference"])
    if rows.empty:
        return None
    points = rows[["difference", "low", "high"]].rename(columns={"difference": "mean"}) * spec.scale
    texts = [format_value(name, value).replace("-", "−") for value in rows["difference"]]
    points = points.assign(label=rows["method"], text=texts, bold=rows["result"] == BETTER)
    return points_chart(
        frames,
        f"Difference of {spec.label} on the test split",
        points.assign(panel=rows["against"]),
        f"difference ({unit})" if unit else "difference",
        "> 0: better",
        f"bars: {LEVEL:.0%} interval over seeds and samples",
        f"bold: p < {1 - LEVEL:.2g}",
        headings="against {}",
        origin=0,
    )


def absent_modalities(frames: Frames) -> Chart | None:
    """The share of the main metric that is kept where a modality is missing from all test samples."""
    name = main_metric(frames.summary)
    rows = frames.analysis("robustness", metric=name, corruption="absent")
    title, note = (
        f"Kept of {metric_spec(name).label} without a modality",
        "panel: the modality that is absent",
    )
    return method_points(frames, rows, "kept", title, "kept (%)", note=note, scale=100.0, origin=100.0)


def corruptions(frames: Frames) -> Chart | None:
    """The share of the main metric that is kept where a modality is corrupted, mild to severe; a curve per
    method."""
    name = main_metric(frames.summary)
    frame = frames.analysis("robustness", metric=name)
    frame = frame[frame["corruption"] != "absent"]
    if frame.empty:
        return None
    methods = list(frame["method"].unique())
    colours = {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(methods)} | {TEACHER: GREY}
    panels = grouped(frame.assign(panel=frame["modality"] + ", " + frame["corruption"]), "panel")
    title = f"Kept of {metric_spec(name).label} with a corrupted modality"
    notes = "left: as it is, then from mild to severe", spread_note(frame, "band")
    chart = frames.chart(title, list(panels), *notes, y="kept (%)", labels=methods)
    for panel, rows in panels.items():
        corruption, labels = str(rows["corruption"].iloc[0]), list(rows["label"].unique())
        steps = {label: step for step, label in enumerate(labels, start=1)}
        strengths = [label.removeprefix(corruption).strip().partition(" ") for label in labels]
        unit = f" ({strengths[0][2]})" if strengths[0][2] else ""
        chart.axes[panel].set_xticks([0, *steps.values()], ["none", *(size for size, *_ in strengths)])
        chart.axes[panel].set_xlabel(f"{corruption}{unit}")
        for method, curve in grouped(rows).items():
            means = curve.groupby(curve["label"].map(steps))["kept"].agg(["mean", "std"]) * 100
            means.loc[0] = (100.0, math.nan if means["std"].isna().all() else 0.0)
            means = means.sort_index().rename_axis("step").reset_index()
            chart.curve(panel, means, method, colours[method])
    chart.share_limits()
    return chart


def shapley_values(frames: Frames) -> Chart | None:
    """The contribution of each modality; over the modalities they sum to the whole's gain over a constant."""
    frame = frames.analysis("shapley")
    if frame.empty:
        return None
    spec = metric_spec(str(frame["metric"].iloc[0]))
    unit = spec.difference_unit(frames.unit)
    x = f"{spec.label} ({unit})" if unit else spec.label
    title, note = "Shapley value of each modality", "they sum to the gain over the best constant"
    return method_points(
        frames, frame, "value", title, x, panel="part", note=note, scale=spec.scale, origin=0.0, bars=True
    )


def probes(frames: Frames) -> Chart | None:
    """A linear probe on the frozen features of each modality, in its teacher and inside each method."""
    frame = frames.analysis("probes", split="test")
    frame = frame[frame["metric"].isin(["accuracy", "r2"])]
    if frame.empty:
        return None
    spec = metric_spec(str(frame["metric"].iloc[0]))
    title, note = (
        "Linear probe on the features",
        f"fitted on validation, scored on test; {TEACHER}: the teacher",
    )
    x = spec.title(frames.unit)
    return method_points(frames, frame, "value", title, x, note=note, scale=spec.scale)


def modality_gap(frames: Frames) -> Chart | None:
    """The distance between the centroids of two modalities' features (Fig. 4)."""
    frame = frames.analysis("gap", split="test").assign(pair=lambda d: d["first"] + " – " + d["second"])
    x = "distance of centroids (0 to 2)"
    return method_points(frames, frame, "distance", "Modality gap", x, panel="pair")


def projection(frames: Frames) -> Chart | None:
    """Two principal components of the features of test samples, a panel per method (Fig. 4)."""
    frame = frames.analysis("projection")
    if frame.empty:
        return None
    panels, title = grouped(frame), "Features of each modality, projected"
    note = f"first run of each; at most {SCATTERED} test samples"
    chart = frames.chart(title, list(panels), note, x="first component", y="second", labels=frames.modalities)
    for name, rows in panels.items():
        for m in frames.modalities:
            points = select(rows, modality=m)
            step = max(1, math.ceil(len(points) / SCATTERED))
            chart.scatter(name, points.iloc[::step], m, frames.colours[m])
    return chart


def alignment(frames: Frames) -> Chart | None:
    """The mean cosine of student's and teacher's features, a panel per modality (Fig. 5)."""
    frame, title = frames.analysis("alignment", split="test"), "Alignment with the teacher"
    return method_points(frames, frame, "cosine", title, "mean cosine of features", origin=0.0)


def confidence_ratio(frames: Frames) -> Chart | None:
    """Confidence of each modality alone inside the student ÷ its teacher's (Fig. 6)."""
    frame = frames.analysis("confidence_ratio")
    weakest = ", ".join(map(str, frame.loc[frame["weakest"].astype(bool), "modality"].unique()))
    note = f"1: as confident as the teacher; least confident teacher: {weakest}" if weakest else ""
    title, x = "Confidence ratio, student ÷ teacher", "ratio of mean confidences"
    return method_points(frames, select(frame, split="test"), "ratio", title, x, note=note, origin=1.0)


def alpha_beta(frames: Frames) -> Chart | None:
    """The selection metric by α and β, where runs vary them (Table 7); a panel per split."""
    frame, spec = frames.analysis("alpha_beta"), metric_spec(frames.metric)
    if frame.empty:
        return None
    panels, title = grouped(frame, "split"), f"{spec.label} by α and β"
    chart = frames.chart(title, list(panels), x="α", y="β", lines=frame["beta"].nunique())
    for name, rows in panels.items():
        table = rows.pivot_table(index="beta", columns="alpha", values="value")
        chart.heat(name, table * spec.scale, table.map(lambda value: format_value(frames.metric, value)))
    return chart


def confusion(frames: Frames) -> Chart | None:
    """How samples of a class (row) are classified, in percent of the class; a panel per method."""
    frame = frames.analysis("confusion")
    if frame.empty or frame["target"].nunique() > CLASSES:
        return None
    frame = select(frame, split="test", part=MULTI)
    panels, title = grouped(frame), "Confusion matrix on the test split"
    if not panels:
        return None
    classes = sorted({*frame["target"].astype(int), *frame["prediction"].astype(int)})
    names = [frames.classes[c] if c < len(frames.classes) else str(c) for c in classes]
    note = "row: true class, column: predicted; % of the row, all seeds together"
    chart = frames.chart(title, list(panels), note, lines=len(classes), names=names)
    for name, rows in panels.items():
        counts = rows.pivot_table(index="target", columns="prediction", values="samples", aggfunc="sum")
        counts = counts.reindex(index=classes, columns=classes).fillna(0)
        shares = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        shares = shares.set_axis(names).set_axis(names, axis=1).iloc[::-1]
        chart.heat(name, shares, shares.map("{:.0f}".format))
    return chart


# ---------------------------------------------------------------------------------------- curves over epochs
def metric_curves(frames: Frames) -> Chart | None:
    """The selection metric by epoch: the whole and every modality, val solid, test dotted; as a level, what
    the teacher of a modality reaches on val (Fig. 1)."""
    spec, parts = metric_spec(frames.metric), [MULTI, *frames.modalities]
    if frames.history.empty:
        return None
    levels = frames.analysis("unimodal_curves", split="val")
    levels = levels[levels["method"] != TEACHER].dropna(subset=["teacher"])
    known = {k: v.mean() * spec.scale for k, v in levels.groupby(["method", "part"])["teacher"]}
    tested = any(str(column).startswith("test/") for column in frames.history)
    subtitle = "validation: solid" + ", test: dotted" * tested + ", a teacher alone: level" * bool(known)
    title, y = f"{spec.label} by epoch", spec.title(frames.unit)
    chart, panels = history_chart(frames, frames.history, title, y, parts, subtitle)
    for name, rows in panels.items():
        for part in parts:
            curves = select(rows, modality=part) if name == TEACHER else rows
            width, colour = (2.6 if part == MULTI else 1.6), frames.colours[part]
            validation, test = (
                mean_curve(curves, f"{split}/{part}", spec.scale) for split in ("val", "test")
            )
            chart.curve(name, validation, part, colour, width=width)
            chart.curve(name, test, part, colour, width=width, dash="dotted", band=False, label=False)
            if (name, part) in known:
                chart.level(name, known[name, part], f"teacher {part}", colour)
    chart.share_limits()
    return chart


def loss_curves(frames: Frames) -> Chart | None:
    """Training loss, its terms and the validation loss by epoch; teachers in one panel, by modality."""
    if frames.history.empty:
        return None
    labels = [*frames.modalities, *(name for name, *_ in LOSS_TERMS.values())]
    subtitle = "training: solid, validation: dotted"
    chart, panels = history_chart(frames, frames.history, "Loss by epoch", "loss", labels, subtitle)
    teachers = panels.pop(TEACHER, pd.DataFrame(columns=["modality"]))
    for m in frames.modalities:
        rows, colour = select(teachers, modality=m), frames.colours[m]
        chart.curve(TEACHER, mean_curve(rows, "loss/task"), m, colour)
        validation = mean_curve(rows, "val/loss")
        chart.curve(TEACHER, validation, m, colour, dash="dotted", band=False, label=False)
    for name, rows in panels.items():
        for column, (term, colour, dash) in LOSS_TERMS.items():
            curve = mean_curve(rows, column)
            if column == "loss/total" and curve.equals(mean_curve(rows, "loss/task")):
                continue  # nothing is added to the task loss
            chart.curve(name, curve, term, colour, dash=dash, label=dash == "solid")
    return chart


def confidence_curves(frames: Frames) -> Chart | None:
    """Each teacher's mean confidence over the batches of an epoch: what the ranking is made from (Fig. 3)."""
    title = "Teachers' confidence ρ on training batches"
    return _by_modality(frames, "confidence", title, "confidence ρ (0 to 1)")


def alignment_curves(frames: Frames) -> Chart | None:
    """The mean cosine of student's and teacher's features on val, by epoch (Fig. 5)."""
    title = "Alignment with the teacher by epoch"
    return _by_modality(frames, "val/cosine", title, "mean cosine on validation")


def gradient_norms(frames: Frames) -> Chart | None:
    """The norm of each encoder's gradient by epoch, a mean over batches; each panel on its scale."""
    title = "Gradient norm of each encoder"
    return _by_modality(frames, "grad_norm", title, "norm (mean over batches)", one_scale=False)


def kappa_curves(frames: Frames) -> Chart | None:
    """The coefficient κ of each encoder by epoch, of the methods that modulate (of all, where none does).

    Lines get thinner from one modality to the next, so that those that lie on one another are seen."""
    history = frames.students("kappa")
    columns = [f"kappa/{m}" for m in frames.modalities if f"kappa/{m}" in history]
    modulated = history["method"].isin(history.loc[(history[columns] < 1).any(axis=1), "method"])
    history = history[modulated] if modulated.any() else history
    title, subtitle = "Coefficient κ of each encoder", "0: the encoder is suppressed, 1: it learns in full"
    chart = _by_modality(frames, "kappa", title, "κ (mean over batches)", subtitle, history, steps=True)
    for axes in chart.axes.values() if chart else ():
        axes.set_ylim(-0.08, 1.08)
    return chart


def _by_modality(
    frames: Frames,
    prefix: str,
    title: str,
    y: str,
    subtitle: str = "",
    history: pd.DataFrame | None = None,
    steps: bool = False,
    one_scale: bool = True,
) -> Chart | None:
    """`prefix/<modality>` by epoch, a curve per modality. `history`: default: of students that log it."""
    history = frames.students(prefix) if history is None else history
    if history.empty:
        return None
    chart, panels = history_chart(frames, history, title, y, frames.modalities, subtitle)
    for name, rows in panels.items():
        for i, m in enumerate(frames.modalities):
            width = 1.8 + 2.6 * (len(frames.modalities) - 1 - i) * steps
            curve, shape = mean_curve(rows, f"{prefix}/{m}"), "steps-mid" if steps else "default"
            chart.curve(name, curve, m, frames.colours[m], width=width, drawstyle=shape)
    if one_scale:
        chart.share_limits()
    return chart


FIGURES: tuple[Callable[[Frames], Chart | None], ...] = (
    results,
    comparisons,
    absent_modalities,
    corruptions,
    shapley_values,
    metric_curves,
    probes,
    confidence_curves,
    confidence_ratio,
    alignment,
    alignment_curves,
    modality_gap,
    projection,
    kappa_curves,
    gradient_norms,
    loss_curves,
    alpha_beta,
    confusion,
)
"""All figures, in the report's order."""


def make_figures(frames: Frames) -> dict[str, Chart]:
    """Every figure that `frames` can fill, by its function's name."""
    with rc_context(STYLE):
        charts = {draw.__name__: draw(frames) for draw in FIGURES}
    return {name: chart for name, chart in charts.items() if chart is not None}
