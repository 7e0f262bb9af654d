"""Fingerprints: what a change reruns, and what it does not (design.md §4)."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.cards import Clock, is_fresh, read_card, require_fresh, whole_folder
from g2d_pipeline.errors import DataError
from g2d_pipeline.stages import PACKAGE, STAGES, PendingInputError, Plan
from tests.plans import make_missing, plan_of
from tests.test_resolve import configure

ALL = set(STAGES)
RIGHT_OF_FEATURIZE = ALL - {"ingest"}
TRAINED = {"teachers", "distill", "evaluate"}


class Project:
    """Plans over the artefacts of a folder, and a package of code."""

    cache: Path | None = None

    def __init__(self, folder: Path, package: Path = PACKAGE) -> None:
        self.folder, self.package = folder, package

    def plan(self, raw: str = "raw", change: dict[str, Any] | None = None, **overrides: Any) -> Plan:
        return plan_of(configure(change, **overrides), self.folder, raw, self.package, self.cache)

    def make(self, same: tuple[str, ...] = (), **overrides: Any) -> set[str]:
        return make_missing(self.plan(**overrides), same)


@pytest.fixture(scope="module", autouse=True)
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    Project.cache = tmp_path_factory.mktemp("code") / "graph.json"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "data")
    assert made.make() == ALL
    return made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    return Path(
        shutil.copytree(PACKAGE, tmp_path / "g2d_pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, set()),
        ({"alpha": 0.5}, {"distill", "evaluate"}),
        ({"tau": "8/12"}, {"distill", "evaluate"}),
        ({"fusion": "concat"}, {"distill", "evaluate"}),
        ({"n_fft": 512}, RIGHT_OF_FEATURIZE),
        ({"epochs": 21}, TRAINED),
        ({"teacher": {"epochs": 3}}, TRAINED),
        ({"max_bad_fraction": 0.1}, ALL),
        ({"raw": {"seed": 1}}, ALL),
        ({"workers": 1, "progress": False, "device": "cpu", "debug": True}, set()),
    ],
)
def test_a_parameter_reruns_its_stage_and_those_right_of_it(
    project: Project, overrides: dict[str, Any], expected: set[str]
) -> None:
    assert project.make(**overrides) == expected


def test_a_raw_file_reruns_everything_and_going_back_nothing(project: Project) -> None:
    assert project.make(raw="other") == ALL
    assert project.make() == set()


def test_a_file_with_other_content_is_decoded_anew_though_the_manifest_is_the_same(project: Project) -> None:
    made = {"ingest", "featurize", "data_report"}
    assert project.make(raw="a", same=("ingest", "featurize")) == ALL
    assert project.make(raw="b", same=("ingest", "featurize")) >= made


def test_another_alpha_leaves_the_baseline_fresh(project: Project) -> None:
    plan = project.plan(alpha=0.5)
    fresh = {run for run in plan.runs("distill") if plan.is_fresh("distill", run)}
    assert fresh == {"joint/seed0", "joint/seed1", "joint/seed2"}


def test_more_seeds_leave_the_runs_of_the_others_fresh(project: Project) -> None:
    plan = project.plan(seeds="0/1/2/3")
    stale = {run for run in plan.runs("teachers") if not plan.is_fresh("teachers", run)}
    assert stale == {"audio/seed3", "image/seed3"}


HOUSES = {"dataset": "houses", "source": "raw", "method": "joint", "seeds": "0/1"}
FOLDS = HOUSES | {"split": {"folds": 3, "test": None}}


def test_each_fold_has_a_manifest_a_store_and_runs_of_its_own(tmp_path: Path) -> None:
    project = Project(tmp_path / "data")
    assert project.make(**FOLDS) == ALL
    plan = project.plan(**FOLDS)
    assert plan.runs("ingest") == plan.runs("featurize") == ["fold1", "fold2", "fold3"]
    assert plan.runs("distill") == [f"joint/fold{f}/seed{s}" for s in (0, 1) for f in (1, 2, 3)]
    assert (
        plan.card("distill", "joint/fold2/seed1")["inputs"]["features"]
        == plan.card("featurize", "fold2")["fingerprint"]
    )  # a pretended artefact's content
    assert plan.others("featurize", "fold2") != plan.others("featurize", "fold3")
    assert plan.folder("featurize", "fold1") in plan.others("featurize", "fold2")
    assert {"manifest/fold1", "features/fold3"} <= set(plan.card("data_report")["inputs"])
    one = project.plan(**FOLDS | {"split": {"folds": 3, "fold": 2, "test": None}})
    assert all(one.is_fresh(stage, run) for stage in ("ingest", "distill") for run in one.runs(stage))
    assert not one.is_fresh("evaluate")


def test_another_seed_of_splits_drawn_for_each_leaves_the_others_fresh(tmp_path: Path) -> None:
    project = Project(tmp_path / "data")
    own = HOUSES | {"split": {"per_seed": True}}
    project.make(**own)
    plan = project.plan(**own | {"seeds": "0/1/2"})
    assert {r for r in plan.runs("ingest") if not plan.is_fresh("ingest", r)} == {"seed2"}
    assert {r for r in plan.runs("distill") if not plan.is_fresh("distill", r)} == {"joint/seed2"}


def test_what_depends_on_an_artefact_that_is_not_made_yet_has_no_fingerprint(tmp_path: Path) -> None:
    plan = Project(tmp_path).plan()
    assert plan.fingerprint("ingest")
    with pytest.raises(PendingInputError, match=r"ingest: .* is not made yet"):
        plan.fingerprint("featurize")
    assert not plan.is_fresh("evaluate")


# ------------------------------------------------------------------------------------------------------- code
def change(file: Path) -> None:
    """A statement that does nothing in every function of a file."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body.append(ast.Assert(ast.Constant(True)))
    file.write_text(ast.unparse(ast.fix_missing_locations(tree)))


