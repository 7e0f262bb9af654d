"""What the HTML pages share: the templates' environment, figures, numbers and dropped samples in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def page_environment() -> Environment:
    """Templates of this folder, with everything escaped and nothing undefined; `number` is a filter."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = short_number
    return environment


def short_number(value: float) -> str:
    """Counts and large numbers whole with commas, others with four significant digits."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def figure_html(name: str, figure: go.Figure) -> Markup:
    """The figure's `<div>` and script, with an id made from its name: plotly's own ids are random."""
    options = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    html = plotly.io.to_html(
        figure,
        config=options,
        include_plotlyjs=False,
        include_mathjax=False,
        full_html=False,
        div_id=f"figure-{name}",
    )
    return Markup(html)


def describe_dropped(item: Mapping[str, Any]) -> dict[str, str]:
    """What was dropped (a row, a file, or whatever the source names), and why."""
    what = ", ".join(f"{key} {value}" for key, value in item.items() if key != "reason" and value is not None)
    return {"what": what or "–", "reason": str(item.get("reason", ""))}
