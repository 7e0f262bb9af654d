"""Several reports, a data set each, against joint training: a Markdown table and a figure of differences.

`python scripts/against_joint.py --figure out.svg data/08_reporting/*/<fingerprint>/`. A difference is that of
two runs of one seed and fold, on test: accuracy in points, R² × 100. `±`: half of the 95 % t interval of the
mean difference over runs; bold where it leaves out 0."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

METRICS = ("accuracy", "r2")


def scores(folder: Path) -> pd.DataFrame:
    """A row a method (`best teacher`: the best one on val), a column a run: the whole on test, × 100."""
    rows = pd.read_parquet(folder / "metrics.parquet")
    metric = next(m for m in METRICS if m in set(rows["metric"]))
    rows = rows[rows["metric"] == metric].assign(
        run=lambda d: d.filter(["fold", "seed"]).astype(str).agg("/".join, 1)
    )
    teachers = rows[rows["method"] == "unimodal"]
    best = teachers[teachers["split"] == "val"].sort_values("value").groupby("run")["part"].last()
    test = rows[rows["split"] == "test"]
    chosen = test[(test["method"] == "unimodal") & (test["part"] == test["run"].map(best))]
    whole = pd.concat([test[test["part"] == "multi"], chosen.assign(method="best teacher")])
    return 100 * whole.pivot(index="method", columns="run", values="value")


def differences(values: pd.DataFrame) -> pd.DataFrame:
    """method → mean, difference to joint and half of its interval."""
    paired = values - values.loc["joint"]
    n = paired.notna().sum(axis=1)
    half = paired.std(axis=1) / n**0.5 * stats.t.ppf(0.975, n - 1)
    return pd.DataFrame({"mean": values.mean(axis=1), "difference": paired.mean(axis=1), "half": half})


def cell(row: pd.Series) -> str:
    if row.name == "joint":
        return f"{row['mean']:.1f}"
    text = f"{row['difference']:+.1f} ± {row['half']:.1f}".replace("-", "−")
    return f"**{text}**" if abs(row["difference"]) > row["half"] else text


def draw(tables: dict[str, pd.DataFrame], methods: list[str], file: Path) -> None:
    """A panel a data set: the interval of each method's difference to joint."""
    matplotlib.rcParams.update({"svg.hashsalt": "g2d", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(
        1, len(tables), figsize=(2.1 * len(tables), 0.3 * len(methods) + 1), sharey=True
    )
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        own = table.reindex(methods)
        ax.axvline(0, color="#6b7080", linewidth=1)
        ax.errorbar(own["difference"], range(len(methods)), xerr=own["half"], fmt="o", color="#0072b2", ms=4)
        ax.set_title(name, fontsize=9)
        reach = (own["difference"].abs() + own["half"]).quantile(0.85)
        ax.set_xlim(-reach, reach)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    figure.supxlabel(
        "difference to joint training, points (R² × 100 of regressions), 95 % interval", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--methods", default="", help="those to show, with commas between them")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    values = {folder.parent.name: scores(folder) for folder in options.folders}
    tables = {name: differences(of) for name, of in values.items()}
    known = list(dict.fromkeys(m for of in tables.values() for m in of.index))
    methods = options.methods.split(",") if options.methods else known
    runs = {name: of.shape[1] for name, of in values.items()}
    print("| method | " + " | ".join(f"{name} ({runs[name]} runs)" for name in tables) + " |")
    print("|---|" + "---|" * len(tables))
    for method in methods:
        cells = [cell(of.loc[method]) if method in of.index else "–" for of in tables.values()]
        print(f"| {method} | " + " | ".join(cells) + " |")
    if options.figure:
        draw(tables, [m for m in methods if m != "joint"], options.figure)


if __name__ == "__main__":
    main()
