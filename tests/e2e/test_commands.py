"""The commands of the README in a copy of the project: what runs, what is skipped, what is said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.project import Project, Result, copy_project, finished_project

pytestmark = pytest.mark.e2e

NODES = [
    "ingest_raw",
    "featurize_modalities",
    "describe_data",
    "train_teachers",
    "train_students",
    "evaluate_runs",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the default pipeline has run once."""
    return finished_project(tmp_path_factory, tmp_path_factory.mktemp("project"))


def test_the_run_ends_with_the_table_and_the_report_and_is_marked_sample(project: Project) -> None:
    first = Result(0, (project.path / "first.log").read_text())
    assert first.nodes == NODES
    lines = first.output.rstrip().splitlines()
    report = re.fullmatch(r"Report: (data/08_reporting/av_digits/\w+/report.html)", lines[-1])
    assert report, lines[-5:]
    html = (project.path / report[1]).read_text()
    assert "SAMPLE" in html
    assert re.search(r"<script[^>]+src=|<link[^>]+href=[\"']?http", html) is None  # self-contained
    text = "\n".join(lines)
    assert "SAMPLE · av_digits" in text
    assert "WARNING SAMPLE: the bundled sample is used" in text
    for row in ("unimodal", "joint", "g2d"):
        assert row in text


def test_every_artefact_has_a_stage_card(project: Project) -> None:
    cards = [json.loads(f.read_text()) for f in project.path.glob("data/*/av_digits/**/stage.json")]
    stages = sorted(card["stage"] for card in cards)
    assert stages == [
        "data_report",
        "distill",
        "distill",
        "evaluate",
        "featurize",
        "ingest",
        "teachers",
        "teachers",
    ]
    keys = {
        "fingerprint",
        "inputs",
        "parameters",
        "code",
        "wall_seconds",
        "cpu_seconds",
        "versions",
        "seed",
        "device",
    }
    for card in cards:
        assert keys <= set(card)
        assert card["source"] == "sample"
    assert not list(project.path.glob("data/**/*.partial"))


def test_no_pickle_and_no_absolute_path_in_any_artefact(project: Project) -> None:
    texts = {".json", ".html", ".txt", ".md", ".tex", ".csv", ".svg"}
    for file in project.path.glob("data/0[2-8]*/**/*"):
        if file.is_file() and file.name != "raw_hashes.json":  # a cache of this machine, no artefact
            assert file.suffix in {".parquet", ".npy", ".safetensors", "", *texts}, file
            if file.suffix in texts:
                assert str(project.path) not in file.read_text(), file


def test_a_second_run_does_nothing_and_says_so(project: Project) -> None:
    again = project.run("run")
    assert (again.status, again.nodes) == (0, [])
    assert "Fresh, skipped: " + ", ".join(NODES) in again.output
    assert "Report: " in again.output


