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
"""What a row of the table is one of."""
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
    """What keeps numbers from being compared with the published ones: plain word → details.

    `settings`: of the data set, resolved; `protocol`: see `published_protocol`."""
    words = {"sample": "a simulated sample, not the data"} if source == "sample" else {}
    for key, published in protocol.items():
        value: Any = settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value == published:
            continue
        word = "other split" if key.startswith("raw.") else f"other {key.rpartition('.')[2]}"
        if key == "training.epochs" and isinstance(value, int) and value < published:
            word = "fewer epochs"
        words[word] = f"{key} = {value}, published {published}"
    return words


def cells_frame(parts: Sequence[Part]) -> pd.DataFrame:
    """A row a run (method or teacher, options, fold, seed), split, part and metric; of a failed run one row
    without a value, with its reason."""
    frames = []
    for part in parts:
        about = {"dataset": part.dataset, "source": part.source, "options": part.options}
        failed = pd.DataFrame([asdict(f) | about | {"status": FAILED} for f in part.failures])
        made = part.metrics.assign(options=part.options, status="made", reason="", void=", ".join(part.void))
        if not made.empty:
            folds = made["fold"] if "fold" in made else [0] * len(made)
            keys = zip(made["method"], made["modality"], folds, made["seed"], strict=True)
            made["seconds"] = [part.seconds.get(key, math.nan) for key in keys]
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
                own = ", ".join(TASK_METRICS[task])
                hint = did_you_mean(name, TASK_METRICS[task])
                raise ConfigError(f"metrics = {name!r}: {dataset} is a {task}.{hint} Its metrics: {own}")


def published_protocol(dataset: str) -> dict[str, Any]:
    """Dotted key of a data set's settings → the value that the published numbers were made with."""
    return dict(yaml.safe_load(PUBLISHED.with_suffix(".yml").read_text("utf-8")).get(dataset, {}))


def published_rows(table: int) -> pd.DataFrame:
    """The published numbers of a table: dataset, options, method, part, metric, published (as written).
    Raises ConfigError for a table that there is not."""
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
    lost = cells[cells["status"] == FAILED].groupby(ROW, sort=False)
    failed = lost["reason"].agg(failed="size", reason="first").reset_index()
    frame = pd.concat([*frames, failed.assign(part="")], ignore_index=True) if frames else failed
    frame = _with_failures(frame, failed)
    if published is not None:
        keys = ["dataset", "options", "method", "part", "metric"]
        frame = frame.merge(published, on=keys, how="left")
        frame["difference"] = frame["mean"] - frame["published"]
    return frame[_shown(frame, metrics)].reset_index(drop=True)


def _with_failures(frame: pd.DataFrame, failed: pd.DataFrame) -> pd.DataFrame:
    """`failed` and `reason` on every row of what failed in part; a row of its own where nothing is left."""
    own = frame.drop(columns=["failed", "reason"], errors="ignore")
    own = own[own["part"] != ""] if "part" in own else own.iloc[:0]
    if own.empty:
        return failed.assign(part=MULTI, metric="", mean=math.nan, std=math.nan, n=0, void="")
    merged = own.merge(failed, on=ROW, how="outer", sort=False, indicator="only")
    alone = merged.pop("only") == "right_only"
    merged.loc[alone, "part"] = merged.loc[alone, "modality"].replace("", MULTI)
    order = {tuple(key): place for place, key in enumerate(own[ROW].drop_duplicates().to_numpy())}
    ranks = [order.get(tuple(key), len(order)) for key in merged[ROW].to_numpy()]
    merged = merged.assign(rank=ranks).sort_values("rank", kind="stable").drop(columns="rank")
    return merged.fillna({"failed": 0, "reason": "", "metric": "", "n": 0, "void": ""})


def _shown(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.Series:
    published = frame["published"].notna() if "published" in frame else pd.Series(False, frame.index)
    names = (
        set(metrics) or set(frame.loc[published, "metric"]) or {own[0] for own in HEADLINE_METRICS.values()}
    )
    main = (frame["part"] == MULTI) | (frame["method"] == TEACHER)
    return frame["metric"].isin(names | {""}) & (main | published)


def table_frame(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, a column for what a reader compares."""
    columns: dict[str, list[str]] = {"data set": list(summary["dataset"])}
    if summary["options"].any():
        columns["options"] = list(summary["options"])
    records = summary.to_dict(orient="records")
    columns["method"] = [row_label(record["method"], record["modality"]) for record in records]
    columns["part"] = list(summary["part"])
    columns["metric"] = [metric_spec(name).title() if name else ABSENT for name in summary["metric"]]
    columns["ours"] = [_number(record, "mean") for record in records]
    columns["runs"] = [str(int(n)) for n in summary["n"]]
    if "published" in summary:
        columns["published"] = [f"{v:g}" if math.isfinite(v) else ABSENT for v in summary["published"]]
        columns["difference"] = [_difference(record) for record in records]
    if summary["failed"].any():
        columns["failed"] = [f"{int(r['failed'])}: {r['reason']}" if r["failed"] else "" for r in records]
    return pd.DataFrame(columns)


def _number(record: Mapping[Any, Any], key: str, sign: str = "") -> str:
    value, scale = record[key], metric_spec(record["metric"]).scale
    if not math.isfinite(value):
        return ABSENT
    std = record["std"] / scale if key == "mean" else math.nan
    return f"{sign if value > 0 else ''}{format_value(record['metric'], value / scale, std)}"


def _difference(record: Mapping[Any, Any]) -> str:
    if not math.isfinite(record["difference"]):
        return ABSENT
    return f"void: {record['void']}" if record["void"] else _number(record, "difference", "+")


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
