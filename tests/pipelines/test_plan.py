"""Fingerprints: what a change reruns, and what it does not (design.md §4)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline import stages
from g2d_pipeline.errors import DataError
from g2d_pipeline.stages import Clock, Plan, is_fresh, make_plan, read_card, require_fresh, whole_folder
from tests.test_resolve import configure

ALL = {"ingest", "featurize", "data_report", "teachers", "distill", "evaluate"}


def plan(
    raw: str = "raw", package: Path = stages.PACKAGE, change: dict[str, Any] | None = None, **overrides: Any
) -> Plan:
    return make_plan(configure(change, **overrides), raw, package)


def changed(a: Plan, b: Plan) -> set[str]:
    """The stages of which some cell has another fingerprint."""

    def of(plan: Plan, stage: str) -> dict[str, str]:
        return {cell: str(card["fingerprint"]) for cell, card in plan.cards[stage].items()}

    return {stage for stage in ALL if of(a, stage) != of(b, stage)}


BASE = plan()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, set()),
        ({"alpha": 0.5}, {"distill", "evaluate"}),
        ({"tau": "8/12"}, {"distill", "evaluate"}),
        ({"fusion": "concat"}, {"distill", "evaluate"}),
        ({"n_fft": 512}, ALL - {"ingest"}),
        ({"epochs": 21}, {"teachers", "distill", "evaluate"}),
        ({"teacher": {"epochs": 3}}, {"teachers", "distill", "evaluate"}),
        ({"max_bad_fraction": 0.1}, ALL),
        ({"raw": {"seed": 1}}, ALL),
        ({"workers": 1, "progress": False, "device": "cpu", "debug": True}, set()),
    ],
)
def test_a_parameter_reruns_its_stage_and_those_right_of_it(
    overrides: dict[str, Any], expected: set[str]
) -> None:
    assert changed(BASE, plan(**overrides)) == expected


def test_another_alpha_leaves_the_baseline_fresh() -> None:
    other = plan(alpha=0.5)
    same = {
        c for c, of in BASE.cards["distill"].items() if of["fingerprint"] == other.fingerprint("distill", c)
    }
    assert same == {"joint/seed0", "joint/seed1", "joint/seed2"}


def test_more_seeds_leave_the_cells_of_the_others_fresh() -> None:
    more = plan(seeds="0/1/2/3")
    assert all(more.fingerprint("distill", c) == of["fingerprint"] for c, of in BASE.cards["distill"].items())


def test_a_raw_file_reruns_everything() -> None:
    assert changed(BASE, plan(raw="other")) == ALL


def test_going_back_gives_the_same_fingerprints() -> None:
    assert changed(BASE, plan()) == set()
    assert plan().cards == BASE.cards


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("sources/av_digits.py", ALL),
        ("features/kinds/audio.py", ALL - {"ingest"}),
        ("models/fusions/late.py", {"teachers", "distill", "evaluate"}),
        ("models/fusions/film.py", {"distill", "evaluate"}),
        ("methods/_heads.py", {"distill", "evaluate"}),
        ("training/smp.py", {"teachers", "distill", "evaluate"}),
        ("methods/unimodal.py", {"teachers", "distill", "evaluate"}),
        ("methods/g2d.py", {"distill", "evaluate"}),
        ("evaluation/metrics.py", {"evaluate"}),
        ("data_report/report.py", {"data_report", "evaluate"}),
        ("pipelines/distill/nodes.py", {"distill", "evaluate"}),
        ("cli.py", set()),
    ],
)
def test_a_source_file_reruns_its_stage_and_those_right_of_it(
    tmp_path: Path, file: str, expected: set[str]
) -> None:
    package = tmp_path / "g2d_pipeline"
    shutil.copytree(stages.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert changed(BASE, plan(package=package)) == set()
    (package / file).write_text((package / file).read_text() + "\n# changed\n")
    assert changed(BASE, plan(package=package)) == expected


def test_a_method_file_reruns_its_own_students_only(tmp_path: Path) -> None:
    package = tmp_path / "g2d_pipeline"
    shutil.copytree(stages.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "methods/joint.py").write_text((package / "methods/joint.py").read_text() + "\n# changed\n")
    other = plan(package=package)
    assert other.fingerprint("distill", "g2d/seed0") == BASE.fingerprint("distill", "g2d/seed0")
    assert other.fingerprint("distill", "joint/seed0") != BASE.fingerprint("distill", "joint/seed0")


def test_every_source_pattern_matches_files() -> None:
    for patterns in stages.SOURCES.values():
        for pattern in patterns:
            assert list(stages.PACKAGE.glob(pattern)), pattern


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder, card = tmp_path / "artefact", {"stage": "ingest", "fingerprint": "abc"}

    def killed() -> None:
        with whole_folder(folder, card, Clock.start()) as partial:
            (partial / "half").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert not folder.exists()
    with whole_folder(folder, card, Clock.start()) as partial:
        assert not (partial / "half").exists()
        (partial / "whole").write_text("whole")
    assert is_fresh(folder, "abc")
    found = read_card(folder)
    assert found is not None
    assert {"wall_seconds", "cpu_seconds", "versions", "fingerprint"} <= set(found)
    with whole_folder(folder, card | {"fingerprint": "def"}, Clock.start()) as partial:
        (partial / "new").write_text("new")
    assert is_fresh(folder, "def")
    assert sorted(f.name for f in folder.iterdir()) == ["new", "stage.json"]
    assert [f.name for f in tmp_path.iterdir()] == ["artefact"]


def test_a_writer_that_can_go_on_finds_what_the_killed_run_left(tmp_path: Path) -> None:
    folder, card = tmp_path / "artefact", {"stage": "featurize", "fingerprint": "abc"}

    def killed() -> None:
        with whole_folder(folder, card, Clock.start(), keep_partial=True) as partial:
            (partial / "chunk").write_text("chunk")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    with whole_folder(folder, card, Clock.start(), keep_partial=True) as partial:
        assert (partial / "chunk").read_text() == "chunk"


def test_a_stale_or_torn_artefact_is_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    with whole_folder(folder, {"stage": "ingest", "fingerprint": "abc"}, Clock.start()):
        pass
    with pytest.raises(DataError, match="does not hold the artefact xyz"):
        require_fresh(folder, "xyz", "ingest")
    (folder / "stage.json").write_text('{"fingerprint": "ab')
    assert not is_fresh(folder, "abc")
