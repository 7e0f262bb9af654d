"""Figures: panels of one size, drawn by matplotlib, and the drawn numbers as a table.

A panel is as wide as a phone's screen, so that its text is legible wherever a page puts it. The same chart
gives the same bytes; in a page colours are CSS variables, for its dark mode."""

import html
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from g2d_pipeline.html import FAINT, GREY, INK, TEXT, THEME, short_number

CELL, COLUMNS = 360, 3  # pixels a panel is wide; panels in a row of the file
ABOVE, BELOW = 26, 40  # pixels above and below the axes: the heading; ticks and the axis' name
LETTER = 6.0  # pixels, about, of a letter of a label
LABEL, NAME = 18, 24  # letters of a label right and left of the axes; longer ones are cut
FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SVG = "http://www.w3.org/2000/svg"
Pair = tuple[float, float]
BESIDE: dict[str, Any] = {"va": "center", "size": 10.5}  # text right of the axes
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#9aa0af",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.labelsize": 10.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.color": GREY,
    "xtick.labelsize": 10,
    "ytick.color": GREY,
    "ytick.labelsize": 10,
    "ytick.left": False,
}


class Chart:
    """A figure with a panel for each of `panels` (keys, or key → heading), made inside `rc_context(STYLE)`.

    `title`, prefixed by `"SAMPLE · "` for sample data and followed by `dataset`; `x` and `y`: axis labels;
    `height`, `left`, `right`, `above`: size and margins of the axes in pixels. `labels` have to fit right of
    the axes, `names` left of them; `lines`: how many rows the axes hold, instead of `height`."""

    def __init__(
        self,
        title: str,
        panels: Iterable[str] | Mapping[str, str],
        *,
        dataset: str = "",
        source: str = "",
        subtitle: str = "",
        x: str = "",
        y: str = "",
        height: int = 170,
        left: int = 56,
        right: int = 16,
        labels: Sequence[str] = (),
        names: Sequence[str] = (),
        lines: int = 0,
        above: int = ABOVE,
    ) -> None:
        headings = panels if isinstance(panels, Mapping) else {key: key for key in panels}
        sample = "SAMPLE" if source == "sample" else ""
        self.title = clean(" · ".join(filter(None, [sample, title, dataset])))
        self.subtitle, self.lines = clean(subtitle), lines
        right += int(LETTER * min(LABEL, max(map(len, labels), default=0)))
        left = int(LETTER * min(NAME, max(map(len, names)))) + 18 + 16 * bool(y) if names else left
        height = 20 * lines + 6 if lines else height
        self.columns = min(COLUMNS, len(headings))
        self.cell = (CELL, above + height + BELOW)
        width = CELL * self.columns
        head = [(line, 15, INK, "bold") for line in textwrap.wrap(self.title, width // 9)]
        head += [(line, 11, GREY, "normal") for line in textwrap.wrap(self.subtitle, width // 7)]
        self.head = 14 + 18 * len(head)
        total = self.head + self.cell[1] * -(-len(headings) // self.columns)
        self.figure = Figure(figsize=(width / 72, total / 72))
        for row, (line, size, colour, weight) in enumerate(head, start=1):
            self.figure.text(8 / width, 1 - 18 * row / total, line, size=size, color=colour, weight=weight)
        self.axes: dict[str, Axes] = {}
        self.frames: list[pd.DataFrame] = []
        self._trees: dict[str, ElementTree.Element] = {}
        self._labels: dict[str, list[tuple[float, str, str]]] = {key: [] for key in headings}
        for index, (key, heading) in enumerate(headings.items()):
            corner_x, corner_y = self._corner(index)
            place = ((corner_x + left) / width, (total - corner_y - above - height) / total)
            extent = ((CELL - left - right) / width, height / total)
            axes = self.axes[key] = self.figure.add_axes((*place, *extent), gid=f"panel-{index}")
            axes.set(xlabel=clean(x), ylabel=clean(y))
            axes.grid(axis="x", visible=False)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(tick)
            self.note(key, heading, (-left + 8, above - 16), size=12.5, color=INK, weight="bold")

    def _corner(self, index: int) -> tuple[int, int]:
        """The upper left corner of a panel, in pixels."""
        row, column = divmod(index, self.columns)
        return column * CELL, self.head + row * self.cell[1]

    @property
    def data(self) -> pd.DataFrame:
        """The drawn numbers: `panel`, `series` and the columns of the recorded frames."""
        return pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame()

    def note(self, panel: str, text: str, offset: Pair, at: Pair = (0, 1), **options: Any) -> None:
        """Text `offset` pixels from a position, by default the upper left corner of the axes. `options`: of
        `Axes.annotate`."""
        style: dict[str, Any] = {"size": 10, "color": GREY, "annotation_clip": False}
        style |= {"xycoords": "axes fraction", "textcoords": "offset pixels"}
        self.axes[panel].annotate(clean(text), at, offset, **style | options)

    def record(self, panel: str, series: str, frame: pd.DataFrame, **columns: Any) -> None:
        """Add a frame to `data`."""
        if not frame.empty:
            self.frames.append(frame.assign(**columns, panel=panel, series=series))

    def curve(
        self,
        panel: str,
        curve: pd.DataFrame,
        name: str,
        colour: str,
        *,
        dash: str = "solid",
        width: float = 1.8,
        band: bool = True,
        label: bool = True,
        **line: Any,
    ) -> None:
        """`mean` over the first column, a band of ± `std` where it is known, and `name` at the line's end."""
        if curve.empty:
            return
        axes, x = self.axes[panel], curve.iloc[:, 0].to_numpy(float)
        mean, std = (curve[column].to_numpy(float) for column in ("mean", "std"))
        if band and np.isfinite(std).any():
            axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.16, linewidth=0)
        marker = "" if len(x) > 1 else "o"
        axes.plot(x, mean, color=colour, linestyle=dash, linewidth=width, marker=marker, markersize=5, **line)
        self.record(panel, name, curve, line=dash)
        if label and np.isfinite(mean).any():
            self._labels[panel].append((float(mean[np.isfinite(mean)][-1]), name, colour))

    def share_limits(self, axis: str = "y") -> None:
        """One scale for all panels."""
        limits = np.array([getattr(axes, f"get_{axis}lim")() for axes in self.axes.values()])
        for axes in self.axes.values():
            axes.set(**{f"{axis}lim": (limits[:, 0].min(), limits[:, 1].max())})

    def level(self, panel: str, value: float, name: str, colour: str) -> None:
        """A horizontal line."""
        self.axes[panel].axhline(value, color=colour, linewidth=1, linestyle=(0, (6, 2, 1, 2)))
        self.record(panel, name, pd.DataFrame({"mean": [value]}), line="level")

    def points(self, panel: str, rows: pd.DataFrame, colour: str, bars_from: float | None = None) -> None:
        """From above, per row: its `label`, a point at `mean`, a line from `low` to `high`, and at the right
        edge `text`, in bold type where `bold`. `bars_from`: where bars start, if there are any."""
        axes, y = self.axes[panel], -np.arange(len(rows), dtype=float)
        self.record(panel, panel, rows.drop(columns=["text", "bold"]))
        if bars_from is not None:
            width = rows["mean"] - bars_from
            axes.barh(y, width, left=bars_from, height=0.5, color=colour, alpha=0.3)
        axes.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.6)
        axes.plot(rows["mean"], y, "o", color=colour, markersize=6.5, clip_on=False)
        axes.set_yticks(y, [shorten(label, NAME) for label in rows["label"]], color=INK)
        axes.set_ylim(0.4 - self.lines, 0.6)
        axes.grid(axis="x", visible=True)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(tick)
        for at, text, bold in zip(y, rows["text"], rows["bold"], strict=True):
            font = BESIDE | {"color": INK, "weight": "bold" if bold else "normal"}
            self.note(panel, text, (5, 0), (1, at), xycoords=axes.get_yaxis_transform(), **font)

    def scatter(self, panel: str, points: pd.DataFrame, name: str, colour: str) -> None:
        """Dots at the columns `x` and `y`, as one short path; `name` beside their mean height."""
        x, y, gap = points["x"].to_numpy(float), points["y"].to_numpy(float), np.full(len(points), np.nan)
        path = [np.stack(columns, axis=1).ravel() for columns in ((x, x + 1e-9, gap), (y, y, gap))]
        (dots,) = self.axes[panel].plot(*path, color=colour, linewidth=3.2, solid_capstyle="round", alpha=0.7)
        dots.get_path().should_simplify = False
        self.record(panel, name, points)
        self._labels[panel].append((float(y.mean()), name, colour))

    def heat(self, panel: str, table: pd.DataFrame, texts: pd.DataFrame) -> None:
        """`table` (index: y, from below; columns: x) as coloured cells with `texts` in them."""
        axes, values = self.axes[panel], table.to_numpy(float)
        low, high = np.nanmin(values), np.nanmax(values)
        span = (values - low) / (high - low) if high > low else np.zeros_like(values)
        axes.pcolormesh(
            span, cmap=LinearSegmentedColormap.from_list("", ["#f4f7fb", "#0a5a8f"]), vmin=0, vmax=1
        )
        axes.grid(visible=False)
        for (row, column), text in np.ndenumerate(texts.to_numpy()):
            colour = "#ffffff" if span[row, column] > 0.5 else "#101010"  # in a dark page, too
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=9.5, color=colour)
        for axis, labels in ((axes.xaxis, table.columns), (axes.yaxis, table.index)):
            axis.set_ticks(np.arange(len(labels)) + 0.5, [shorten(str(label), NAME) for label in labels])
        if sum(len(str(label)) + 1 for label in table.columns) * LETTER > axes.bbox.width:
            axes.set_xticklabels([shorten(str(label), 8) for label in table.columns], rotation=35, ha="right")
        long = table.rename_axis(index="y", columns="x").reset_index().melt("y", value_name="value")
        self.record(panel, panel, long)

    def _place_labels(self) -> None:
        """The names of the curves right of their ends, 12 pixels apart at least."""
        for key, labels in self._labels.items():
            axes, labels[:] = self.axes[key], sorted(labels)
            axes.get_ylim()  # brings transLimits up to date
            apart = 12.0 * np.arange(len(labels))
            ends = [axes.transLimits.transform((0, value))[1] * axes.bbox.height for value, *_ in labels]
            places = isotonic_regression(np.array(ends) - apart) + apart if labels else ()
            for height, (_, name, colour) in zip(places, labels, strict=True):
                at, colour = (1, height / axes.bbox.height), TEXT.get(colour, colour)
                self.note(key, shorten(name), (5, 0), at, color=colour, **BESIDE)
            labels.clear()

    def tree(self, name: str) -> ElementTree.Element:
        """The SVG: short numbers, no date, ids (made from `name`) only where they are referred to."""
        if name in self._trees:
            return self._trees[name]
        buffer = io.BytesIO()
        with rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts have it
            self._place_labels()
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(buffer, format="svg", metadata=metadata)
        text = re.sub(r" font-family: 'DejaVu Sans';| text-anchor: start;", "", buffer.getvalue().decode())
        root = self._trees[name] = ElementTree.fromstring(text)
        root.set("font-family", FONT)
        for element in root.findall(f"{{{SVG}}}metadata"):
            root.remove(element)
        referred = set(re.findall(r"(?:url\(|href=\")#(\w+)", text))
        for element in root.iter():
            attributes = element.attrib
            if (name := attributes.get("id", "")) not in referred and not name.startswith("panel-"):
                attributes.pop("id", None)
            if attributes.get("transform", "").startswith("rotate(-0 "):
                del attributes["transform"]
            for key in {"d", "x", "y", "transform", "width", "height"} & attributes.keys():
                number = re.sub(r"(\.\d)\d+", r"\1", attributes[key])
                attributes[key] = re.sub(r"\s*([A-Za-z])\s*", r"\1", number) if key == "d" else number
        return root

    def svg(self, name: str) -> str:
        """The content of a file, with title and white background."""
        text = ElementTree.tostring(self.tree(name), encoding="unicode")
        return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'

    def html(self, name: str) -> Markup:
        """`<figure>`: the title as text, then an `<svg>` per panel; colours are the page's variables."""
        root, panels = self.tree(name), []
        groups = {e.get("id"): e for e in root.iter() if e.get("id", "").startswith("panel-")}
        clips = [e for e in root if e.find(f"{{{SVG}}}clipPath") is not None]
        for index, key in enumerate(self.axes):
            box = " ".join(map(str, (*self._corner(index), *self.cell)))
            about = {"viewBox": box, "role": "img", "aria-label": f"{self.title}: {clean(key)}"}
            panel = ElementTree.Element(f"{{{SVG}}}svg", about)
            panel.extend([*(clips if index == 0 else ()), groups[f"panel-{index}"]])
            panels.append(ElementTree.tostring(panel, encoding="unicode"))
        colours = re.compile("|".join(THEME))
        drawn = colours.sub(lambda match: f"var(--c{match[0][1:]})", "\n".join(panels))
        caption = f"<b>{html.escape(self.title)}</b> {html.escape(self.subtitle)}"
        head = f'<figure class="chart" id="figure-{html.escape(name)}"><figcaption>{caption}</figcaption>'
        return Markup(f'{head}<div class="panels">{drawn}</div></figure>')


def tick(value: float, _: float = 0) -> str:
    """A number at an axis."""
    return short_number(float(value)).replace("-", "−")


def clean(text: object) -> str:
    """`text` without characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", str(text))


def figure_files(charts: Mapping[str, Chart]) -> dict[str, str]:
    """File name → text: each chart as SVG and its data as CSV."""
    files: dict[str, str] = {}
    for name, chart in charts.items():
        files |= {f"{name}.svg": chart.svg(name), f"{name}.csv": chart.data.to_csv(index=False)}
    return files


def shorten(name: str, letters: int = LABEL) -> str:
    """A name that fits beside a panel."""
    return clean(name if len(name) <= letters else f"{name[: letters - 1]}…")
