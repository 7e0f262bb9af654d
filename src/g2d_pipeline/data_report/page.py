"""The data report as HTML: a page, and the variables of the template that the evaluation's page includes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from g2d_pipeline.charts import STYLE, Chart, shorten
from g2d_pipeline.html import PALETTE, describe_dropped, page_environment

# Facts on a modality's samples in a split: key, title, divisor. One that is unknown or 0 throughout has no
# column.
FACTS = (
    ("distinct", "Distinct files", 1),
    ("seconds", "Seconds", 1),
    ("filled", "Shorter than kept", 1),
    ("cut", "Longer, cut", 1),
    ("width", "Width (pixels)", 1),
    ("height", "Height (pixels)", 1),
    ("steps", "Steps", 1),
    ("pictures", "Pictures", 1),
    ("characters", "Characters", 1),
    ("bytes", "kB a file", 1000),
    ("missing", "Missing values", 1),
    ("incomplete", "Samples with one", 1),
    ("empty", "Empty", 1),
)
NAMED_CLASSES = 20  # of more, the figure names none


def build_data_page(report: Mapping[str, Any]) -> str:
    """`report` (see `describe_data`) as one self-contained page; all text from data is escaped."""
    template = page_environment().get_template("data_page.html.j2")
    dropped = [describe_dropped(item) for item in report["dropped"]["first"]]
    return template.render(**data_context(report), dropped=dropped)


def data_context(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """The variables of the template `data.html.j2`; `data` is None where there is no report."""
    if report is None:
        return {"data": None}
    modalities = report["modalities"]
    splits = [facts for modality in modalities.values() for facts in modality["splits"].values()]
    repeated = [(name, modality["duplicates"]) for name, modality in modalities.items()]
    if len(modalities) > 1:
        repeated.insert(0, ("in every modality", report["duplicates"]))
    return {
        "data": report,
        "facts": [fact for fact in FACTS if any(facts.get(fact[0], 0) != 0 for facts in splits)],
        "target_figure": target_chart(report).html("data_target"),
        "repeated": [(title, duplicates) for title, duplicates in repeated if duplicates["contents"]],
        "found": [(name, facts["found"]) for name, facts in modalities.items() if facts.get("found")],
    }


@rc_context(STYLE)
def target_chart(report: Mapping[str, Any]) -> Chart:
    """The shares of the classes in each split, or a histogram of a regression's target by split."""
    name, splits = " · ".join(str(part) for part in report["target"].values() if part), report["splits"]
    classes = list(splits["train"].get("classes", ())) if report["task"] == "classification" else []
    named, share = 0 < len(classes) <= NAMED_CLASSES, "% of the split"
    layout: dict[str, Any] = {"height": 16 * len(classes) + 10, "left": 110} if named else {"height": 190}
    x, y = (share, "") if named else (name, share)
    title, labels = f"Target by split: {name}", list(splits)
    chart = Chart(title, {"target": ""}, x=x, y=y, right=44, labels=labels, **layout)
    axes = chart.axes["target"]
    for (split, facts), colour in zip(splits.items(), PALETTE, strict=False):
        counts = facts["classes"].values() if classes else report["histogram"]["counts"][split]
        shares = [100 * n / max(facts["samples"], 1) for n in counts]
        edges = np.arange(len(shares) + 1) if classes else np.array(report["histogram"]["edges"])
        centres = (edges[:-1] + edges[1:]) / 2
        if named:
            axes.plot(shares, -centres, "o", color=colour, label=split, markersize=6)
        else:
            frame = pd.DataFrame({"x": centres, "mean": shares, "std": np.nan})
            chart.curve("target", frame, split, colour, drawstyle="steps-mid")
    if named:
        axes.set_yticks(-0.5 - np.arange(len(classes)), [shorten(str(c)) for c in classes])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0)
    return chart
