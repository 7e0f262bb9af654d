"""The cells of a study as frames, beside what is published, and as the files of its folder. No Kedro here."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from g2d_pipeline.errors import ConfigError, did_you_mean
from g2d_pipeline.evaluation.metrics import HEADLINE_METRICS, TASK_METRICS, metric_spec
from g2d_pipeline.evaluation.records import MULTI, TEACHER, Failure, row_label
from g2d_pipeline.evaluation.tables import ABSENT, FAILED, format_value, markdown, summarise
from g2d_pipeline.html import page_environment
from g2d_pipeline.overrides import Tree

ROW = ["dataset", "options", "method", "modality"]
"""The keys of a row of the table."""
PUBLISHED = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Part:
    """The results of a point of the grid. `metrics`: see `collect_metrics`; `seconds`: run's label → seconds
    of its training; `void`: why its numbers cannot be compared with published ones."""

    dataset: str
    options: str
    source: str
    metrics: pd.DataFrame
    failures: Sequence[Failure]
    seconds: Mapping[tuple[str, str, int, int], float]
    void: Mapping[str, str] = field(default_factory=dict)  # see `departures`


def departures(source: str, settings: Tree, protocol: Mapping[str, Any]) -> dict[str, str]:
    """Why numbers cannot be compared with the published ones: plain word → details.

    `settings`: of the data set, resolved; `protocol`: see `published_protocol`."""
    reasons = {"sample": "a simulated sample, not the data"} if source == "sample" else {}
    for key, published in protocol.items():
        value: Any = settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value == published:
            continue
        word = "other split" if key.startswith("raw.") else f"other {key.rpartition('.')[2]}"
        if key == "training.epochs" and isinstance(value, int) and value < published:
            word = "fewer epochs"
        reasons[word] = f"{key} = {value}, published {published}"
    return reasons


def cells_frame(parts: Sequence[Part]) -> pd.DataFrame:
    """A row per run (method or teacher, options, fold, seed), split, part and metric; a failed run has one
    row, with its reason and without a value."""
    frames = []
    for part in parts:
        about = {"dataset": part.dataset, "source": part.source, "options": part.options}
        failed = pd.DataFrame([asdict(f) | about | {"status": FAILED} for f in part.failures])
        made = part.metrics.assign(options=part.options, status="made", reason="", void=", ".join(part.void))
        keys = made.reindex(columns=["method", "modality", "fold", "seed"], fill_value=0)
        made["seconds"] = [part.seconds.get(key, math.nan) for key in keys.itertuples(index=False, name=None)]
        frames += [frame for frame in (made, failed) if not frame.empty]
    cells = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    first = [*ROW, "fold", "seed", "status", "reason", "seconds", "source"]
    if "fold" in cells and not cells["fold"].fillna(0).any():
        cells = cells.drop(columns="fold")
    columns = [c for c in first if c in cells]
    return cells[[*columns, *(c for c in cells if c not in columns)]]


def check_metrics(metrics: Sequence[str], tasks: Mapping[str, str]) -> None:
    """Raise ConfigError for a metric that does not fit the task of a data set. `tasks`: by data set."""
    for name in metrics:
        for dataset, task in tasks.items():
            if name not in TASK_METRICS[task]:
                known = ", ".join(TASK_METRICS[task])
                hint = did_you_mean(name, TASK_METRICS[task])
                raise ConfigError(f"metrics = {name!r}: {dataset} is a {task}.{hint} Its metrics: {known}")


def published_protocol(dataset: str) -> dict[str, Any]:
    """Dotted key of a data set's settings → the value that the published numbers were made with."""
    return dict(yaml.safe_load(PUBLISHED.with_suffix(".yml").read_text("utf-8")).get(dataset, {}))


def published_rows(table: int) -> pd.DataFrame:
    """The published numbers of a table: dataset, options, method, part, metric, published (as written).
    Raises ConfigError for an unknown table."""
    rows = pd.read_csv(PUBLISHED, comment="#", keep_default_na=False)
    if table not in set(rows["table"]):
        known = "/".join(map(str, sorted(set(rows["table"]))))
        raise ConfigError(f"published = {table}: of the paper there are the tables {known}")
    return rows[rows["table"] == table].drop(columns="table").astype({"published": float})


