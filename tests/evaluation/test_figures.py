"""Every figure shows every modality in its own colour, says what is a sample, and marks the phases."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from g2d_pipeline.charts import CELL, LETTER, STYLE, SVG, Chart, figure_files
from g2d_pipeline.evaluation import (
    FRAMES,
    Frames,
    collect_metrics,
    evaluate,
    history_frame,
    make_figures,
    summarise,
)
from g2d_pipeline.evaluation.figures import FIGURES, confidence_curves, kappa_curves, metric_curves, results
from g2d_pipeline.html import INK, THEME

THREE = ("audio", "image", "text")
OF_STUDENTS = ["confidence_curves", "alignment_curves", "kappa_curves", "gradient_norms"]
ALL_FIGURES = ["results", "metric_curves", *OF_STUDENTS, "loss_curves"]


def frames_of(study, modalities=THREE[:2], **changes) -> Frames:
    """The frames without analyses, which take most of the time."""
    meta, info = study.meta, study.runs[-1].info
    summary = summarise(collect_metrics(study.runs, meta["dataset"], meta["source"]))
    frames = Frames(
        meta["dataset"],
        meta["source"],
        modalities,
        info["metric"],
        history_frame(study.runs),
        summary,
        unit=meta["target_unit"],
    )
    return replace(frames, **changes)


@pytest.fixture
def figures(make_study) -> Callable[..., dict[str, Chart]]:
    """The figures of a fabricated study."""
    return lambda modalities=THREE[:2], **of: make_figures(
        frames_of(make_study(modalities, **of), modalities)
    )


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
def test_every_modality_in_every_figure_in_one_colour(figures, modalities, task: str):
    drawn = figures(modalities, task=task)
    assert list(drawn) == ALL_FIGURES
    expected = Frames("d", "raw", modalities, "", pd.DataFrame(), pd.DataFrame()).colours
    assert len(set(expected.values())) == len(modalities) + 1
    assert expected["multi"] == INK
    for name in ("results", "metric_curves", "confidence_curves"):
        found = colours(drawn[name], modalities)
        assert found == {m: {expected[m]} for m in modalities}, name
    for figure in drawn.values():
        assert set(modalities) <= set(figure.data["series"])


@pytest.mark.parametrize("source", ["raw", "sample"])
def test_titles_begin_with_sample_iff_it_is_one(figures, source: str):
    for name, figure in figures(source=source, seeds=(0,)).items():
        words = " ".join(e.text for e in figure.tree(name).iter(f"{{{SVG}}}text"))
        for text in (figure.title, words):
            assert ("SAMPLE · " in text) == (source == "sample")
            assert "made_up" in text
        assert figure.title.startswith("SAMPLE · ") == (source == "sample")


def test_axes_are_named_with_units(figures):
    axes = figures(task="regression")["metric_curves"].axes["joint"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("RMSE (m³/m³)", "epoch")
    drawn = figures()
    assert drawn["metric_curves"].axes["joint"].get_ylabel() == "Accuracy (%)"
    assert drawn["results"].axes["multi"].get_xlabel() == "Accuracy (%)"


def test_curves_are_means_over_seeds_in_percent(make_study):
    frames = frames_of(make_study())
    figure, g2d = metric_curves(frames), frames.history[frames.history["method"] == "g2d"]
    for split, dash in (("val", "solid"), ("test", "dotted")):
        own, values = series(figure, "multi", "g2d", line=dash), g2d.groupby("epoch")[f"{split}/multi"]
        assert list(own["mean"]) == pytest.approx(list(100 * values.mean()))
        assert list(own["std"]) == pytest.approx(list(100 * values.std()))
    bands = [len(axes.collections) for axes in figure.axes.values()]
    assert bands == [2, 3, 3]  # two teachers, two methods of three parts; validation only


def test_one_seed_has_no_band_and_no_error_bars(figures):
    drawn = figures(seeds=(0,))
    assert not any(axes.collections for axes in drawn["metric_curves"].axes.values())
    assert drawn["results"].data[["low", "high"]].isna().all(axis=None)
    assert "1 seed" in drawn["results"].subtitle


def test_phase_changes_are_marked_where_they_happen(figures):
    figure = figures(THREE, methods=("g2d",), epochs=40)["kappa_curves"]
    lines = [line for line in figure.axes["g2d"].lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in lines] == [10.5, 20.5]
    assert notes(figure, "g2d") == ["g2d", "audio", "image", "all"]


def test_a_phase_in_which_seeds_learn_different_modalities_goes_by_its_number(make_study):
    study = make_study(methods=("g2d",))
    study.runs[-1].history["learning"] = study.runs[-1].history["learning"].replace("audio", "image")
    assert notes(kappa_curves(frames_of(study)), "g2d") == ["g2d", "phase 1", "all"]


def test_methods_without_suppression_are_left_out_of_kappa_unless_there_are_no_others(make_study):
    for methods, panels in ((("joint", "g2d"), ["g2d"]), (("joint",), ["joint"])):
        assert list(kappa_curves(frames_of(make_study(methods=methods))).axes) == panels


def test_without_students_there_is_nothing_to_draw_of_theirs(make_study):
    study = make_study(("audio",), methods=(), seeds=(0,))
    assert list(make_figures(frames_of(study, ["audio"]))) == ["results", "metric_curves", "loss_curves"]
    assert confidence_curves(frames_of(study, ["audio"])) is None


def test_points_show_percent_and_another_metric_on_request(make_study):
    frames = frames_of(make_study())
    own = frames.summary[(frames.summary["metric"] == "accuracy") & (frames.summary["part"] == "multi")]
    drawn = series(results(frames), "multi", "multi")
    assert list(drawn["mean"]) == pytest.approx(list(100 * own["mean"]))
    assert list(drawn["high"] - drawn["mean"]) == pytest.approx(list(100 * own["std"]))
    axes = results(frames, "nll").axes["multi"]
    assert axes.get_xlabel() == "Negative log-likelihood (nats)"


def test_markup_formulas_and_control_characters_in_a_name_are_shown_as_they_are(figures):
    strange = "<b>$x_1$ \x07 & 名"
    figure = figures((strange, "image"))["metric_curves"]
    for text in (figure.svg("f"), figure.html("f")):
        root = ElementTree.fromstring(text)
        assert strange.replace("\x07", "�") in {e.text for e in root.iter(f"{{{SVG}}}text")}


@pytest.mark.parametrize("epochs", [4, 8, 40])
@pytest.mark.parametrize("methods", [("g2d",), ("joint", "g2d")])
def test_words_of_phases_do_not_overlap(figures, methods, epochs: int):
    """Two of a panel stand in different rows, or start further apart than the first is long."""
    drawn = figures(("weather_station", "image", "text"), methods=methods, epochs=epochs)
    heading, *words = [n for n in drawn["metric_curves"].axes["g2d"].texts if n.xy == (0, 1)]
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


def test_files_hold_every_figure_and_its_numbers(figures):
    drawn = figures(THREE)
    files = figure_files(drawn)
    assert sorted(files) == sorted(f"{name}.{end}" for name in ALL_FIGURES for end in ("csv", "svg"))
    for name, figure in drawn.items():
        svg = files[f"{name}.svg"]
        root = ElementTree.fromstring(svg)
        width = float(root.get("width").removesuffix("pt"))
        assert width == CELL * figure.columns
        assert not re.search(r"<script|href=\"(?!#)|url\((?!#)|<image|<metadata|\d{4}-\d\d-\d\d", svg)
        assert 'font-family="system-ui' in svg  # text stays text
        assert files[f"{name}.csv"].startswith(",".join(figure.data.columns))
        assert files[f"{name}.csv"].count("\n") == len(figure.data) + 1


def test_the_same_frames_give_the_same_bytes(figures):
    first, second = (figure_files(figures()) for _ in range(2))
    assert first == second


def test_a_page_has_the_panels_one_by_one_in_colours_of_its_theme(figures):
    figure = figures(THREE)["metric_curves"]
    page = figure.html("curves")
    assert page.count("<svg") == len(figure.axes) == 3
    hard = set(re.findall("#[0-9a-f]{6}", page))
    assert hard.isdisjoint(THEME)
    assert hard <= {STYLE["axes.edgecolor"]}
    references = set(re.findall(r"(?:url\(|href=\")#(\w+)", page))
    assert references <= set(re.findall(r'id="(\w+)"', page))


SUFFERING = [
    # modality, corruption, strength, label, value
    ("audio", "absent", 1.0, "absent", 0.4),
    ("audio", "noise", 20.0, "noise 20 dB SNR", 0.7),
    ("audio", "noise", 0.0, "noise 0 dB SNR", 0.5),
]


@pytest.fixture
def analysed(make_study) -> dict[str, Chart]:
    """The figures of an evaluation whose models were run again: joint and g2d, of two seeds."""
    study, labels = make_study(), [(method, seed) for method in ("joint", "g2d") for seed in (0, 1)]
    values = (("audio", -0.05), ("image", 0.55))
    columns = ["method", "seed", *FRAMES["robustness"]]
    rows = [(*of, *row[:4], "accuracy", row[4], row[4] / 0.8) for of in labels for row in SUFFERING]
    frames = {
        "robustness": pd.DataFrame(rows, columns=columns),
        "shapley": pd.DataFrame(
            [(*of, part, "accuracy", phi) for of in labels for part, phi in values],
            columns=["method", "seed", *FRAMES["shapley"]],
        ),
        "alpha_beta": pd.DataFrame(
            [("g2d", 0, a, b, "test", "accuracy", a + b) for a, b in ((0.1, 0.2), (0.1, 0.4), (0.3, 0.2))],
            columns=["method", "seed", *FRAMES["alpha_beta"]],
        ),
    }
    study.meta["class_names"][0] = "<i>none</i>"
    return evaluate(study.runs, study.meta, study.rankings, study.configuration, frames=frames).figures


def test_every_analysis_has_its_figure(analysed):
    assert list(analysed) == [draw.__name__ for draw in FIGURES]
    kept = series(analysed["absent_modalities"], "audio", "audio")
    assert list(kept["label"]) == ["joint", "g2d"]
    assert list(kept["mean"]) == pytest.approx([50, 50])
    noise = series(analysed["corruptions"], "g2d", "audio, noise")
    assert list(noise["mean"]) == pytest.approx([100, 87.5, 62.5])
    shapley = analysed["shapley_values"].data.set_index(["panel", "label"])["mean"]
    assert shapley["audio", "g2d"] + shapley["image", "g2d"] == pytest.approx(50)
    heat = analysed["alpha_beta"].data.set_index(["x", "y"])["value"]
    assert heat[0.1, 0.4] == pytest.approx(50)
    assert math.isnan(heat[0.3, 0.4])  # no such run
    confusion = analysed["confusion"].data
    assert confusion[confusion["panel"] == "g2d"].groupby("y")["value"].sum().to_numpy() == pytest.approx(100)
    levels = analysed["metric_curves"].data.query("line == 'level'")
    assert set(levels["series"]) == {"teacher audio", "teacher image"}
    for name, chart in analysed.items():
        assert ElementTree.fromstring(chart.svg(name)) is not None
        assert "<i>none" not in chart.html(name)


def test_comparisons_are_drawn_with_their_intervals(make_study):
    evaluation = make_study(task="regression").evaluate()
    own = evaluation.comparisons
    own = own[(own["metric"] == "rmse") & (own["split"] == "test") & (own["part"] == "multi")]
    drawn = evaluation.figures["comparisons"]
    assert set(drawn.axes) == set(own["against"])
    joint = series(drawn, "joint", "joint")
    expected = own[own["against"] == "joint"]
    for column, of in (("mean", "difference"), ("low", "low"), ("high", "high")):
        assert list(joint[column]) == pytest.approx(list(expected[of]))
    assert drawn.axes["joint"].get_xlabel() == "difference (m³/m³)"
