"""One function a figure: `Frames` in, a chart out, or nothing where they cannot fill it.

Everything is a mean over seeds with a band (or bar) of ± one standard deviation. To add a figure: write its
function, and name it in `FIGURES`."""

from collections.abc import Callable

import pandas as pd
from matplotlib import rc_context

from g2d_pipeline.charts import STYLE, Chart
from g2d_pipeline.html import INK

from . import analysis_figures as analyses
from .metrics import metric_spec
from .plots import Frames, history_chart, mean_curve, point_rows, points_chart
from .records import MULTI, TEACHER, row_label
from .statistics import BETTER
from .tables import decimals, format_value, main_metric, marks, seeds_note, selection_note

LOSS_TERMS = {
    "loss/total": ("total", "#332288", "solid"),
    "loss/task": ("task", INK, "solid"),
    "loss/feature_distillation": ("distilled features", "#999933", "solid"),
    "loss/logit_distillation": ("distilled logits", "#882255", "solid"),
    "val/loss": ("task", INK, "dotted"),
}
"""History column → its name, colour and dash in `loss_curves`."""


def results(frames: Frames, metric: str | None = None) -> Chart:
    """One metric of every teacher and method: a panel a part, a point a row, bars of ± one standard deviation
    over seeds. `metric`: by default the first headline metric that is a number."""
    summary, name = frames.summary, metric or main_metric(frames.summary)
    spec, rows = metric_spec(name), summary[summary["metric"] == name]
    digits, known = decimals(name, rows["mean"]), marks(frames.comparisons)
    better = rows["method"].map(lambda method: known.get((method, name)) == BETTER)
    labels = [row_label(*key) for key in zip(rows["method"], rows["modality"], strict=True)]
    texts = [format_value(name, *v, digits) for v in zip(rows["mean"], rows["std"], strict=True)]
    bold = (rows["part"] == MULTI) & better
    table = point_rows(labels, rows["mean"] * spec.scale, rows["std"] * spec.scale, texts, bold)
    parts = [part for part in (MULTI, *frames.modalities) if part in set(rows["part"])]
    notes = [
        "higher is better" if spec.higher_is_better else "lower is better",
        f"mean of {seeds_note(summary)}, bars: ± 1 std" if summary["n"].max() > 1 else "1 seed",
        selection_note(summary),
    ]
    words, subtitle = f"{spec.label} on the {summary['split'].iloc[0]} split", "; ".join(filter(None, notes))
    tables = {part: table[rows["part"] == part] for part in parts}
    return points_chart(frames, words, tables, spec.title(frames.unit), subtitle)


def metric_curves(frames: Frames) -> Chart | None:
    """The selection metric by epoch: the whole and every modality, val solid, test dotted; as a level, what
    the teacher of a modality reaches on val (Fig. 1)."""
    spec, parts = metric_spec(frames.metric), [MULTI, *frames.modalities]
    if frames.history.empty:
        return None
    levels = frames.analysis("unimodal_curves")
    levels = levels[(levels["split"] == "val") & (levels["method"] != TEACHER)].dropna(subset=["teacher"])
    known = {k: v.mean() * spec.scale for k, v in levels.groupby(["method", "part"])["teacher"]}
    tested = any(str(column).startswith("test/") for column in frames.history)
    words, subtitle = f"{spec.label} by epoch", "validation: solid" + ", test: dotted" * tested
    subtitle += ", a teacher alone: level" * bool(known)
    y = spec.title(frames.unit)
    chart, panels = history_chart(frames, frames.history, words, y, parts, subtitle)
    for name, rows in panels.items():
        for part in parts:
            own = rows[rows["modality"] == part] if name == TEACHER else rows
            width, colour = (2.6 if part == MULTI else 1.6), frames.colours[part]
            validation, test = (mean_curve(own, f"{split}/{part}", spec.scale) for split in ("val", "test"))
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
    names = [*frames.modalities, *(name for name, *_ in LOSS_TERMS.values())]
    subtitle = "training: solid, validation: dotted"
    chart, panels = history_chart(frames, frames.history, "Loss by epoch", "loss", names, subtitle)
    for name, rows in panels.items():
        for m in frames.modalities if name == TEACHER else ():
            own = rows[rows["modality"] == m]
            chart.curve(name, mean_curve(own, "loss/task"), m, frames.colours[m])
            validation = mean_curve(own, "val/loss")
            chart.curve(name, validation, m, frames.colours[m], dash="dotted", band=False, label=False)
        for column, (term, colour, dash) in () if name == TEACHER else LOSS_TERMS.items():
            curve = mean_curve(rows, column)
            if column == "loss/total" and curve.equals(mean_curve(rows, "loss/task")):
                continue  # nothing is added to the task loss
            chart.curve(name, curve, term, colour, dash=dash, label=dash == "solid")
    return chart