def summary_frame(
    cells: pd.DataFrame, metrics: Sequence[str] = (), published: pd.DataFrame | None = None
) -> pd.DataFrame:
    """A row a data set, options, method (or teacher), part and metric, numbers as they are written: `mean`,
    `std`, `n` over folds and seeds on test; `failed` runs and their `reason`; and with `published` its value,
    the `difference` to it, and why that is `void`.

    Shown are `metrics` (none: the task's first headline metric, or those that are published), the multimodal
    part and the teachers' own, and any part that is published."""
    made = cells[cells["status"] != FAILED] if "value" in cells else cells.iloc[:0]
    frames = []
    for _, group in made.groupby(["dataset", "options"], sort=False):
        first = {column: group[column].iloc[0] for column in ("dataset", "options", "void")}
        summary = summarise(group).assign(**first)
        scales = summary["metric"].map(lambda name: metric_spec(name).scale)
        frames.append(summary.assign(mean=summary["mean"] * scales, std=summary["std"] * scales))
    by_row = cells[cells["status"] == FAILED].groupby(ROW, sort=False)
    failed = by_row["reason"].agg(failed="size", reason="first").reset_index()
    if frames:
        frame = _with_failures(pd.concat(frames, ignore_index=True), failed)
    else:
        frame = failed.assign(part=MULTI, metric="", mean=math.nan, std=math.nan, n=0, void="")
    names = set(metrics)
    if published is not None:
        keys = ["dataset", "options", "method", "part", "metric"]
        frame = frame.merge(published, on=keys, how="left")
        frame["difference"] = frame["mean"] - frame["published"]
        names = names or set(frame.loc[frame["published"].notna(), "metric"])
    names = names or {headline[0] for headline in HEADLINE_METRICS.values()}
    shown = (frame["part"] == MULTI) | (frame["method"] == TEACHER)
    if published is not None:
        shown |= frame["published"].notna()
    return frame[frame["metric"].isin(names | {""}) & shown].reset_index(drop=True)


def _with_failures(frame: pd.DataFrame, failed: pd.DataFrame) -> pd.DataFrame:
    """`frame` with `failed` and `reason`, and rows for what failed in all runs."""
    merged = frame.merge(failed, on=ROW, how="left")
    known = pd.MultiIndex.from_frame(frame[ROW])
    lost = failed[~pd.MultiIndex.from_frame(failed[ROW]).isin(known)].sort_values(ROW)
    if not lost.empty:
        lost = lost.assign(part=lost["modality"].replace("", MULTI))
        merged = pd.concat([merged, lost], ignore_index=True)
    return merged.fillna({"failed": 0, "reason": "", "metric": "", "n": 0, "void": ""})


def table_frame(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, a column for what a reader compares."""
    columns: dict[str, list[str]] = {"data set": list(summary["dataset"])}
    if summary["options"].any():
        columns["options"] = list(summary["options"])
    rows: list[Any] = list(summary.itertuples(index=False))
    columns["method"] = [row_label(row.method, row.modality) for row in rows]
    columns["part"] = list(summary["part"])
    columns["metric"] = [metric_spec(row.metric).title() if row.metric else ABSENT for row in rows]
    columns["ours"] = [_number(row.metric, row.mean, row.std) for row in rows]
    columns["runs"] = [str(int(n)) for n in summary["n"]]
    if "published" in summary:
        columns["published"] = [f"{v:g}" if math.isfinite(v) else ABSENT for v in summary["published"]]
        differences = [f"{'+' * (row.difference > 0)}{_number(row.metric, row.difference)}" for row in rows]
        columns["difference"] = [
            f"void: {row.void}" if row.void and text != ABSENT else text
            for row, text in zip(rows, differences, strict=True)
        ]
    if summary["failed"].any():
        columns["failed"] = [f"{int(row.failed)}: {row.reason}" if row.failed else "" for row in rows]
    return pd.DataFrame(columns)


def _number(metric: str, value: float, std: float = math.nan) -> str:
    """A number in the metric's scale as text."""
    scale = metric_spec(metric).scale if math.isfinite(value) else 1.0
    return format_value(metric, value / scale, std / scale)


def write_results(
    folder: Path, title: str, notes: Sequence[str], cells: pd.DataFrame, summary: pd.DataFrame, about: Tree
) -> str:
    """Write a study's files into `folder`, which exists: cells.parquet, table.csv (numbers), table.md, .tex
    and .txt, study.json and study.html. Returns the text for the terminal."""
    table = table_frame(summary)
    text = "\n".join([title, "", table.to_string(index=False), *(["", *notes] if notes else [])]) + "\n"
    columns, rows = list(table.columns), table.to_numpy(str).tolist()
    html = page_environment().get_template("study.html.j2")
    contents = {
        "table.txt": text,
        "table.md": f"# {title}\n\n{markdown([columns, *rows])}" + "".join(f"\n{note}\n" for note in notes),
        "table.tex": table.to_latex(index=False, escape=True).replace("±", r"$\pm$").replace("–", "--"),
        "study.html": html.render(title=title, columns=columns, rows=rows, notes=notes),
        "study.json": json.dumps(about | {"notes": list(notes)}, indent=1, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    cells.to_parquet(folder / "cells.parquet", index=False)
    summary.to_csv(folder / "table.csv", index=False)
    return text
