"""The data report as HTML: a page of its own, and what the evaluation's page needs to show the same."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from .pages import describe_dropped, figure_html, page_environment
from .plots import PALETTE, TEMPLATE, text

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
    """`report` (see `data_report.describe_data`) as one self-contained page; all text from data is escaped."""
    return (
        page_environment()
        .get_template("data_page.html.j2")
        .render(
            **data_context(report),
            dropped=[describe_dropped(item) for item in report["dropped"]["first"]],
            plotly_js=Markup(get_plotlyjs()),
        )
    )


def data_context(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template `data.html.j2` needs; `data` is None where there is no report."""
    if report is None:
        return {"data": None}
    modalities = report["modalities"]
    known = [own for of in modalities.values() for own in of["splits"].values()]
    repeated = [(name, of["duplicates"]) for name, of in modalities.items()]
    if len(modalities) > 1:
        repeated.insert(0, ("in every modality", report["duplicates"]))
    return {
        "data": report,
        "facts": [fact for fact in FACTS if any(fact[0] in own and own[fact[0]] != 0 for own in known)],
        "target_figure": figure_html("data_target", target_figure(report)),
        "repeated": [(title, of) for title, of in repeated if of["contents"]],
        "found": [(name, of["found"]) for name, of in modalities.items() if of.get("found")],
    }


def target_figure(report: Mapping[str, Any]) -> go.Figure:
    """The shares of the classes in each split, or a histogram of a regression's target by split."""
    figure = go.Figure(layout={"template": TEMPLATE, "height": 300, "margin": {"t": 20, "b": 70}})
    for (split, of), colour in zip(report["splits"].items(), PALETTE, strict=False):
        if "classes" in of:
            names, counts = list(of["classes"]), list(of["classes"].values())
            shares = [100 * n / max(of["samples"], 1) for n in counts]
            figure.add_bar(x=[text(name) for name in names], y=shares, name=split, marker_color=colour)
        else:
            edges, counts = report["histogram"]["edges"], report["histogram"]["counts"][split]
            centres = [(a + b) / 2 for a, b in pairwise(edges)]
            shares = [100 * n / max(of["samples"], 1) for n in counts]
            figure.add_scatter(x=centres, y=shares, name=split, line={"shape": "hvh", "color": colour})
    name = " · ".join(str(part) for part in report["target"].values() if part)
    figure.update_xaxes(
        title=text(name), **({"type": "category"} if report["task"] == "classification" else {})
    )
    figure.update_yaxes(title="% of the split")
    return figure
