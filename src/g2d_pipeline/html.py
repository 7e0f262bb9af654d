"""What the HTML pages share: templates, colours, figures, numbers and dropped samples in words."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

INK, GREY, FAINT = "#1b1e28", "#6b7080", "#e4e6ec"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#999933")
"""Okabe and Ito's colours, told apart by colour-blind readers; one a modality, in the configuration's
order."""
_AXIS = {
    "gridcolor": FAINT,
    "zerolinecolor": FAINT,
    "linecolor": "#b9bdc9",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#b9bdc9",
    "ticklen": 4,
    "automargin": True,
    "title": {"standoff": 8},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {
            "font": {"size": 18},
            "x": 0.0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(PALETTE),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hovermode": "x unified",
        "hoverlabel": {"font": {"size": 12}},
        "legend": {
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "y": 0.0,
            "yref": "container",
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "margin": {"l": 64, "r": 18, "t": 116, "b": 96},
    }
)


def page_environment() -> Environment:
    """The reports' templates, with everything escaped and nothing undefined; `number` is a filter."""
    folders = [Path(__file__).parent / name for name in ("data_report", "evaluation")]
    environment = Environment(
        loader=FileSystemLoader(folders),
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
    config = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    alone: dict[str, Any] = dict.fromkeys(("include_plotlyjs", "include_mathjax", "full_html"), False)
    return Markup(plotly.io.to_html(figure, config=config, div_id=f"figure-{name}", **alone))


def describe_dropped(item: Mapping[str, Any]) -> dict[str, str]:
    """What was dropped (a row, a file, or whatever the source names), and why."""
    what = ", ".join(f"{key} {value}" for key, value in item.items() if key != "reason" and value is not None)
    return {"what": what or "–", "reason": str(item.get("reason", ""))}


def text(value: object) -> str:
    """`value` as it shall be read: plotly would take `<b>` and `&lt;` in a name for markup."""
    return html.escape(str(value), quote=False)
