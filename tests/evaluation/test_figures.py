"""Every figure shows every modality in its own colour, says what is a sample, and marks the phases."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from g2d_pipeline.charts import CELL, LETTER, STYLE, SVG, Chart, figure_files
from g2d_pipeline.evaluation import Frames, collect_metrics, history_frame, make_figures, summarise
from g2d_pipeline.evaluation.figures import confidence_curves, kappa_curves, metric_curves, results
from g2d_pipeline.html import INK, THEME

THREE = ("audio", "image", "text")
ALL_FIGURES = ["results", "metric_curves", "loss_curves", "confidence_curves", "kappa_curves"]


def frames_of(study, modalities=THREE[:2], **changes) -> Frames:
    summary = summarise(collect_metrics(study.runs, "d", "raw"))
    frames = Frames("d", "raw", modalities, "accuracy", history_frame(study.runs), summary)
    return replace(frames, **changes)


def series(chart: Chart, name: str, panel: str, **columns: str) -> pd.DataFrame:
    """The rows of a curve in the chart's data."""
    data = chart.data
    for column, value in {"series": name, "panel": panel, **columns}.items():
        data = data[data[column] == value]
    return data


def colours(chart: Chart, names: tuple[str, ...]) -> dict[str, set[str]]:
    """Label beside a curve → the colours of the lines that end where it stands."""
    drawn: dict[str, set[str]] = {name: set() for name in names}
    for key, axes in chart.axes.items():
        for curve in itertools.chain(axes.lines, axes.collections):
            for name in names:
                rows = chart.data[(chart.data["series"] == name) & (chart.data["panel"] == key)]
                values = set(rows["mean"].dropna())
                if hasattr(curve, "get_ydata") and values & {*curve.get_ydata(), *curve.get_xdata()}:
                    drawn[name].add(to_hex(curve.get_color()))
    return drawn


def notes(chart: Chart, panel: str) -> list[str]:
    """The words above a panel: its heading, then who learns."""
    return [note.get_text() for note in chart.axes[panel].texts if note.xy == (0, 1)]


