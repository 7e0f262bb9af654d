"""Several reports as one table: `python scripts/table_of_runs.py --metrics r2,mape
data/08_reporting/houses/*/`.

Mean ± std (n − 1) over all the runs (seeds, splits) of each method, on test, as Markdown. Only for reports
whose methods have equal settings: it merges by the method's name."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

ORDER = ["unimodal", "joint", "distillation", "g2d_val", "g2d"]


def read(folders: list[Path]) -> pd.DataFrame:
    """The rows of all `metrics.parquet`: dataset, method, seed, split, part, metric, value, …"""
    files = [
        folder / "metrics.parquet" for folder in folders if not folder.name.startswith("data-")
    ]  # data reports
    frames = [pd.read_parquet(file) for file in files]
    return pd.concat(frames, ignore_index=True)


def table(rows: pd.DataFrame, metrics: list[str], scale: dict[str, float], order: str) -> str:
    """A row a method, a column a part and metric. `order`: `listed`, or `best`: by the first metric of the
    whole."""
    rows = rows[(rows["split"] == "test") & rows["metric"].isin(metrics)].copy()
    teachers = rows["method"] == "unimodal"
    rows.loc[teachers, "method"] = "unimodal: " + rows.loc[teachers, "part"]
    rows["value"] *= rows["metric"].map(scale).fillna(1.0)
    parts = [p for p in ["multi", *rows["part"].unique()] if p != "multi" or (rows["part"] == "multi").any()]
    parts = list(dict.fromkeys(parts))
    cells = rows.groupby(["method", "part", "metric"])["value"].agg(["mean", "std", "count"])
    methods = list(dict.fromkeys(rows["method"]))
    whole = {m: cells["mean"].get((m, "multi", metrics[0]), float("-inf")) for m in methods}
    if order == "best":
        methods.sort(key=lambda m: (not m.startswith("unimodal"), -whole[m]))
    else:
        known = {m: i for i, m in enumerate(ORDER)}
        methods.sort(key=lambda m: known.get(m.partition(":")[0], len(known)))
    heads = [f"{part} {metric}" for metric in metrics for part in parts]
    lines = ["| method | runs | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for m in methods:
        runs, found = 0, []
        for metric in metrics:
            for part in parts:
                if (m, part, metric) not in cells.index:
                    found.append("–")
                    continue
                mean, std, runs = cells.loc[(m, part, metric)]
                found.append(f"{mean:.2f} ± {std:.2f}" if abs(mean) < 10 else f"{mean:.1f} ± {std:.1f}")
        lines.append(f"| {m} | {int(runs)} | " + " | ".join(found) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--metrics", default="accuracy")
    parser.add_argument("--percent", action="store_true", help="show accuracies and F1 in percent")
    parser.add_argument("--order", choices=["listed", "best"], default="listed")
    given = parser.parse_args()
    chosen = given.metrics.split(",")
    print(
        table(read(given.folders), chosen, dict.fromkeys(chosen, 100.0) if given.percent else {}, given.order)
    )
