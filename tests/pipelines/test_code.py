"""The code that an artefact depends on: what is reached is what runs, and nothing else counts."""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.code import PRESENTATION, CodeGraph
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.features.store import open_store
from g2d_pipeline.settings import CONFIG_LOADER_ARGS
from g2d_pipeline.sources.manifest import write_manifest
from g2d_pipeline.stages import PACKAGE

REPOSITORY = Path(__file__).resolve().parents[2]


def graph(folder: Path, **files: str) -> CodeGraph:
    """A package of these files; `a__b` is the module b of the package a."""
    (folder / "pack").mkdir(parents=True)
    for name, text in {"init": "", "pack__init": "from .inner import shared\n"}.items() | files.items():
        file = folder.joinpath(*name.replace("init", "@").split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(file.name.replace("@", "__init__")).write_text(text)
    return CodeGraph(folder)


CALLS = """
from g2d_pipeline import b as other
from g2d_pipeline.pack import shared

LIMIT = 3

def start():
    from g2d_pipeline.c import late
    return shared(LIMIT) + other.one() + late()

def unused():
    return other.two()
"""


def test_a_closure_follows_calls_attributes_local_imports_and_reexports(tmp_path: Path) -> None:
    g = graph(
        tmp_path,
        a=CALLS,
        b="def one():\n    return 1\n\ndef two():\n    return 2\n",
        c="def late():\n    return 1\n",
        pack__inner="def shared(x):\n    return x\n\ndef unused():\n    return 1\n",
    )
    expected = {("a", "start"), ("a", "LIMIT"), ("b", "one"), ("c", "late"), ("pack.inner", "shared")}
    assert g.closure(["a.start"]) == expected


def test_a_folder_that_is_left_of_a_package_hides_no_module(tmp_path: Path) -> None:
    g = graph(tmp_path, a="def f(): ...\n")
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    assert g.closure(["a.f"]) == {("a", "f")}


def test_annotations_are_not_followed_and_settings_only_among_themselves(tmp_path: Path) -> None:
    g = graph(
        tmp_path,
        a="from g2d_pipeline.config.x import Big, Small\n\nclass Box:\n    content: Big\n"
        "\ndef start(value: Big) -> Big:\n    return Box(Small())\n",
        config__x="class Base:\n    size = 1\n\nclass Small(Base):\n    pass\n\nclass Big:\n    pass\n",
    )
    assert g.closure(["a.start"]) == {("a", "start"), ("a", "Box")}
    assert g.closure(["config.x.Small"]) == {("config.x", "Small"), ("config.x", "Base")}


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ('"""New."""\n\n\ndef f(x):  # remark\n    """New."""\n    return (x +\n            1)\n', True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(x):\n    return x + 1\n\n\ndef g():\n    return 3\n", True),
    ],
)
def test_only_the_syntax_tree_of_what_is_reached_counts(tmp_path: Path, after: str, same: bool) -> None:
    before = graph(tmp_path / "1", a='"""Old."""\n\n\ndef f(x):\n    """Old."""\n    return x + 1\n')
    changed = graph(tmp_path / "2", a=after)
    assert (before.fingerprint(["a.f"]) == changed.fingerprint(["a.f"])) is same


def test_an_unknown_entry_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.g is neither a module nor a definition"):
        graph(tmp_path, a="def f(): ...").closure(["a.g"])


def test_a_syntax_error_is_told_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wrong\.py, line 2: invalid syntax"):
        graph(tmp_path, wrong="x = 1\ny = = 2\n").fingerprint(["wrong"])


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"version": 0}'])
def test_a_cache_gives_the_same_and_may_be_torn(tmp_path: Path, damage: bytes) -> None:
    entries = ["training.trainer", "pipelines.ingest"]
    cached = CodeGraph(PACKAGE, tmp_path / "cache.json")
    expected = cached.fingerprint(entries)
    cached.save()
    assert CodeGraph(PACKAGE, tmp_path / "cache.json").fingerprint(entries) == expected
    (tmp_path / "cache.json").write_bytes(damage)
    assert CodeGraph(PACKAGE, tmp_path / "cache.json").fingerprint(entries) == expected


# ------------------------------------------------------------------------------- what runs is what is reached
@cache
def top_level(file: str) -> dict[int, str]:
    """Line → the definition at the top level that it belongs to."""
    lines = {}
    for statement in ast.parse(Path(file).read_bytes()).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            first = min([statement.lineno, *(d.lineno for d in statement.decorator_list)])
            lines |= dict.fromkeys(range(first, (statement.end_lineno or first) + 1), statement.name)
    return lines