@pytest.mark.parametrize("modalities", [THREE[:2], THREE], ids=["k=2", "k=3"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_modality_in_every_figure_in_one_colour(evaluated, modalities, task: str):
    figures = evaluated(modalities, task=task).figures
    assert list(figures) == ALL_FIGURES
    expected = Frames("d", "raw", modalities, "", pd.DataFrame(), pd.DataFrame()).colours
    assert len(set(expected.values())) == len(modalities) + 1
    assert expected["multi"] == INK
    for name in ("results", "metric_curves", "confidence_curves"):
        found = colours(figures[name], modalities)
        assert found == {m: {expected[m]} for m in modalities}, name
    for figure in figures.values():
        assert set(modalities) <= set(figure.data["series"])


@pytest.mark.parametrize("source", ["raw", "sample"])
def test_titles_begin_with_sample_iff_it_is_one(evaluated, source: str):
    for name, figure in evaluated(source=source).figures.items():
        words = " ".join(e.text for e in figure.tree(name).iter(f"{{{SVG}}}text"))
        for text in (figure.title, words):
            assert ("SAMPLE · " in text) == (source == "sample")
            assert "made_up" in text
        assert figure.title.startswith("SAMPLE · ") == (source == "sample")


def test_axes_are_named_with_units(evaluated):
    axes = evaluated(task="regression").figures["metric_curves"].axes["joint"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("RMSE (m³/m³)", "epoch")
    assert evaluated().figures["metric_curves"].axes["joint"].get_ylabel() == "Accuracy (%)"
    assert evaluated().figures["results"].axes["multi"].get_xlabel() == "Accuracy (%)"


def test_curves_are_means_over_seeds_in_percent(make_study):
    frames = frames_of(make_study())
    figure, g2d = metric_curves(frames), frames.history[frames.history["method"] == "g2d"]
    for split, dash in (("val", "solid"), ("test", "dotted")):
        own, values = series(figure, "multi", "g2d", line=dash), g2d.groupby("epoch")[f"{split}/multi"]
        assert list(own["mean"]) == pytest.approx(list(100 * values.mean()))
        assert list(own["std"]) == pytest.approx(list(100 * values.std()))
    bands = [len(axes.collections) for axes in figure.axes.values()]
    assert bands == [2, 3, 3]  # two teachers, two methods of three parts; validation only


def test_one_seed_has_no_band_and_no_error_bars(evaluated):
    figures = evaluated(seeds=(0,)).figures
    assert not any(axes.collections for axes in figures["metric_curves"].axes.values())
    assert figures["results"].data[["low", "high"]].isna().all(axis=None)
    assert "1 seed" in figures["results"].subtitle


def test_phase_changes_are_marked_where_they_happen(evaluated):
    figure = evaluated(THREE, methods=("g2d",), epochs=40).figures["kappa_curves"]
    lines = [line for line in figure.axes["g2d"].lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in lines] == [10.5, 20.5]
    assert notes(figure, "g2d") == ["g2d", "audio", "image", "all"]


def test_a_phase_in_which_seeds_learn_different_modalities_goes_by_its_number(make_study):
    study = make_study(methods=("g2d",))
    study.runs[-1].history["learning"] = study.runs[-1].history["learning"].replace("audio", "image")
    assert notes(study.evaluate().figures["kappa_curves"], "g2d") == ["g2d", "phase 1", "all"]


def test_methods_without_suppression_are_left_out_of_kappa_unless_there_are_no_others(make_study):
    for methods, panels in ((("joint", "g2d"), ["g2d"]), (("joint",), ["joint"])):
        assert list(kappa_curves(frames_of(make_study(methods=methods))).axes) == panels


def test_without_students_there_is_nothing_to_draw_of_theirs(make_study):
    study = make_study(("audio",), methods=(), seeds=(0,))
    assert list(study.evaluate().figures) == ALL_FIGURES[:3]
    assert confidence_curves(frames_of(study, ["audio"])) is None


def test_points_show_percent_and_another_metric_on_request(make_study):
    frames = frames_of(make_study())
    own = frames.summary[(frames.summary["metric"] == "accuracy") & (frames.summary["part"] == "multi")]
    drawn = series(results(frames), "multi", "multi")
    assert list(drawn["mean"]) == pytest.approx(list(100 * own["mean"]))
    assert list(drawn["high"] - drawn["mean"]) == pytest.approx(list(100 * own["std"]))
    axes = results(frames, "nll").axes["multi"]
    assert axes.get_xlabel() == "Negative log-likelihood (nats)"


def test_markup_formulas_and_control_characters_in_a_name_are_shown_as_they_are(evaluated):
    strange = "<b>$x_1$ \x07 & 名"
    figure = evaluated((strange, "image")).figures["metric_curves"]
    for text in (figure.svg("f"), figure.html("f")):
        root = ElementTree.fromstring(text)
        assert strange.replace("\x07", "�") in {e.text for e in root.iter(f"{{{SVG}}}text")}


@pytest.mark.parametrize("epochs", [4, 8, 40])
@pytest.mark.parametrize("methods", [("g2d",), ("joint", "g2d")])
def test_words_of_phases_do_not_overlap(evaluated, methods, epochs: int):
    """Two of a panel stand in different rows, or start further apart than the first is long."""
    figures = evaluated(("weather_station", "image", "text"), methods=methods, epochs=epochs).figures
    heading, *words = [n for n in figures["metric_curves"].axes["g2d"].texts if n.xy == (0, 1)]
    assert words
    for a, b in itertools.combinations(words, 2):
        (a_x, a_y), (b_x, b_y) = a.xyann, b.xyann
        assert a_y != b_y or abs(b_x - a_x) >= LETTER * len(a.get_text())
    assert heading.xyann[1] >= max(word.xyann[1] for word in words) + 14


def test_names_beside_curves_do_not_overlap(make_study):
    """All curves end at the same value."""
    study = make_study(THREE)
    for run in study.runs:
        run.history[[c for c in run.history if c.startswith("val/")]] = 0.5
    chart = make_figures(frames_of(study, THREE))["metric_curves"]
    root = chart.tree("f")
    beside = [
        e for e in root.iter(f"{{{SVG}}}text") if e.text in ("multi", *THREE) and "bold" not in str(e.attrib)
    ]
    places = sorted((round(float(e.get("x"))), float(e.get("y"))) for e in beside)
    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        assert next_x != x or next_y - y >= 11.5


def test_files_hold_every_figure_and_its_numbers(evaluated):
    figures = evaluated(THREE).figures
    files = figure_files(figures)
    assert sorted(files) == sorted(f"{name}.{end}" for name in ALL_FIGURES for end in ("csv", "svg"))
    for name, figure in figures.items():
        svg = files[f"{name}.svg"]
        root = ElementTree.fromstring(svg)
        width = float(root.get("width").removesuffix("pt"))
        assert width == CELL * figure.columns
        assert not re.search(r"<script|href=\"(?!#)|url\((?!#)|<image|<metadata|\d{4}-\d\d-\d\d", svg)
        assert 'font-family="system-ui' in svg  # text stays text
        assert files[f"{name}.csv"].startswith(",".join(figure.data.columns))
        assert files[f"{name}.csv"].count("\n") == len(figure.data) + 1


def test_the_same_frames_give_the_same_bytes(make_study):
    first, second = (figure_files(make_study().evaluate().figures) for _ in range(2))
    assert first == second


def test_a_page_has_the_panels_one_by_one_in_colours_of_its_theme(evaluated):
    figure = evaluated(THREE).figures["metric_curves"]
    page = figure.html("curves")
    assert page.count("<svg") == len(figure.axes) == 3
    hard = set(re.findall("#[0-9a-f]{6}", page))
    assert hard.isdisjoint(THEME)
    assert hard <= {STYLE["axes.edgecolor"]}
    references = set(re.findall(r"(?:url\(|href=\")#(\w+)", page))
    assert references <= set(re.findall(r'id="(\w+)"', page))
