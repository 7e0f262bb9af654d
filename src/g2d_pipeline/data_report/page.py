"""The data report as HTML: a page of its own, and what the evaluation's page needs to show the same."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from g2d_pipeline.html import PALETTE, TEMPLATE, describe_dropped, figure_html, page_environment, text

# What may be known of a modality's samples in a split: key, title, divisor. What nobody knows, and
# what is 0 throughout, has no column.
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


def build_data_page(report: Mapping[str, Any]) -> str:
    """`report` (see `describe_data`) as one self-contained page; all text from data is escaped."""
    template = page_environment().get_template("data_page.html.j2")
    dropped = [describe_dropped(item) for item in report["dropped"]["first"]]
    return template.render(**data_context(report), dropped=dropped, plotly_js=Markup(get_plotlyjs()))


def data_context(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template `data.html.j2` needs; `data` is None where there is no report."""
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
        "target_figure": figure_html("data_target", target_figure(report)),
        "repeated": [(title, duplicates) for title, duplicates in repeated if duplicates["contents"]],
        "found": [(name, of["found"]) for name, of in modalities.items() if of.get("found")],
    }


def target_figure(report: Mapping[str, Any]) -> go.Figure:
    """The shares of the classes in each split, or a histogram of a regression's target by split."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 300, "margin": {"t": 20, "b": 70}})
    for (split, facts), colour in zip(report["splits"].items(), PALETTE, strict=False):
        counts = facts["classes"].values() if "classes" in facts else report["histogram"]["counts"][split]
        shares = [100 * n / max(facts["samples"], 1) for n in counts]
        if "classes" in facts:
            names = [text(name) for name in facts["classes"]]
            figure.add_bar(x=names, y=shares, name=split, marker_color=colour)
        else:
            centres = [(a + b) / 2 for a, b in pairwise(report["histogram"]["edges"])]
            figure.add_scatter(x=centres, y=shares, name=split, line={"shape": "hvh", "color": colour})
    name = " · ".join(str(part) for part in report["target"].values() if part)
    category = {"type": "category"} if report["task"] == "classification" else {}
    figure.update_xaxes(title=text(name), **category)
    figure.update_yaxes(title="% of the split")
    return figure
