"""Shared by the HTML pages: templates, colours, formats of numbers and of dropped samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

INK, GREY, FAINT = "#1b1e28", "#5d6272", "#e1e4eb"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#999933")
"""Okabe and Ito's colours, safe for colour-blind readers; one per modality, in the configuration's order."""
_DARKER = "0072b2 b34f00 00795a a3507f 8a6000 1f78a8 7f5539 6f6f1f"
TEXT = {colour: f"#{dark}" for colour, dark in zip(PALETTE, _DARKER.split(), strict=True)}
"""The palette, dark enough for text."""
_BRIGHTER = "e8eaf0 a3a9ba 343947 3d9be0 ff8a3d 2fc496 e39cc2 f0b030 9bdcff c49a7c c5c55a"
_PAIRS = zip((INK, GREY, FAINT, *PALETTE), _BRIGHTER.split(), strict=True)
THEME = {colour: f"#{bright}" for colour, bright in _PAIRS}
THEME |= {TEXT[c]: THEME[c] for c in PALETTE} | {"#332288": "#a99bf0", "#882255": "#e87fb0"}
"""Colour → the one that a page shows in dark mode."""


def page_environment() -> Environment:
    """The templates, autoescaped; undefined variables raise; `number` is a filter."""
    folders = [
        Path(__file__).parent / name for name in ("data_report", "evaluation", "retraining", "studies")
    ]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = short_number
    environment.globals["theme"] = THEME
    return environment


def short_number(value: float) -> str:
    """Counts and large numbers whole with commas, others with four significant digits."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def describe_dropped(item: Mapping[str, Any]) -> dict[str, str]:
    """`what`: the dropped row or file, as the source names it; `reason`: why it was dropped."""
    names = (f"{key} {value}" for key, value in item.items() if key != "reason" and value is not None)
    return {"what": ", ".join(names) or "–", "reason": str(item.get("reason", ""))}