def test_a_run_with_nothing_to_do_imports_neither_torch_nor_pandas(project: Project) -> None:
    code = (
        "import sys; from kedro.framework.startup import bootstrap_project; from pathlib import Path\n"
        "from kedro.framework.session import KedroSession; bootstrap_project(Path.cwd())\n"
        "with KedroSession.create(project_path=Path.cwd()) as s: s.run(only_missing_outputs=True)\n"
        "assert not {'torch', 'pandas'} & set(sys.modules), 'torch or pandas was imported'"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project.path, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_alpha_reruns_distill_and_evaluate_and_going_back_reruns_nothing(project: Project) -> None:
    other = project.run("run", "--params", "alpha=0.5")
    assert (other.status, other.nodes) == (0, ["train_students", "evaluate_runs"]), other.output
    assert "distill joint/seed0 (1/2) is fresh: skipped" in other.output
    assert project.run("run").nodes == []


def test_a_stage_runs_what_is_missing_before_it(project: Project) -> None:
    assert project.run("run", "--pipeline", "teachers", "--params", "seed=5").nodes == ["train_teachers"]


def test_featurize_ends_with_the_data_report(project: Project) -> None:
    again = project.run("run", "--pipeline", "featurize")
    page = re.fullmatch(
        r"Data: (data/08_reporting/av_digits/data-\w+/data_report.html)",
        again.output.rstrip().splitlines()[-1],
    )
    assert page, again.output
    assert again.nodes == []
    assert "SAMPLE" in (project.path / page[1]).read_text()


def test_rebuild_forces_every_stage_of_the_pipeline(project: Project) -> None:
    before = project.artefacts()
    again = project.run("run", "--pipeline", "distill", "--params", "rebuild=true")
    assert again.nodes == NODES[:5], again.output
    after = project.artefacts()
    assert {f: after[f] for f in before} == before  # the same command gives the same bits


def test_a_deleted_artefact_is_rebuilt_alone(project: Project) -> None:
    newest = min(
        project.path.glob("data/02_intermediate/av_digits/manifest-*"), key=lambda f: f.stat().st_mtime
    )
    assert newest.is_dir()
    reports = list(project.path.glob("data/08_reporting/av_digits/*/report.html"))
    for report in reports:
        report.unlink()
    assert project.run("run").nodes == ["evaluate_runs"]


def test_metrics_are_tidy_and_complete(project: Project) -> None:
    files = list(project.path.glob("data/08_reporting/av_digits/*/metrics.parquet"))
    metrics = pd.read_parquet(files[0])
    assert files[0].with_name("metrics.json").read_text().startswith('{\n  "dataset": "av_digits",\n')
    assert {
        "dataset",
        "source",
        "method",
        "modality",
        "seed",
        "split",
        "part",
        "metric",
        "value",
        "selection",
    } <= set(metrics)
    assert set(metrics["method"]) == {"unimodal", "joint", "g2d"}
    assert set(metrics.query("method == 'g2d'")["part"]) == {"multi", "audio", "image"}
    assert set(metrics["split"]) == {"val", "test"}
    assert set(metrics["source"]) == {"sample"}


def test_code_reruns_what_it_changes_and_a_raw_file_everything(project: Project) -> None:
    def cards() -> dict[str, str]:
        return {str(f): f.read_text() for f in project.path.glob("data/**/av_digits/**/stage.json")}

    source = project.path / "src" / "g2d_pipeline" / "pipelines" / "ingest.py"
    before = source.read_text()
    source.write_text(before + "\n# a remark\n")
    assert project.run("run").nodes == []
    source.write_text(before.replace("    return ", "    assert True\n    return "))
    made = cards()
    again = project.run("run")  # the same manifest: nothing is decoded, trained or reported again
    assert "distill joint/seed0 (1/2) is fresh: skipped" in again.output, again.output
    (new,) = cards().keys() - made.keys()
    assert "/manifest-" in new
    assert {f: text for f, text in cards().items() if f != new} == made
    assert project.run("run").nodes == []
    source.write_text(before)
    assert project.run("run").nodes == []
    raw = project.path / "data" / "01_raw" / "av_digits" / "digits.npy"
    bytes_before = raw.read_bytes()
    raw.write_bytes(bytes_before[:-1] + bytes([bytes_before[-1] ^ 1]))
    made = cards()
    assert project.run("run").nodes == NODES
    folders = {Path(card).parent.name.split("-")[0] for card in cards().keys() - made.keys()}
    assert {"manifest", "features", "data", "seed0"} <= folders
    raw.write_bytes(bytes_before)


def test_prod_refuses_samples(project: Project) -> None:
    for dataset in ("av_digits", "mis_me"):
        refused = project.run("run", "--env", "prod", "--params", f"dataset={dataset}")
        assert refused.status in (1, 2)
        assert refused.nodes == []
        assert "Traceback" not in refused.output
        assert "raw" in refused.output


@pytest.mark.parametrize(
    ("params", "status", "parts"),
    [
        ("dataset=mis_mee", 2, ["unknown dataset 'mis_mee'", "Did you mean 'mis_me'?"]),
        ("alhpa=1", 2, ["unknown key 'alhpa'", "Did you mean 'alpha'?"]),
        ("alpha=-3", 2, ["alpha = -3", "greater than or equal to 0"]),
        ("tau=1/2/3", 2, ["2 modalities need 2"]),
        ("fusion=film,fusion.width=8", 2, ["would replace the other", "Say fusion.name=film"]),
        ("datasets.av_digits.raw.raw_dir=pyproject.toml", 1, ["'pyproject.toml' is a file"]),
        (
            "dataset=spoken_mnist,datasets.spoken_mnist.raw.raw_dir=nowhere",
            1,
            ["'nowhere'", "G2D_SHARED_DATA"],
        ),
    ],
)
def test_mistakes_end_in_one_message(project: Project, params: str, status: int, parts: list[str]) -> None:
    before = project.artefacts()
    result = project.run("run", "--params", params)
    assert result.status == status, result.output
    assert "Traceback" not in result.output
    assert [p for p in parts if p not in result.output] == [], result.output
    assert project.artefacts() == before


def test_debug_shows_the_traceback(project: Project) -> None:
    assert "Traceback" in project.run("run", "--params", "alhpa=1,debug=true").output


def test_two_runs_at_once_share_what_both_need_and_do_the_rest_side_by_side(project: Project) -> None:
    """The one that waits goes on when the other is killed, from its last checkpoint."""
    same = "seed=7,epochs=20,tau=1,compute.workers=1"  # of several processes SIGSTOP would stop one alone
    slow = project.fork("run", "--pipeline", "teachers", "--params", same)
    slow.wait_for("teachers audio/seed7")
    models = project.path / "data" / "06_models" / "av_digits" / "teachers"
    while not list(models.glob("audio/seed7-*.partial/checkpoints/epoch-*")):
        time.sleep(0.05)
    os.kill(slow.pid, signal.SIGSTOP)  # so that it is still at it
    waiting = project.fork("run", "--pipeline", "teachers", "--params", f"{same},wait=true")
    other = project.run("run", "--pipeline", "teachers", "--params", "seed=8,epochs=1")
    assert (other.status, other.nodes) == (0, ["train_teachers"]), other.output
    refused = project.run("run", "--pipeline", "teachers", "--params", same)
    waiting.wait_for("/audio/seed7.*waiting")
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    assert refused.status == 1, refused.output
    message = refused.output.splitlines()[-1]
    assert re.match(
        r"Error: Another run \(process \d+, since .*\) is making data/06_models/av_digits/", message
    )
    assert "--params wait=true" in message
    done = waiting.wait(300)
    assert done.status == 0, done.output
    assert "teacher audio, seed 7: goes on from epoch" in done.output
    waited = rf"Another run \(process {slow.pid}, since .*\) .*/audio/seed7-\w+: waiting"
    assert re.search(waited, done.output), done.output
    assert project.run("run", "--pipeline", "teachers", "--params", same).nodes == []
    assert not list(project.path.glob("data/**/*.lock"))


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    broken = copy_project(tmp_path)
    (broken.path / "data" / "02_intermediate").write_text("a file in the way")
    result = broken.run("run")
    assert result.status == 1
    assert "02_intermediate" in result.output
    assert "Traceback" not in result.output


def test_catalog_and_registry_commands(project: Project) -> None:
    listed = project.run("registry", "list")
    for name in ("__default__", "ingest", "featurize", "teachers", "distill", "evaluate"):
        assert f"- {name}" in listed.output
    described = project.run("catalog", "describe-datasets")
    assert described.status == 0, described.output
    for name in ("manifest", "features", "teachers", "students", "metrics", "report"):
        assert name in described.output


@pytest.mark.skipif(os.environ.get("G2D_SKIP_VIZ") == "1", reason="G2D_SKIP_VIZ=1")
def test_viz_builds_with_layers_and_previews(project: Project) -> None:
    pytest.importorskip("kedro_viz")
    built = project.run("viz", "build", "--include-previews")
    assert built.status == 0, built.output
    main = json.loads((project.path / "build" / "api" / "main").read_text())
    names = {n["name"] for n in main["nodes"]}
    assert {
        "manifest",
        "features",
        "data_report",
        "teachers",
        "students",
        "report",
        "train_students",
    } <= names
    layers = [layer for layer in main["layers"] if layer != "model_output"]  # of the pipeline predict
    assert layers == ["intermediate", "feature", "models", "reporting"]
    assert "could not be previewed" not in built.output
    nodes = [json.loads(f.read_text()) for f in (project.path / "build" / "api" / "nodes").iterdir()]
    shown = {node.get("preview_type") for node in nodes if node.get("preview")}
    assert {"TablePreview", "JSONPreview", "HTMLPreview"} <= shown
    pages = " ".join(str(node["preview"]) for node in nodes if node.get("preview_type") == "HTMLPreview")
    assert "data:image/svg+xml" in pages  # figures
    assert "Accuracy (%)" in pages  # tables
    tasks = [node["preview"] for node in nodes if isinstance(node.get("preview"), dict)]
    diagrams = [preview["content"] for preview in tasks if preview.get("kind") == "mermaid"]
    assert len(diagrams) == 2
    for words in ("small_cnn", "late fusion", "phase 1, ", "teacher audio"):
        assert any(words in diagram for diagram in diagrams), words


@pytest.mark.skipif(os.environ.get("G2D_SKIP_VIZ") == "1", reason="G2D_SKIP_VIZ=1")
def test_viz_of_what_is_not_made_yet_says_nothing_of_missing_files(tmp_path: Path) -> None:
    """As `kedro viz --params dataset=…`, whose server never ends."""
    pytest.importorskip("kedro_viz")
    built = copy_project(tmp_path).run("viz", "build", "--include-previews")
    assert built.status == 0, built.output
    assert "could not be previewed" not in built.output


def test_mis_me_word_for_word_on_the_simulated_sample(tmp_path: Path) -> None:
    fresh = copy_project(tmp_path)
    result = fresh.run("run", "--pipeline", "distill", "--params", "dataset=mis_me")
    assert (result.status, result.nodes) == (0, NODES[:5]), result.output
    assert "simulated sample" in result.output
    assert "shrunk" in result.output
    for card in fresh.path.glob("data/0[2-6]*/mis_me/**/stage.json"):
        assert json.loads(card.read_text())["source"] == "sample"
    report = fresh.run("run", "--params", "dataset=mis_me")
    assert report.nodes == ["evaluate_runs"]
    assert "SAMPLE · mis_me" in report.output
    assert "MAPE" in report.output


def test_spoken_mnist_word_for_word_on_real_recordings(tmp_path: Path, shared_data: Path) -> None:
    fresh = copy_project(tmp_path)
    result = fresh.run("run", "--params", "dataset=spoken_mnist,method=joint,seed=3")
    assert (result.status, result.nodes) == (0, NODES), result.output
    assert "SAMPLE" not in result.output
    assert "g2d" not in result.output.split("Report:")[0].split("spoken_mnist · test")[-1]
