"""Figures: panels of one size, drawn by matplotlib, and the numbers that are drawn as a table.

A panel is as wide as a telephone: a page stands panels side by side or below one another, and their text
stays legible. The same chart gives the same bytes; in a page, colours are variables: it has a dark mode."""

import html
import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
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
from matplotlib.transforms import Transform
from sklearn.isotonic import isotonic_regression

from g2d_pipeline.html import FAINT, GREY, INK, TEXT, THEME, short_number

CELL, COLUMNS = 360, 3  # pixels a panel is wide; panels in a row of the file
ABOVE, BELOW = 26, 40  # pixels above and below the axes: the heading; ticks and the axis' name
LETTER = 6.0  # pixels, about, of a letter of a label
LABEL, NAME = 18, 24  # letters of a label right and left of the axes; longer ones are cut
FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SVG = "http://www.w3.org/2000/svg"
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
    """A figure with a panel for each of `panels` (key → heading), made inside `rc_context(STYLE)`.

    `words`, `dataset` and `source` make the title, prefixed `"SAMPLE · "` where the data are a sample. `x`
    and `y` name the axes; `height` is that of the axes, `left`, `right` and `above` their margins, in pixels;
    `labels` shall fit right of the axes, `names` left of them; `lines`: how many of them are to have room."""

    def __init__(
        self,
        words: str,
        panels: Mapping[str, str],
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
        sample = "SAMPLE" if source == "sample" else ""
        named = " · ".join(filter(None, [sample, words, dataset]))
        self.title, self.subtitle = (clean(text) for text in (named, subtitle))
        right += int(LETTER * min(LABEL, max(map(len, labels), default=0)))
        left = int(LETTER * min(NAME, max(map(len, names)))) + 18 + 16 * bool(y) if names else left
        height, self.lines = (20 * lines + 6 if lines else height), lines
        self.columns = min(COLUMNS, len(panels))
        self.cell = (CELL, above + height + BELOW)
        width = CELL * self.columns
        above_all = [(line, 15, INK) for line in textwrap.wrap(self.title, width // 9)]
        above_all += [(line, 11, GREY) for line in textwrap.wrap(self.subtitle, width // 7)]
        self.head = 14 + 18 * len(above_all)
        total = self.head + self.cell[1] * -(-len(panels) // self.columns)
        self.figure = Figure(figsize=(width / 72, total / 72))
        for number, (line, size, colour) in enumerate(above_all, start=1):
            at = 1 - 18 * number / total
            weight = "bold" if size > 12 else "normal"
            self.figure.text(8 / width, at, line, size=size, color=colour, weight=weight)
        self.axes: dict[str, Axes] = {}
        self.frames: list[pd.DataFrame] = []
        self._trees: dict[str, ElementTree.Element] = {}
        self._labels: dict[str, list[tuple[float, str, str]]] = {key: [] for key in panels}
        for index, (key, heading) in enumerate(panels.items()):
            corner = (index % self.columns * CELL, self.head + index // self.columns * self.cell[1])
            bottom = total - corner[1] - above - height
            extent = ((CELL - left - right) / width, height / total)
            place = ((corner[0] + left) / width, bottom / total, *extent)
            axes = self.axes[key] = self.figure.add_axes(place, gid=f"panel-{index}")
            axes.set_xlabel(clean(x))
            axes.set_ylabel(clean(y))
            axes.grid(axis="x", visible=False)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(tick)
            self.words(key, heading, up=above - 16, x=-left + 8, size=12.5, color=INK, weight="bold")

    @property
    def data(self) -> pd.DataFrame:
        """What is drawn: `panel`, `series`, and the columns of what was added."""
        return pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame()

    def words(self, panel: str, text: str, *, up: float, x: float, **font: Any) -> None:
        """A line above the axes of a panel, `up` and `x` pixels from their upper left corner."""
        look: dict[str, Any] = {"size": 10, "color": GREY, "annotation_clip": False} | font
        where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset pixels"}
        self.axes[panel].annotate(clean(text), (0, 1), (x, up), **where, **look)

    def record(self, panel: str, series: str, frame: pd.DataFrame, **more: Any) -> None:
        """Note what a panel draws, for `data`."""
        if not frame.empty:
            self.frames.append(frame.assign(**more).assign(panel=panel, series=series))

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
        """`mean` over the first column, a band of ± `std` if there is one, the name at its end."""
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
        limits = [getattr(axes, f"get_{axis}lim")() for axes in self.axes.values()]
        for axes in self.axes.values():
            getattr(axes, f"set_{axis}lim")(min(a for a, _ in limits), max(b for _, b in limits))

    def level(self, panel: str, value: float, name: str, colour: str) -> None:
        """A horizontal line."""
        self.axes[panel].axhline(value, color=colour, linewidth=1, linestyle=(0, (6, 2, 1, 2)))
        self.record(panel, name, pd.DataFrame({"mean": [value]}), line="level")

    def points(self, panel: str, rows: pd.DataFrame, colour: str, bars_from: float | None = None) -> None:
        """A line a row, from above: its `label`, a point at `mean`, a line from `low` to `high`, and and
        at the right edge `text`; rows that are `bold` are. `bars_from`: where bars start, if there are."""
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
            weight = "bold" if bold else "normal"
            self._beside(panel, text, axes.get_yaxis_transform(), at, INK, weight=weight)

    def scatter(self, panel: str, points: pd.DataFrame, name: str, colour: str) -> None:
        """Dots at the columns `x` and `y`, as one short path; the name beside their middle."""
        x, y, nothing = points["x"].to_numpy(float), points["y"].to_numpy(float), np.full(len(points), np.nan)
        ends = (np.stack(columns, axis=1).ravel() for columns in ((x, x + 1e-9, nothing), (y, y, nothing)))
        (dots,) = self.axes[panel].plot(*ends, color=colour, linewidth=3.2, solid_capstyle="round", alpha=0.7)
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
        """The names of the curves right of their ends, apart from one another."""
        for key, labels in self._labels.items():
            axes, labels[:] = self.axes[key], sorted(labels)
            axes.get_ylim()  # brings transLimits up to date
            apart = 12.0 * np.arange(len(labels))
            ends = [axes.transLimits.transform((0, value))[1] * axes.bbox.height for value, *_ in labels]
            places = isotonic_regression(np.array(ends) - apart) + apart if labels else ()
            for height, (_, name, colour) in zip(places, labels, strict=True):
                at = height / axes.bbox.height
                self._beside(key, shorten(name), axes.transAxes, at, TEXT.get(colour, colour))
            labels.clear()

    def _beside(self, panel: str, text: str, scale: Transform, y: float, colour: str, **font: Any) -> None:
        """Words right of the axes, at `y` of `scale`."""
        where: dict[str, Any] = {"xycoords": scale, "textcoords": "offset pixels", "annotation_clip": False}
        self.axes[panel].annotate(text, (1, y), (5, 0), va="center", size=10.5, color=colour, **where, **font)

    def tree(self, name: str) -> ElementTree.Element:
        """The SVG: short numbers, no date, ids only where they are needed, made from `name`."""
        if name in self._trees:
            return self._trees[name]
        buffer = io.BytesIO()
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts have it
            self._place_labels()
            self.figure.savefig(buffer, format="svg", metadata=about)
        text = re.sub(r" font-family: 'DejaVu Sans';| text-anchor: start;", "", buffer.getvalue().decode())
        root = ElementTree.fromstring(text)
        root.set("font-family", FONT)
        for metadata in root.findall(f"{{{SVG}}}metadata"):
            root.remove(metadata)
        needed = set(re.findall(r"(?:url\(|href=\")#(\w+)", text))
        for element in root.iter():
            own = element.get("id", "")
            if own not in needed and not own.startswith("panel-"):
                element.attrib.pop("id", None)
            if element.get("transform", "").startswith("rotate(-0 "):
                del element.attrib["transform"]
            for key in {"d", "x", "y", "transform", "width", "height"} & set(element.attrib):
                number = re.sub(r"(\.\d)\d+", r"\1", element.attrib[key])
                element.set(key, re.sub(r"\s*([A-Za-z])\s*", r"\1", number) if key == "d" else number)
        self._trees[name] = root
        return root

    def svg(self, name: str) -> str:
        """A file of its own, with title and white ground."""
        text = ElementTree.tostring(self.tree(name), encoding="unicode")
        return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'

    def html(self, name: str) -> Markup:
        """`<figure>`: the title as text, then an `<svg>` a panel; colours are the page's variables."""
        root, (width, height) = self.tree(name), self.cell
        groups = {e.get("id"): e for e in root.iter() if e.get("id", "").startswith("panel-")}
        panels, clips = [], [e for e in root if e.find(f"{{{SVG}}}clipPath") is not None]
        for index, key in enumerate(self.axes):
            corner = f"{index % self.columns * CELL} {self.head + index // self.columns * height}"
            box = {"viewBox": f"{corner} {width} {height}", "role": "img"}
            panel = ElementTree.Element(f"{{{SVG}}}svg", box | {"aria-label": f"{self.title}: {clean(key)}"})
            panel.extend([*(clips if index == 0 else ()), groups[f"panel-{index}"]])
            panels.append(ElementTree.tostring(panel, encoding="unicode"))
        drawn = re.sub("#[0-9a-f]{6}", lambda hit: _variable(hit[0]), "\n".join(panels))
        caption = f"<b>{html.escape(self.title)}</b> {html.escape(self.subtitle)}"
        head = f'<figure class="chart" id="figure-{html.escape(name)}"><figcaption>{caption}</figcaption>'
        return Markup(f'{head}<div class="panels">{drawn}</div></figure>')


def tick(value: float, _: float = 0) -> str:
    """A number at an axis."""
    return short_number(float(value)).replace("-", "−")


def _variable(colour: str) -> str:
    return f"var(--c{colour[1:]})" if colour in THEME else colour


def clean(text: object) -> str:
    """`text` without characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", str(text))


def figure_files(charts: Mapping[str, Chart]) -> dict[str, str]:
    """Each as SVG, and its data as CSV: file name → text."""
    files: dict[str, str] = {}
    for name, chart in charts.items():
        files |= {f"{name}.svg": chart.svg(name), f"{name}.csv": chart.data.to_csv(index=False)}
    return files


def shorten(name: str, letters: int = LABEL) -> str:
    """A name that fits beside a panel."""
    return clean(name if len(name) <= letters else f"{name[: letters - 1]}…")