def confidence_curves(frames: Frames) -> Chart | None:
    """Each teacher's mean confidence over the batches of an epoch: what the ranking is made from (Fig. 3)."""
    words = "Teachers' confidence ρ on training batches"
    return _by_modality(frames, frames.students("confidence"), "confidence", words, "confidence ρ (0 to 1)")


def alignment_curves(frames: Frames) -> Chart | None:
    """The mean cosine of student's and teacher's features on val, by epoch (Fig. 5)."""
    words, y = "Alignment with the teacher by epoch", "mean cosine on validation"
    return _by_modality(frames, frames.students("val/cosine"), "val/cosine", words, y)


def gradient_norms(frames: Frames) -> Chart | None:
    """The norm of each encoder's gradient by epoch, a mean over batches."""
    words, y = "Gradient norm of each encoder", "norm (mean over batches)"
    return _by_modality(frames, frames.students("grad_norm"), "grad_norm", words, y, one_scale=False)


def kappa_curves(frames: Frames) -> Chart | None:
    """The coefficient κ of each encoder by epoch, of the methods that modulate (of all, where none does).

    Lines get thinner from one modality to the next, so that those that lie on one another are seen."""
    history = frames.students("kappa")
    columns = [f"kappa/{m}" for m in frames.modalities if f"kappa/{m}" in history]
    modulated = history["method"].isin(history.loc[(history[columns] < 1).any(axis=1), "method"])
    history = history[modulated] if modulated.any() else history
    words, subtitle = "Coefficient κ of each encoder", "0: the encoder is suppressed, 1: it learns in full"
    chart = _by_modality(frames, history, "kappa", words, "κ (mean over batches)", subtitle, steps=True)
    for axes in chart.axes.values() if chart else ():
        axes.set_ylim(-0.08, 1.08)
    return chart


def _by_modality(
    frames: Frames,
    history: pd.DataFrame,
    prefix: str,
    words: str,
    y: str,
    subtitle: str = "",
    steps: bool = False,
    one_scale: bool = True,
) -> Chart | None:
    """`prefix/<modality>` by epoch, a curve a modality."""
    if history.empty:
        return None
    chart, panels = history_chart(frames, history, words, y, frames.modalities, subtitle)
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
    analyses.comparisons,
    analyses.absent_modalities,
    analyses.corruptions,
    analyses.shapley_values,
    metric_curves,
    analyses.probes,
    confidence_curves,
    analyses.confidence_ratio,
    analyses.alignment,
    alignment_curves,
    analyses.modality_gap,
    analyses.projection,
    kappa_curves,
    gradient_norms,
    loss_curves,
    analyses.alpha_beta,
    analyses.confusion,
)
"""All figures, in the report's order."""


def make_figures(frames: Frames) -> dict[str, Chart]:
    """Every figure that `frames` can fill, by its function's name."""
    with rc_context(STYLE):
        charts = {draw.__name__: draw(frames) for draw in FIGURES}
    return {name: chart for name, chart in charts.items() if chart is not None}
