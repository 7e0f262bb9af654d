"""What is in use under data/, and what may go."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.cards import Clock, write_card
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import locked
from g2d_pipeline.registry.disk import References, Stored, is_busy, remove, stored, usage
from g2d_pipeline.stages import STAGES, PendingInputError, Plan
from tests.plans import make_missing, plan_of
from tests.test_resolve import configure

LAYERS = {
    "ingest": "02_intermediate/{d}/manifest-{fingerprint}",
    "featurize": "04_feature/{d}/features-{fingerprint}",
    "data_report": "08_reporting/{d}/data-{fingerprint}",
    "teachers": "06_models/{d}/teachers/{run}-{fingerprint}",
    "distill": "06_models/{d}/students/{run}-{fingerprint}",
    "evaluate": "08_reporting/{d}/{fingerprint}",
}
CACHE = Path(tempfile.gettempdir()) / f"g2d-test-disk-{os.getpid()}.json"  # of the package's code


def plan(data: Path, **overrides: Any) -> Plan:
    """Over pretended artefacts, as the catalog lays them out."""
    made = plan_of(configure(seeds=[0], **overrides), data, cache=CACHE)
    made.folders = {stage: str(data / path.replace("{d}", "av_digits")) for stage, path in LAYERS.items()}
    make_missing(made)
    return made


def folders(made: Plan) -> set[Path]:
    return {made.folder(stage, run) for stage in STAGES for run in made.runs(stage)}


def used_by(made: Plan) -> References:
    return References(folders=dict.fromkeys(folders(made), "the configuration"))


def unused(data: Path, references: References, studies: tuple[str, ...] = ()) -> set[Path]:
    return {one.folder for one in stored(data, references, studies) if not one.reason}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_what_only_another_configuration_used_may_go(data: Path) -> None:
    now, before = plan(data), plan(data, epochs=77)
    assert len(folders(before) - folders(now)) == 5  # teachers, students and a report
    assert unused(data, used_by(now)) == folders(before) - folders(now)
    for one in stored(data, used_by(now), ()):
        if not one.reason:
            assert remove(one)
    assert all(folder.is_dir() for folder in folders(now))
    assert not any(folder.exists() for folder in folders(before) - folders(now))
    assert not list(data.rglob("*.old"))


def test_a_version_keeps_what_it_was_made_from(data: Path, tmp_path: Path) -> None:
    now, before = plan(data), plan(data, epochs=77)
    student = before.folder("distill", "g2d/seed0")
    (tmp_path / "lineage.json").write_text(
        json.dumps({"contents": {"student": before.card("distill", "g2d/seed0")["fingerprint"]}})
    )
    references = used_by(now)
    references.add_version("av_digits", "version 1", tmp_path)
    left = unused(data, references)
    assert left == {before.folder("distill", "joint/seed0"), before.folder("evaluate")}
    assert student not in left
    (tmp_path / "lineage.json").write_text("[")
    references = used_by(now)
    references.add_version("av_digits", "version 1", tmp_path)
    assert unused(data, references) == set()


def test_pins_studies_and_what_is_unknown_are_kept(data: Path) -> None:
    now, before = plan(data), plan(data, epochs=77)
    report, joint = before.folder("evaluate"), before.folder("distill", "joint/seed0")
    (joint / "keep").touch()
    assert joint not in unused(data, used_by(now))
    (joint / "keep").unlink()
    study = data / "08_reporting/studies/mine-123"
    study.mkdir(parents=True)
    fingerprint = before.fingerprint("distill", "joint/seed0")
    card = {
        "stage": "study",
        "study": "mine",
        "inputs": [["av_digits", "", "distill", "joint/seed0", fingerprint]],
    }
    write_card(study, card | {"fingerprint": "123"}, Clock.start(), "")
    assert {study, joint} <= unused(data, used_by(now))
    assert not {study, joint} & unused(data, used_by(now), ("mine",))
    references = used_by(now)
    references.unknown["av_digits", "evaluate"] = "its input is not made yet"
    assert report not in unused(data, references)
    assert joint not in unused(data, references)  # which the report is made from


def test_nothing_else_is_ever_listed(data: Path, tmp_path: Path) -> None:
    outside = plan(tmp_path / "other").folder("evaluate")
    plan(data)
    (data / "08_reporting/link").symlink_to(outside)
    (data / "08_reporting/mine").mkdir()
    (data / "08_reporting/mine/table.csv").write_text("a")
    (data / "01_raw/d").mkdir(parents=True)
    write_card(data / "01_raw/d", {"stage": "ingest", "fingerprint": "1"}, Clock.start(), "")
    listed = unused(data, References())
    assert listed
    assert not any({"01_raw", "mine", "link"} & {*f.parts} or not f.is_relative_to(data) for f in listed)


def test_leftovers_go_after_a_day_and_those_that_are_resumed_stay(data: Path) -> None:
    now, layer = plan(data), data / "06_models/av_digits/students"
    current = now.folder("distill", "g2d/seed0")
    names = ["a.partial", "a.old", ".unfinished-x", f"{current.relative_to(layer)}.partial", "young.partial"]
    old = time.time() - 2 * 86400
    for name in names:
        (layer / name).mkdir(parents=True)
        (layer / name / "file").write_text("x")
        if name != "young.partial":
            for path in (layer / name / "file", layer / name):
                os.utime(path, (old, old))
    assert unused(data, used_by(now)) == {layer / name for name in names[:3]}


def test_what_is_kept_or_being_made_is_not_removed(data: Path) -> None:
    made = plan(data)
    with pytest.raises(DataError, match="is kept: the configuration"):
        remove(stored(data, used_by(made), ())[0])
    folder = made.folder("evaluate")
    with locked(folder):
        assert not remove(Stored(folder, {"stage": "evaluate"}, 0))
        assert is_busy(data, "av_digits")
    assert folder.is_dir()
    assert not is_busy(data, "av_digits")


def test_usage_counts_bytes(data: Path) -> None:
    (data / "01_raw/d").mkdir(parents=True)
    (data / "01_raw/d/x").write_bytes(b"12345")
    assert list(usage(data)) == [("01_raw", "d", 5)]


def test_an_input_that_is_not_made_leaves_what_is_current_open(data: Path) -> None:
    """What `clean` relies on to keep all of such a stage."""
    now = plan(data)
    (now.folder("featurize") / "stage.json").unlink()
    now.refresh()
    with pytest.raises(PendingInputError):
        now.folder("distill", "g2d/seed0")