@contextmanager
def recorded() -> Iterator[set[tuple[str, str]]]:
    """The definitions of the package, outside settings and presentation, whose functions are called."""
    codes: dict[int, CodeType] = {}
    others: dict[int, CodeType] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or id(code) in codes or id(code) in others:
            return
        if not (code.co_filename.startswith(f"{PACKAGE}{os.sep}") and code.co_filename.endswith(".py")):
            others[id(code)] = code  # of a library, or a template
            return
        if caller is not None and caller.f_code.co_name == "<module>":
            return  # on import
        if caller is not None and Path(caller.f_code.co_filename).name == "code.py":
            return  # reading code, which counts for nothing (PRESENTATION)
        codes[id(code)] = code

    ran: set[tuple[str, str]] = set()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield ran
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    for code in codes.values():
        file, line, name = code.co_filename, code.co_firstlineno, code.co_name
        relative = Path(file).relative_to(PACKAGE).with_suffix("")
        module = ".".join(p for p in relative.parts if p != "__init__")
        if name != "<module>" and module not in PRESENTATION and not module.startswith("config"):
            ran.add((module, top_level(file).get(line, "")))


Check = Callable[[str, set[tuple[str, str]]], None]


def run_pipeline(c: Configuration, folder: Path, check: Check) -> None:
    """All stages by their nodes, without a catalog; `check` receives what ran in each."""
    from g2d_pipeline.pipelines.data_report import make_data_report
    from g2d_pipeline.pipelines.distill import train_students
    from g2d_pipeline.pipelines.evaluate import evaluate_runs
    from g2d_pipeline.pipelines.featurize import featurize_modalities
    from g2d_pipeline.pipelines.ingest import ingest_raw
    from g2d_pipeline.pipelines.teachers import train_teachers

    ingest, featurize, teachers, distill, evaluate = (
        c.ingest(), c.featurize(), c.teachers(), c.distill(), c.evaluate(),
    )  # fmt: skip
    with recorded() as ran:
        manifest = ingest_raw(ingest)[""]()
        write_manifest(manifest, folder / "manifest")
    check("ingest", ran)
    (folder / "features").mkdir()
    with recorded() as ran:
        featurize_modalities({"": manifest}, featurize)[""](folder / "features", [])
    check("featurize", ran)
    store = {"": open_store(folder / "features")}
    with recorded() as ran:
        page, data = make_data_report({"": manifest}, store, featurize)
        page()
    check("data_report", ran)

    def train(stage: str, trainings: dict[str, Any]) -> dict[str, TrainedFolder]:
        for name, run in trainings.items():
            (folder / stage / name).mkdir(parents=True)
            write_trained(folder / stage / name, run(folder / stage / name))
        return {name: TrainedFolder(folder / stage / name) for name in trainings}

    with recorded() as ran:
        trained = train("teachers", train_teachers(store, teachers))
    check("teachers", ran)
    with recorded() as ran:
        students = train("distill", train_students(store, trained, distill))
    check("distill", ran)
    with recorded() as ran:
        for make in evaluate_runs({"": manifest}, store, data(), trained, students, evaluate):
            make()
    check("evaluate", ran)


def test_every_function_that_a_stage_runs_is_in_its_code(tmp_path: Path) -> None:
    parameters = {
        "dataset": "av_digits",
        "method": "g2d",
        "seed": 0,
        "epochs": 2,
        "tau": "1/1",
        "batch_size": 256,
        "workers": 1,
        "progress": False,
    }
    loader = ProjectConfigLoader(REPOSITORY / "conf", runtime_params=parameters, **CONFIG_LOADER_ARGS)
    plan = loader.plan

    def check(stage: str, ran: set[tuple[str, str]]) -> None:
        reached = {s for run in plan.runs(stage) for s in plan.graph.closure(plan.entries(stage, run)[0])}
        assert len(ran) > 3, stage
        assert ran <= reached, f"{stage} also runs {sorted(ran - reached)}"

    run_pipeline(loader.configuration, tmp_path, check)


def test_a_package_may_import_its_own_module(tmp_path: Path) -> None:
    start = "from g2d_pipeline.own import part\n\ndef start():\n    return part.one()\n"
    g = graph(tmp_path, own__init=start, own__part="def one():\n    return 1\n")
    assert g.closure(["own.start"]) == {("own", "start"), ("own.part", "one")}
