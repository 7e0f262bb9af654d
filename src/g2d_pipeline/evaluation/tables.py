"""Numbers over seeds, and tables for people: wide data frames of text, for the terminal, and as files."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .metrics import HEADLINE_METRICS, TASK_METRICS, metric_spec, task_of
from .records import MULTI, SELECTIONS, Failure, repeat_columns, repeats_note, row_label, select
from .statistics import BETTER, EQUAL, JOINT, LEVEL, WORSE

ABSENT = "–"  # where there is no number
FAILED = "failed"  # where every run of a method or teacher failed
MARKS = {BETTER: "▲", WORSE: "▼", EQUAL: "≈"}
"""Before a multimodal value: its comparison with joint training."""
SUMMARY_KEYS = ["dataset", "source", "method", "modality", "split", "part", "metric"]


@dataclass(frozen=True)
class Results:
    """The content of tables. `summary`: see `summarise`; `comparisons`: see `statistics.comparisons`;
    `failures`: the runs without a model; `unit`: the target's."""

    summary: pd.DataFrame
    comparisons: pd.DataFrame | None = None
    failures: Sequence[Failure] = ()
    unit: str = ""


def summarise(metrics: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Mean and standard deviation (ddof = 1) over folds and seeds of `metrics` (see `collect_metrics`) on one
    split.

    One row per run without its seed, part and metric, in the order of `metrics`; `n` counts folds × seeds,
    and `folds` the folds, where there are several; `std` is NaN for one run. Raises ValueError where a run
    has nothing on `split`: a mean over fewer seeds would go unnoticed."""
    rows, repeat = select(metrics, split=split), repeat_columns(metrics)
    keys = ["method", "modality", *repeat]
    runs = metrics[keys].drop_duplicates().merge(rows[keys].drop_duplicates(), how="left", indicator="there")
    lacking = runs[runs["there"] == "left_only"].to_dict(orient="records")
    if lacking or rows.empty:
        names = "; ".join(
            ", ".join([row_label(run["method"], run["modality"]), *(f"{c} {run[c]}" for c in repeat)])
            for run in lacking
        )
        raise ValueError(f"no predictions on the {split} split: {names or 'there are no metrics'}")
    groups = rows.groupby(SUMMARY_KEYS, sort=False, dropna=False)
    summary = groups["value"].agg(
        mean=lambda values: float(np.mean(values.to_numpy(float))),
        std=lambda values: float(np.std(values.to_numpy(float), ddof=1)) if len(values) > 1 else math.nan,
        n="size",
    )
    summary["selection"] = groups["selection"].agg(lambda names: "/".join(dict.fromkeys(names)))
    if "fold" in metrics:
        summary["folds"] = groups["fold"].nunique()
    return summary.reset_index()


def decimals(metric: str, values: Iterable[float]) -> int:
    """Digits after the point for a column of `metric`: its own, or three significant ones of the median."""
    spec = metric_spec(metric)
    if spec.digits is not None:
        return spec.digits
    sizes = [abs(v) * spec.scale for v in values if math.isfinite(v) and v != 0]
    return int(np.clip(2 - math.floor(math.log10(float(np.median(sizes)))), 0, 8)) if sizes else 2


def format_value(metric: str, mean: float, std: float = math.nan, digits: int | None = None) -> str:
    """`"71.3 ± 1.2"`: scaled and rounded as the metric is written; no `±` without a standard deviation."""
    if not math.isfinite(mean):
        return ABSENT
    spec = metric_spec(metric)
    places = decimals(metric, [mean]) if digits is None else digits
    text = f"{mean * spec.scale:.{places}f}"
    return f"{text} ± {std * spec.scale:.{places}f}" if math.isfinite(std) else text


def _wide(frame: pd.DataFrame, keys: list[str], names: Sequence[str] | None, value: str) -> pd.DataFrame:
    """Text: a row per distinct `keys`, columns (metric, part), multimodal first; `ABSENT` elsewhere. With the
    interval where `frame` has one."""
    names = headline(frame) if names is None else names
    parts = sorted(frame["part"].unique(), key=lambda part: part != MULTI)
    index = pd.MultiIndex.from_frame(frame[keys].drop_duplicates())
    digits = {name: decimals(name, select(frame, metric=name)[value]) for name in names}
    frame = frame[frame["metric"].isin(names)]
    texts = []
    for row in frame.to_dict(orient="records"):
        name = row["metric"]
        text = format_value(name, row[value], row.get("std", math.nan), digits[name])
        ends = [format_value(name, row.get(end, math.nan), digits=digits[name]) for end in ("low", "high")]
        texts.append(text + f" [{', '.join(ends)}]" * (ABSENT not in ends))
    wide = frame.assign(text=texts).pivot(index=keys, columns=["metric", "part"], values="text")
    columns = pd.MultiIndex.from_product([names, parts], names=["metric", "part"])
    return wide.reindex(index=index, columns=columns).astype(object).fillna(ABSENT)


def headline(frame: pd.DataFrame) -> list[str]:
    """The main table's metrics, by the task of the `metric` column; no MAPE where it is never defined."""
    undefined = set(frame["metric"]) - finite_metrics(frame)
    return [name for name in HEADLINE_METRICS[task_of(frame)] if name != "mape" or name not in undefined]


def finite_metrics(frame: pd.DataFrame) -> set[str]:
    """The metrics that are a number somewhere, in a summary (`mean`) or seed by seed (`value`)."""
    return set(frame.loc[frame["mean" if "mean" in frame else "value"].notna(), "metric"])


def main_metric(frame: pd.DataFrame) -> str:
    """The first of the task's metrics whose mean is a number somewhere in a summary."""
    finite = finite_metrics(frame)
    return next((n for n in [*headline(frame), *other_metrics(frame)] if n in finite), headline(frame)[0])


def other_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics that the main table leaves out."""
    names = set(frame["metric"]).difference(headline(frame))
    return [name for name in TASK_METRICS[task_of(frame)] if name in names]


def summary_table(
    results: Results, metric_names: Sequence[str] | None = None, marked: bool = True
) -> pd.DataFrame:
    """Wide text: index (method, modality), columns (metric, part), cells like `"71.3 ± 1.2"` or `"–"`.

    `metric_names`: by default the task's headline metrics. Accuracy, F1 and MAPE are in percent; RMSE and MAE
    in the target's unit. A method or teacher of which all runs failed has a row at the end that says so.
    `marked`: with `MARKS` before multimodal values that are compared."""
    wide = _wide(results.summary, ["method", "modality"], metric_names, "mean")
    for (method, name), result in marks(results.comparisons).items() if marked else ():
        if (name, MULTI) in wide:
            cell = ((method, ""), (name, MULTI))
            wide.loc[cell] = f"{MARKS[result]} {wide.at[cell]!s}"
    for method, m in row_labels(results):
        if (method, m) not in wide.index:
            parts = wide.columns.get_level_values("part")
            wide.loc[(method, m), :] = [FAILED if part == (m or MULTI) else ABSENT for part in parts]
    return wide


def seed_table(metrics: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The same, seed by seed: index (method, modality, seed, selected_epoch; before the seed, where there are
    several, the fold), columns (metric, part)."""
    keys = ["method", "modality", *repeat_columns(metrics), "selected_epoch"]
    return _wide(metrics[metrics["split"] == split], keys, None, "value")


def marks(comparisons: pd.DataFrame | None) -> dict[tuple[str, str], str]:
    """(method, metric) → the result of comparing its multimodal value with joint training: better, worse or
    not told apart (`statistics.comparisons`)."""
    if comparisons is None:
        return {}
    rows = select(comparisons, against=JOINT, part=MULTI, split="test")
    return dict(zip(zip(rows["method"], rows["metric"], strict=True), rows["result"], strict=True))


def better_cells(wide: pd.DataFrame, results: Results) -> npt.NDArray[np.bool_]:
    """The cells of a wide table (see `summary_table`) that are better than those of joint training."""
    known = marks(results.comparisons)
    columns: list[Any] = list(wide.columns)
    methods = wide.index.get_level_values("method")
    cells = [[part == MULTI and known.get((m, name)) == BETTER for name, part in columns] for m in methods]
    return np.array(cells, dtype=bool).reshape(wide.shape)


def marks_note(comparisons: pd.DataFrame | None) -> str:
    """The legend of `MARKS`, where a table has any."""
    if comparisons is None or not (results := marks(comparisons)):
        return ""
    legend = ", ".join(f"{mark} {result}" for result, mark in MARKS.items() if result in results.values())
    runs = ", one run of each" if comparisons["runs"].max() == 1 else ""
    return f"Against joint: {legend} (p < {1 - LEVEL:.2g}{runs})"


def selection_note(frame: pd.DataFrame) -> str:
    """Empty where every epoch was selected on validation; else how, e.g. "selection on test (published
    protocol)"."""
    selections = list(dict.fromkeys("/".join(map(str, frame["selection"])).split("/")))
    return "; ".join(SELECTIONS.get(name, name) for name in selections) if selections != ["val"] else ""


def seeds_note(summary: pd.DataFrame) -> str:
    """`"1 seed"`, `"3 seeds"`, `"5 folds × 3 seeds"`, or `"2–3 seeds"` where runs differ."""
    low, high = int(summary["n"].min()), int(summary["n"].max())
    folds = int(summary["folds"].max()) if "folds" in summary else 0
    if low == high:
        return repeats_note(high, folds)
    return f"{low}–{high} runs of {folds} folds" if folds else f"{low}–{high} seeds"


def row_labels(results: Results) -> dict[tuple[str, str], str]:
    """(method, modality) → its row's name; where runs failed, with how many are left. None left: last."""
    lost = Counter((failure.method, failure.modality) for failure in results.failures)
    left: dict[Any, int] = results.summary.groupby(["method", "modality"], sort=False)["n"].max().to_dict()
    labels = {(method, m): row_label(method, m) for method, m in [*left, *lost]}
    runs = "folds and seeds" if "folds" in results.summary else "seeds"
    for key, n in lost.items():
        labels[key] += f" ({left.get(key, 0)} of {left.get(key, 0) + n} {runs})"
    return labels


def table_title(summary: pd.DataFrame) -> str:
    """`"SAMPLE · crema_d · test · mean ± std over 3 seeds"`, and below it any `selection_note`."""
    first, seeds = summary.iloc[0], seeds_note(summary)
    spread = seeds if seeds == "1 seed" else f"mean ± std over {seeds}"
    sample = "SAMPLE" if first["source"] == "sample" else ""
    line = " · ".join(filter(None, [sample, str(first["dataset"]), str(first["split"]), spread]))
    return "\n".join(filter(None, [line, selection_note(summary)]))


def render_table(results: Results, metric_names: Sequence[str] | None = None) -> Table:
    """The summary for a terminal: a block per metric, a column per part, so that 80 characters hold three
    modalities. `metric_names`: as in `summary_table`."""
    wide, labels, summary = summary_table(results, metric_names), row_labels(results), results.summary
    style = "bold yellow" if summary["source"].iloc[0] == "sample" else "bold"
    title = Text(table_title(summary), style=style)
    table = Table(title=title, box=box.SIMPLE_HEAD, min_width=60, title_justify="left")
    table.add_column("")
    for part in wide.columns.unique("part"):
        table.add_column(Text(part, style="bold" if part == MULTI else ""), justify="right", no_wrap=True)
    for name in wide.columns.unique("metric"):
        table.add_row(Text(metric_spec(name).title(results.unit), style="bold"))
        for key, cells in wide[name].iterrows():
            styles = ["bold green" if cell.startswith(MARKS[BETTER]) else "" for cell in cells]
            table.add_row(Text(labels[key]), *map(Text, cells, styles))
        table.add_section()
    return table


def table_text(
    results: Results,
    metric_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    verdict: Sequence[str] = (),
) -> str:
    """`render_table` as plain text, as wide as it must be; below, a line each, `verdict`, failed runs and
    `notes`."""
    console = Console(file=io.StringIO(), width=240, no_color=True, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(render_table(results, metric_names))
    table = "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")
    failed = [f"Failed: {failure.label}: {failure.reason}" for failure in results.failures]
    blocks = [table, marks_note(results.comparisons), "\n".join(verdict), "\n".join([*failed, *notes])]
    return "\n\n".join(filter(None, blocks)) + "\n"


def table_files(results: Results) -> dict[str, str]:
    """`"md"`, `"tex"`, `"csv"` → the file's text. Values that are better than joint training are bold; the
    CSV is `summary`."""
    wide, labels = summary_table(results, marked=False), row_labels(results)
    bold = better_cells(wide, results)
    notes = [table_title(results.summary).replace("\n", "; ")]
    if BETTER in marks(results.comparisons).values():
        notes.append("Bold: better than joint")
    title = ". ".join(notes)
    keys: list[Any] = list(wide.index)
    columns: list[Any] = list(wide.columns)
    heads = [(metric_spec(name).title(results.unit), part) for name, part in columns]
    wide.index = pd.Index([labels[key] for key in keys], name="")
    wide.columns = pd.MultiIndex.from_tuples(heads)
    cells = wide.where(~bold, "**" + wide + "**")
    rows = [["", *map(", ".join, heads)], *([label, *row] for label, *row in cells.itertuples(name=None))]
    return {
        "md": f"{title}\n\n{markdown(rows, right=len(heads))}",
        "tex": _latex(wide, bold, title),
        "csv": results.summary.to_csv(index=False),
    }


def markdown(rows: Sequence[Sequence[object]], right: int = 0) -> str:
    """Rows of cells, the first of them the heads, as Markdown; `right`: how many columns align right."""
    aligned = ["---"] * (len(rows[0]) - right) + ["---:"] * right
    escaped = [[str(cell).replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [escaped[0], aligned, *escaped[1:]])


def _latex(wide: pd.DataFrame, bold: npt.NDArray[np.bool_], title: str) -> str:
    styles = np.where(bold, "textbf:--rwrap;", "")
    style = wide.style.format(escape="latex").apply(lambda _: styles, axis=None)
    for axis in (0, 1):
        style = style.format_index(escape="latex", axis=axis)
    caption = title.translate({ord(c): f"\\{c}" for c in "&%$#_{}"})
    aligned = "l" + "r" * wide.shape[1]
    return style.to_latex(hrules=True, multicol_align="c", column_format=aligned, caption=caption)
