"""Numbers over seeds, and the tables people read: wide data frames of text, and rich tables for the terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .metrics import HEADLINE_METRICS, TASK_METRICS, metric_spec, task_of
from .records import MULTI, SELECTIONS, TEACHER, row_label

ABSENT = "–"
"""What stands where there is no number."""

SUMMARY_COLUMNS = (
    "dataset",
    "source",
    "method",
    "modality",
    "split",
    "part",
    "metric",
    "mean",
    "std",
    "n",
    "selection",
)


def summarise(metrics: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Mean and standard deviation (ddof = 1) over seeds of `metrics` (see `collect_metrics`) on one split.

    One row per run without its seed, part and metric, in the order of `metrics`; `n` counts seeds; `std` is
    NaN for one seed. Raises ValueError where a run has nothing on `split`: a mean over fewer seeds would go
    unnoticed."""
    keys = ["dataset", "source", "method", "modality", "split", "part", "metric"]
    chosen = metrics[metrics["split"] == split]
    cells = ["method", "modality", "seed"]
    have = set(chosen[cells].itertuples(index=False, name=None))
    lacking = [
        cell for cell in dict.fromkeys(metrics[cells].itertuples(index=False, name=None)) if cell not in have
    ]
    if lacking or chosen.empty:
        names = "; ".join(f"{row_label(method, modality)}, seed {seed}" for method, modality, seed in lacking)
        raise ValueError(f"no predictions on the {split} split: {names or 'there are no metrics'}")
    rows = []
    for key, group in chosen.groupby(keys, sort=False, dropna=False):
        values = group["value"].to_numpy(dtype=float)
        std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        selection = "/".join(dict.fromkeys(group["selection"]))
        rows.append((*key, float(np.mean(values)), std, len(values), selection))
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def decimals(metric: str, values: Iterable[float]) -> int:
    """Digits after the point for a column of `metric`: fixed by the metric, or three significant ones of the
    median."""
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


def _wide(
    frame: pd.DataFrame, keys: Sequence[str], metric_names: Sequence[str], mean: str, std: str
) -> pd.DataFrame:
    """Text: a row a distinct `keys`, columns (metric, part) with the multimodal part first; `ABSENT`
    elsewhere."""
    modalities = [part for part in dict.fromkeys(frame["part"]) if part != MULTI]
    parts = ([MULTI] if MULTI in set(frame["part"]) else []) + modalities
    columns = [(name, part) for name in metric_names for part in parts]
    rows: dict[tuple[Any, ...], dict[tuple[str, str], str]] = {}
    digits = {name: decimals(name, frame.loc[frame["metric"] == name, mean]) for name in metric_names}
    for record in frame.to_dict(orient="records"):
        cells = rows.setdefault(tuple(record[key] for key in keys), {})
        name = record["metric"]
        if name in digits:
            cells[(name, record["part"])] = format_value(
                name, record[mean], record.get(std, math.nan), digits[name]
            )
    return pd.DataFrame(
        [[cells.get(column, ABSENT) for column in columns] for cells in rows.values()],
        index=pd.MultiIndex.from_tuples(list(rows), names=list(keys)),
        columns=pd.MultiIndex.from_tuples(columns, names=["metric", "part"]),
        dtype=object,
    )


def headline(frame: pd.DataFrame) -> list[str]:
    """The main table's metrics, by the task that the `metric` column tells."""
    return list(HEADLINE_METRICS[task_of(frame)])


def other_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics that the main table leaves out."""
    task = task_of(frame)
    return [name for name in TASK_METRICS[task] if name not in HEADLINE_METRICS[task]]


def summary_table(summary: pd.DataFrame, metric_names: Sequence[str] | None = None) -> pd.DataFrame:
    """Wide text: index (method, modality), columns (metric, part), cells like `"71.3 ± 1.2"` or `"–"`.

    `summary`: see `summarise`. `metric_names`: by default the task's headline metrics. Accuracy, F1 and MAPE
    are in percent; RMSE and MAE in the target's unit."""
    names = list(metric_names) if metric_names is not None else headline(summary)
    return _wide(summary, ["method", "modality"], names, "mean", "std")


