"""Every figure shows every modality in its own colour, says what is a sample, and marks the phases."""

from __future__ import annotations

import itertools

import plotly.graph_objects as go
import pytest

from g2d_pipeline.evaluation import (
    collect_metrics,
    confidence_curves,
    history_frame,
    kappa_curves,
    metric_curves,
    summarise,
    summary_bars,
)
from g2d_pipeline.evaluation.plots import LETTER, PANEL_WIDTH, part_colours
from g2d_pipeline.html import INK

THREE = ("audio", "image", "text")
ALL_FIGURES = ["summary_bars", "metric_curves", "loss_curves", "confidence_curves", "kappa_curves"]


def traces(figure: go.Figure, name: str) -> list[dict]:
    return [trace.to_plotly_json() for trace in figure.data if trace.name == name]


def colour_of(trace: dict) -> str:
    return trace["marker"]["color"] if trace["type"] == "bar" else trace["line"]["color"]


@pytest.mark.parametrize("modalities", [THREE[:2], THREE], ids=["k=2", "k=3"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_modality_in_every_figure_in_one_colour(evaluated, modalities, task: str):
    figures = evaluated(modalities, task=task).figures
    assert list(figures) == ALL_FIGURES
    colours = part_colours(modalities)
    assert len(set(colours.values())) == len(modalities) + 1
    for name, figure in figures.items():
        for m in modalities:
            matches = traces(figure, f"teacher {m}" if name == "loss_curves" else m)
            assert matches, (name, m)
            assert {colour_of(trace) for trace in matches} == {colours[m]}
    assert {colour_of(trace) for trace in traces(figures["metric_curves"], "multi")} == {INK}


@pytest.mark.parametrize("source", ["raw", "sample"])
def test_titles_begin_with_sample_iff_it_is_one(evaluated, source: str):
    for figure in evaluated(source=source).figures.values():
        assert figure.layout.title.text.startswith("SAMPLE · ") == (source == "sample")
        assert "made_up" in figure.layout.title.text


def test_axes_are_named_with_units(evaluated):
    bars = evaluated(task="regression").figures["metric_curves"]
    assert bars.layout.yaxis.title.text == "RMSE (m³/m³)"
    assert bars.layout.xaxis.title.text == "epoch"
    assert evaluated().figures["metric_curves"].layout.yaxis.title.text == "Accuracy (%)"


def test_curves_are_means_over_seeds_in_percent(make_study):
    history = history_frame(make_study().runs)
    figure = metric_curves(history, metric="accuracy", modalities=THREE[:2], dataset="d", source="raw")
    g2d = history[history["method"] == "g2d"]
    solid = [t for t in traces(figure, "multi") if t["line"]["dash"] == "solid"][-1]
    assert list(solid["y"]) == pytest.approx(list(100 * g2d.groupby("epoch")["val/multi"].mean()))
    dotted = [t for t in traces(figure, "multi") if t["line"]["dash"] == "dot"][-1]
    assert list(dotted["y"]) == pytest.approx(list(100 * g2d.groupby("epoch")["test/multi"].mean()))
    bands = [t for t in figure.data if t.fill == "toself"]
    assert len(bands) == 2 + 2 * 3  # two teachers, two methods of three parts; validation only


def test_one_seed_has_no_band_and_no_error_bars(evaluated):
    figures = evaluated(seeds=(0,)).figures
    assert not [t for t in figures["metric_curves"].data if t.fill]
    assert not any(t.error_y.visible for t in figures["summary_bars"].data)
    assert "1 seed" in figures["summary_bars"].layout.title.subtitle.text


def test_phase_changes_are_marked_where_they_happen(evaluated):
    figure = evaluated(THREE, methods=("g2d",), epochs=40).figures["kappa_curves"]
    assert [shape.x0 for shape in figure.layout.shapes] == [10.5, 20.5]
    notes = [note.text for note in figure.layout.annotations]
    assert notes == ["<b>g2d</b>", "audio", "image", "all"]


def test_a_phase_in_which_seeds_learn_different_modalities_goes_by_its_number(make_study):
    study = make_study(methods=("g2d",))
    study.runs[-1].history["learning"] = study.runs[-1].history["learning"].replace("audio", "image")
    notes = [note.text for note in study.evaluate().figures["kappa_curves"].layout.annotations]
    assert notes == ["<b>g2d</b>", "phase 1", "all"]


def test_methods_without_suppression_are_left_out_of_kappa_unless_there_are_no_others(make_study):
    for methods, panels in ((("joint", "g2d"), ["<b>g2d</b>"]), (("joint",), ["<b>joint</b>"])):
        study = make_study(methods=methods)
        figure = kappa_curves(history_frame(study.runs), modalities=THREE[:2], dataset="d", source="raw")
        assert [n.text for n in figure.layout.annotations if n.text.startswith("<b>")] == panels


def test_without_students_there_is_nothing_to_draw_of_theirs(make_study):
    study = make_study(("audio",), methods=(), seeds=(0,))
    assert list(study.evaluate().figures) == ALL_FIGURES[:3]
    with pytest.raises(ValueError, match="confidence/<modality>"):
        confidence_curves(history_frame(study.runs), modalities=["audio"], dataset="d", source="raw")


def test_bars_show_percent_and_another_metric_on_request(make_study):
    summary = summarise(collect_metrics(make_study().runs, "d", "raw"))
    common = {"modalities": THREE[:2], "dataset": "d", "source": "raw"}
    own = summary[(summary["metric"] == "accuracy") & (summary["part"] == "multi")]
    bar = traces(summary_bars(summary, **common), "multi")[0]
    assert list(bar["y"]) == pytest.approx(list(100 * own["mean"]))
    assert list(bar["error_y"]["array"]) == pytest.approx(list(100 * own["std"]))
    assert (
        summary_bars(summary, **common, metric="nll").layout.yaxis.title.text
        == "Negative log-likelihood (nats)"
    )


def test_markup_in_a_name_is_shown_as_it_is(evaluated):
    figures = evaluated(("<b>loud</b>", "image")).figures
    assert traces(figures["metric_curves"], "&lt;b&gt;loud&lt;/b&gt;")


@pytest.mark.parametrize("epochs", [4, 8, 40])
@pytest.mark.parametrize("methods", [("g2d",), ("joint", "g2d")])
def test_labels_of_phases_do_not_overlap(evaluated, methods, epochs: int):
    """Two labels of a panel stand in different rows, or start further apart than the first is long."""
    figure = evaluated(("weather_station", "image", "text"), methods=methods, epochs=epochs).figures[
        "metric_curves"
    ]
    notes = [n for n in figure.layout.annotations if not n.text.startswith("<b>")]
    assert notes
    for panel in {n.xref for n in notes}:
        own = [n for n in notes if n.xref == panel]
        pixels = PANEL_WIDTH / len({t.xaxis for t in figure.data}) / (epochs - 1)
        for a, b in itertools.combinations(own, 2):
            assert a.yshift != b.yshift or abs(b.x - a.x) * pixels >= LETTER * len(a.text)
        heading = next(n for n in figure.layout.annotations if n.text == "<b>g2d</b>")
        assert heading.yshift >= max(n.yshift for n in own) + 15