def test_a_remark_anywhere_reruns_nothing(project: Project, package: Path) -> None:
    for file in package.rglob("*.py"):
        text = file.read_text()
        if text.startswith('"""'):
            text = f'"""Another docstring."""{text[text.index(chr(34) * 3, 3) + 3 :]}'
        file.write_text(f"{text}\n\n# a remark\n")
    assert Project(project.folder, package).make() == set()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("sources/digits/av_digits.py", ALL),
        ("sources/manifest.py", ALL),
        ("sources/ur_funny/__init__.py", set()),
        ("features/kinds/audio.py", RIGHT_OF_FEATURIZE),
        ("features/kinds/video.py", set()),
        ("models/fusions/late.py", TRAINED),
        ("models/fusions/film.py", set()),
        ("models/encoders/small_cnn.py", TRAINED),
        ("models/encoders/transformer.py", set()),
        ("training/smp.py", TRAINED),
        ("training/trainer.py", TRAINED),
        ("training/logs.py", set()),
        ("methods/ogm.py", set()),
        ("evaluation/metrics.py", {"evaluate"}),
        ("data_report/report.py", {"data_report", "evaluate"}),
        ("pipelines/distill.py", {"distill", "evaluate"}),
        ("progress.py", set()),
        ("cli/__init__.py", set()),
    ],
)
def test_changed_code_reruns_the_stages_that_use_it(
    project: Project, package: Path, file: str, expected: set[str]
) -> None:
    change(package / file)
    assert Project(project.folder, package).make() == expected


def test_a_template_counts_as_code_of_the_stage_that_fills_it(project: Project, package: Path) -> None:
    template = next((package / "evaluation").glob("report*.j2"))
    template.write_text(template.read_text() + "<!-- changed -->")
    assert Project(project.folder, package).make() == {"evaluate"}


def test_a_method_file_reruns_its_own_students_only(project: Project, package: Path) -> None:
    change(package / "methods/g2d.py")
    plan = Project(project.folder, package).plan()
    assert {r for r in plan.runs("distill") if not plan.is_fresh("distill", r)} == {
        "g2d/seed0", "g2d/seed1", "g2d/seed2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "expected"), [(("ingest",), {"ingest"}), (("ingest", "featurize"), {"ingest"}), ((), ALL)]
)
def test_what_made_the_same_content_again_leaves_the_rest_fresh(
    tmp_path: Path, package: Path, stages: tuple[str, ...], expected: set[str]
) -> None:
    project = Project(tmp_path / "data", package)
    project.make(same=stages)
    change(package / "pipelines/ingest.py")
    assert project.make(same=stages) == expected


def test_a_changed_file_is_read_again_even_if_the_manifest_stays_the_same(tmp_path: Path) -> None:
    project = Project(tmp_path / "data")
    project.make(same=("ingest",))
    assert project.make(same=("ingest",), raw="other") == ALL
    project = Project(tmp_path / "equal features")
    project.make(same=("ingest", "featurize", "data_report"))
    reread = {"ingest", "featurize", "data_report"}
    assert project.make(same=("ingest", "featurize", "data_report"), raw="other") == reread


def test_code_ignore_keeps_what_other_code_made_and_marks_what_it_makes(
    project: Project, package: Path
) -> None:
    change(package / "pipelines/teachers.py")
    other = Project(project.folder, package)
    assert other.make(code="ignore") == {"evaluate"}  # the report says so
    card = other.plan(code="ignore").card("evaluate")
    assert card["parameters"]["configuration"]["code"] == "ignore"
    assert other.make(code="ignore", alpha=0.5) == {"distill", "evaluate"}
    assert other.plan(code="ignore", alpha=0.5).card("distill", "g2d/seed0")["code_ignored"] is True
    assert other.make() == {"teachers", "distill", "evaluate"}


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
    written = read_card(folder)
    assert written is not None
    assert {"wall_seconds", "cpu_seconds", "versions", "fingerprint"} <= set(written)
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