def seed_table(
    metrics: pd.DataFrame, split: str = "test", metric_names: Sequence[str] | None = None
) -> pd.DataFrame:
    """The same, seed by seed: index (method, modality, seed, selected_epoch), columns (metric, part)."""
    chosen = metrics[metrics["split"] == split]
    names = list(metric_names) if metric_names is not None else headline(metrics)
    return _wide(chosen, ["method", "modality", "seed", "selected_epoch"], names, "value", "")


def best_methods(summary: pd.DataFrame) -> dict[str, list[str]]:
    """Metric → the method(s) with the best multimodal mean; empty where fewer than two methods can be
    compared."""
    best: dict[str, list[str]] = {}
    students = summary[(summary["part"] == MULTI) & (summary["method"] != TEACHER) & summary["mean"].notna()]
    for name, group in students.groupby("metric", sort=False):
        top = group["mean"].max() if metric_spec(str(name)).higher_is_better else group["mean"].min()
        chosen = group.loc[np.isclose(group["mean"], top, rtol=1e-12, atol=0.0), "method"]
        best[str(name)] = list(chosen) if len(group) > 1 else []
    return best


def selection_note(frame: pd.DataFrame) -> str:
    """Nothing where every epoch was selected on validation; else how, e.g. "selection on test (published
    protocol)"."""
    found = list(dict.fromkeys(part for text in frame["selection"] for part in str(text).split("/")))
    return "; ".join(SELECTIONS.get(name, name) for name in found) if found != ["val"] else ""


def seeds_note(summary: pd.DataFrame) -> str:
    """`"1 seed"`, `"3 seeds"`, or `"2–3 seeds"` where runs differ."""
    low, high = int(summary["n"].min()), int(summary["n"].max())
    return f"{low}–{high} seeds" if low != high else f"{high} seed{'s' if high > 1 else ''}"


def table_title(summary: pd.DataFrame) -> str:
    """`"SAMPLE · crema_d · test · mean ± std over 3 seeds"`, and below it the selection where it was not
    validation."""
    first = summary.iloc[0]
    seeds = seeds_note(summary)
    spread = seeds if seeds == "1 seed" else f"mean ± std over {seeds}"
    sample = "SAMPLE" if first["source"] == "sample" else ""
    line = " · ".join(filter(None, [sample, str(first["dataset"]), str(first["split"]), spread]))
    return "\n".join(filter(None, [line, selection_note(summary)]))


def render_table(summary: pd.DataFrame, unit: str = "", metric_names: Sequence[str] | None = None) -> Table:
    """The summary for a terminal: a block a metric, a column a part, so that 80 characters hold three
    modalities.

    ★ marks the best multimodal value. `unit` is the target's, `metric_names` as in `summary_table`.
    """
    wide, best = summary_table(summary, metric_names), best_methods(summary)
    names = list(dict.fromkeys(wide.columns.get_level_values("metric")))
    parts = list(dict.fromkeys(wide.columns.get_level_values("part")))
    loud = summary["source"].iloc[0] == "sample"
    table = Table(
        title=Text(table_title(summary), style="bold yellow" if loud else "bold"),
        caption=Text("★ best multimodal value") if any(best.get(name) for name in names) else None,
        box=box.SIMPLE_HEAD,
        min_width=60,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for part in parts:
        table.add_column(Text(part, style="bold" if part == MULTI else ""), justify="right", no_wrap=True)
    for name in names:
        table.add_row(Text(metric_spec(name).title(unit), style="bold"))
        for (method, modality), cells in wide[name].iterrows():
            texts = []
            for part, cell in zip(parts, cells, strict=True):
                winner = part == MULTI and method in best.get(name, [])
                texts.append(Text(f"★ {cell}" if winner else cell, style="bold green" if winner else ""))
            table.add_row(Text(row_label(method, modality)), *texts)
        table.add_section()
    return table


def table_text(summary: pd.DataFrame, unit: str = "", metric_names: Sequence[str] | None = None) -> str:
    """`render_table` as plain text, for logs and files; as wide as it needs to be."""
    table = render_table(summary, unit, metric_names)
    console = Console(file=io.StringIO(), width=240, no_color=True, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"
