"""A study: what is missing is trained, once, in processes that may be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from g2d_pipeline.cli import cli
from g2d_pipeline.errors import ConfigError, G2DError, TrainingError
from g2d_pipeline.studies.runner import KILLED
from tests.studies.conftest import REPOSITORY, new_project

pytestmark = pytest.mark.filterwarnings("ignore:.*register_new_resolver")
TABLES = ("table.txt", "table.md", "table.tex", "table.csv", "study.html")


def test_two_processes_one_of_them_killed_make_the_same_as_one_and_a_second_call_nothing(
    tmp_path, project, capsys, caplog
):
    other = new_project(tmp_path / "serial")
    methods = ["unimodal", "killsonce", "joint", "g2d"]
    for one in (project, other):
        one.add_study("grid", methods=methods, vary={"fusion": ["late", "concat"]}, seeds=[0, 1])
    parallel = project.run("grid", compute={"workers": 2})
    assert "A worker was lost; its task is handed out again (1/2)" in caplog.text
    serial = other.run("grid", compute={"workers": 1})  # none is killed: the file of `KillsOnce` is there
    assert len(project.trained()) == 2 * 2 + 2 * 3 * 2  # teachers are shared
    assert project.trained() == other.trained()
    assert [(parallel / t).read_bytes() for t in TABLES] == [(serial / t).read_bytes() for t in TABLES]
    times = {f: f.stat().st_mtime_ns for f in project.path.glob("data/06_models/**/*")}
    assert project.run("grid") == parallel
    assert {f: f.stat().st_mtime_ns for f in project.path.glob("data/06_models/**/*")} == times
    assert "everything is fresh" in caplog.text
    cells = pd.read_parquet(parallel / "cells.parquet")
    assert set(cells["options"]) == {"", "fusion=late", "fusion=concat"}
    assert cells["seconds"].gt(0).all()
    assert "unimodal · loud" in capsys.readouterr().out


def test_all_engines_make_the_same_table_from_the_same_weights(tmp_path, project):
    """`test_compute` kills the workers of each."""
    made = []
    for backend in ("loky", "dask", "ray"):
        one = new_project(tmp_path / backend)
        one.add_study("grid", methods=["ogm", "joint"], seeds=[0, 1], options={"epochs": 2})
        table = one.run("grid", compute={"backend": backend, "workers": 1}) / "table.csv"
        made.append((table.read_bytes(), one.trained()))
    assert len(made[0][1]) == 4
    assert made[0] == made[1] == made[2]


def test_cells_that_fail_or_kill_their_process_take_no_other_with_them(project):
    project.add_study("bad", methods=["fails", "joint", "kills"], seeds=[0])
    with pytest.raises(TrainingError, match=r"study bad: 2 of 3 runs failed.*the same command tries"):
        project.run("bad", compute={"workers": 1, "retries": 1})
    table = pd.read_csv(next(project.path.glob("data/08_reporting/studies/bad-*/table.csv")))
    of = table.set_index("method")
    assert of["reason"]["kills"] == KILLED
    assert of["reason"]["fails"] == "ValueError: no cluster is left"
    assert of["n"].to_dict() == {"fails": 0, "joint": 1, "kills": 0}


def test_cells_that_can_not_be_written_are_told_with_their_folder_and_trained_by_the_next_call(project):
    project.add_study("full", methods=["joint"], seeds=[0], options={"epochs": 1})
    (project.path / "data").mkdir(exist_ok=True)
    (models := project.path / "data/06_models").touch()  # no folder can be made there
    reason = rf"The folder {models}/\S+ cannot be written: .Errno 20. Not a directory"
    message = rf"^study full: 1 of 1 runs failed, the first one: DataError: {reason}"
    with pytest.raises(TrainingError, match=message):
        project.run("full", compute={"workers": 1})
    assert models.stat().st_size == 0
    models.unlink()
    project.run("full", compute={"workers": 1})
    assert len(project.trained()) == 1


def test_a_failed_teacher_fails_its_students_alone(project, in_this_process):
    project.add_study("broken", options={"teacher.optimizer.lr": 1e30}, methods=["unimodal", "joint", "g2d"])
    with pytest.raises(TrainingError, match="study broken: 6 of 8 runs failed, the first one"):
        project.run("broken", compute={"workers": 1})
    folder = next(project.path.glob("data/08_reporting/studies/broken-*"))
    cells = json.loads((folder / "study.json").read_text())["cells"]
    reasons = {(cell["stage"], cell["run"]): cell.get("failed", "") for cell in cells}
    assert reasons["distill", "g2d/seed1"].startswith("it needs the teacher of loud, which failed: ")
    assert reasons["distill", "joint/seed1"] == ""
    assert "failed" in (folder / "table.md").read_text()


def test_a_data_set_that_can_not_be_read_fails_its_own_cells(project, in_this_process):
    project.add_dataset("broken")
    table = project.path / "data" / "01_raw" / "broken" / "table.csv"
    table.write_text(table.read_text().replace(",train", ",trane", 1))
    project.add_study("both", datasets="broken/tiny", methods="joint", seeds=[0], compute={"workers": 1})
    with pytest.raises(TrainingError, match=r"study both: 1 of 2 runs failed, the first one: .*row 2.*trane"):
        project.run("both")
    table = pd.read_csv(next(project.path.glob("data/08_reporting/studies/both-*/table.csv")))
    assert table.set_index("dataset")["n"].to_dict() == {"tiny": 1, "broken": 0}


def test_a_killed_study_leaves_no_process_and_goes_on(project):
    project.add_study("killed", options={"epochs": 60}, compute={"workers": 2})
    lines = ("from tests.studies.conftest import *", f"Project(Path({str(project.path)!r})).run('killed')")
    code = "; ".join(lines)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(project.path.glob("data/06_models/tiny/**/*.partial")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _group(process.pid):  # its workers end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = project.trained()
    assert len(before) < 8
    project.run("killed", compute={"workers": 1})
    assert len(project.trained()) == 8
    assert before.items() <= project.trained().items()


def _group(leader: int) -> list[int]:
    """The processes that are left of a session."""
    done = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def test_an_option_of_one_data_set_a_command_line_and_a_study_like_another(project, in_this_process):
    project.add_dataset("other", {"loud": 2.0, "soft": 0.7})
    project.add_study("first", datasets="tiny/other", of_dataset={"other": {"epochs": 2}}, seeds=0)
    project.write("studies/second.yml", {"studies": {"second": {"like": "first", "methods": "joint"}}})
    folder = project.run("second", **{"training": {"optimizer": {"lr": 0.1}}, "seed": 3})
    cells = json.loads((folder / "study.json").read_text())["cells"]
    infos = [json.loads((project.path / c["folder"] / "model.json").read_text()) for c in cells]
    assert [info["training"]["epochs"] for info in infos] == [4, 2]
    assert {(info["training"]["optimizer"]["lr"], info["seed"]) for info in infos} == {(0.1, 3)}


def test_a_method_that_is_not_defined_here_is_a_failed_cell(project, in_this_process):
    project.add_study("grid", methods=["joint", "greedy", "dlmg"], vary={"fusion": ["film"]}, seeds=[0])
    with pytest.raises(TrainingError, match=r"1 of 3 runs failed.*greedy exchanges maps.*mlp.*has none"):
        project.run("grid", compute={"workers": 1})
    assert len(project.trained()) == 2
    page = next(project.path.glob("data/08_reporting/studies/grid-*/study.html")).read_text()
    assert "dlmg: has a fusion of its own (late); fusion=film is not used" in page


def test_students_of_some_modalities_share_the_teachers_of_all(project, in_this_process):
    project.add_dataset("three", {"loud": 2.0, "middle": 1.0, "soft": 0.7})
    pairs = ["loud/soft", "loud/middle/soft"]
    project.add_study("pairs", datasets="three", vary={"use_modalities": pairs}, seeds=[0])
    folder = project.run("pairs")
    assert len(project.trained()) == 3 + 2 * 2
    cells = json.loads((folder / "study.json").read_text())["cells"]
    for cell in cells:
        if cell["stage"] == "distill":
            info = json.loads((project.path / cell["folder"] / "model.json").read_text())
            assert "/".join(info["modalities"]) == cell["options"]["use_modalities"]
    project.add_study("unknown", datasets="three", options={"use_modalities": "loud/sofft"})
    with pytest.raises(ConfigError, match=r"unknown modality 'sofft'; three has .* Did you mean 'soft'"):
        project.run("unknown")


def test_the_commands(project, monkeypatch):
    monkeypatch.chdir(project.path)
    shutil.copy(REPOSITORY / "pyproject.toml", project.path)  # else a project further up is taken
    project.add_study("tiny", methods="joint", seeds=[0], options={"epochs": 1})
    name, study = (
        ["--params", "compute.workers=1,study=tiny"],
        ["study", "tiny", "--params", "compute.workers=1"],
    )
    for words in (["run", *name], ["run", "--pipeline", "evaluate", *name], study):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert "Study: data/08_reporting/studies/tiny-" in done.output
    for words, message in {
        ("run", "--pipeline", "distill", *name): "--pipeline distill: a study goes to its end",
        ("run", "--nodes", "train_students", *name): "--nodes: a study goes to its end",
        ("study", "tinny"): "unknown study 'tinny'. Did you mean 'tiny'?",
    }.items():
        done = CliRunner().invoke(cli, list(words))
        assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
        assert message in done.output


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"datasets": []}, {}, "conf/base/studies/x.yml.*datasets = : it needs 1 values or more"),
    ({"methods": []}, {}, "methods = : it needs 1 values or more"),
    ({"vary": {"fusion": []}}, {}, "vary.fusion = : it needs 1 values or more"),
    ({"methods": ["joint", "joint"]}, {}, "joint comes twice: every cell is declared once"),
    ({"vary": {"lr": [0.1, 1e-1]}}, {}, "lr: 0.1 comes twice"),
    ({"vary": {"alpha/beta": ["0/1", 2]}}, {}, "alpha/beta: 2 should have 2 values"),
    ({"methods": ["joint", "g2dd"]}, {}, r"studies/x.yml.*unknown method 'g2dd'.*Did you mean 'g2d'"),
    ({"datasets": ["tinny"]}, {}, r"studies/x.yml.*unknown dataset 'tinny'.*Did you mean 'tiny'"),
    ({"datasets": ["gone"]}, {}, r"study x, gone: There are no raw data.*gone.*What to do"),
    ({"options": {"alhpa": 1}}, {}, "unknown key 'alhpa'.*Did you mean 'alpha'"),
    ({"options": {"compute.workers": 1}}, {}, "compute.workers: say compute beside options"),
    ({"n_jobs": 1}, {}, "unknown key 'n_jobs'.*Did you mean 'compute.workers'"),
    ({"retries": 1}, {}, "unknown key 'retries'.*Did you mean 'compute.retries'"),
    ({"vary": {"seed": [0, 1]}}, {}, "seed: say seeds beside vary"),
    ({"options": {"compare": "joint"}}, {}, "compare: a study compares its methods"),
    (
        {"metrics": "rmse"},
        {},
        "studies/x.yml.*metrics = 'rmse': tiny is a classification.*Its metrics: accuracy",
    ),
    ({"method": "joint"}, {}, "unknown key 'method'.*Did you mean 'methods'"),
    ({"like": "y"}, {}, "like = 'y': unknown study 'y'"),
    ({"like": "x"}, {}, "like = 'x': they are like one another"),
    ({"published": 12}, {}, "published = 12: of the paper there are the tables 1/2/3"),
    (
        {},
        {"compute": {"workers": 1000}},
        "--params: compute.workers = 1000 × 1 threads are more than the .* cores: say compute.workers=",
    ),
    ({}, {"rebuild": True}, "rebuild does not go with study=x"),
    ({}, {"methods": "g2dd"}, "--params: study x, tiny: unknown method 'g2dd'"),
    ({}, {"alhpa": 1}, "--params: study x, tiny: unknown key 'alhpa'"),
    ({}, {"smp": {"tau": "1/2/3"}}, "study x, tiny: smp.tau = 1/2/3"),
]


@pytest.mark.parametrize(("settings", "params", "message"), BAD, ids=lambda value: str(value)[:40])
def test_mistakes_end_in_a_line_before_any_work(project, settings, params, message):
    gone = {"raw": {"layout": "table", "raw_dir": "data/gone", "table": "t.csv", "target": "y"}}
    project.add_dataset("gone", **gone)
    project.add_study("x", **settings)
    with pytest.raises(G2DError, match=f"(?s){message}"):
        project.run("x", **params)
    assert not (project.path / "data" / "04_feature").exists()
    assert not (project.path / "data" / "08_reporting").exists()


def test_an_unknown_study(project):
    project.add_study("table")
    with pytest.raises(ConfigError, match=r"unknown study 'tabel'. Did you mean 'table'\? Known: .*table"):
        project.run("tabel")
