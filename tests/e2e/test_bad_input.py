"""Bad raw data through the command line: one message with file, row and remedy; earlier artefacts stay as
they are.

One case a stage and kind; `tests/test_bad_input_cases.py` has them all, without the command line.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from tests.e2e.project import Project, copy_project

pytestmark = pytest.mark.e2e

LABELS = "labels/classification/combined_only_train_set.xlsx"
IMAGES = "Dataset_Conf_0.5/all_three_stations/images"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose simulated MIS-ME copy was moved to where real data lie, and featurized once."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    assert project.run("run", "--pipeline", "ingest", "--params", "dataset=mis_me").status == 0
    raw = project.path / "data" / "01_raw" / "mis_me"
    shutil.move(raw / "sample", raw / "moved")
    for part in (raw / "moved").iterdir():
        shutil.move(part, raw / part.name)
    (raw / "SAMPLE.txt").unlink(missing_ok=True)
    shutil.rmtree(raw / "moved")
    first = project.run("run", "--pipeline", "featurize", "--params", "dataset=mis_me")
    assert first.status == 0, first.output
    assert "SAMPLE" not in first.output
    return project


def edit(raw: Path, column: str, row: int, value: object) -> None:
    book = openpyxl.load_workbook(raw / LABELS)
    sheet = book.active
    header = [cell.value for cell in sheet[1]]
    sheet.cell(row, header.index(column) + 1).value = value  # type: ignore[arg-type]
    book.save(raw / LABELS)


def rename(raw: Path, column: str, name: str) -> None:
    edit(raw, column, 1, name)


def first_image(raw: Path) -> Path:
    sheet = openpyxl.load_workbook(raw / LABELS).active
    header = [cell.value for cell in sheet[1]]
    return raw / IMAGES / str(sheet.cell(2, header.index("image") + 1).value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a missing image named in the xlsx": (
        lambda raw: first_image(raw).unlink(),
        [LABELS, "row 2", "picture"],
    ),
    "a truncated image": (lambda raw: truncate(first_image(raw)), ["truncated", "sample"]),
    "a misspelt column": (lambda raw: rename(raw, "wind_speed", "windspeed"), ["wind_speed", "windspeed"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_raw_data_are_told_and_nothing_is_lost(project: Project, tmp_path: Path, case: str) -> None:
    damage, parts = CASES[case]
    raw = project.path / "data" / "01_raw" / "mis_me"
    kept = tmp_path / "kept"
    shutil.copytree(raw, kept)
    before = project.artefacts()
    try:
        damage(raw)
        result = project.run("run", "--pipeline", "featurize", "--params", "dataset=mis_me")
    finally:
        shutil.rmtree(raw)
        shutil.copytree(kept, raw)
    assert result.status == 1, result.output
    assert "Traceback" not in result.output
    assert [p for p in parts if p not in result.output] == [], result.output
    after = project.artefacts()
    assert {f: after.get(f) for f in before} == before


def test_the_repaired_folder_is_fresh_again(project: Project) -> None:
    assert project.run("run", "--pipeline", "featurize", "--params", "dataset=mis_me").nodes == []


def test_a_label_outside_the_classes_is_told(tmp_path: Path, shared_data: Path) -> None:
    fresh = copy_project(tmp_path)
    folder = tmp_path / "raw"
    (folder / "fsdd").mkdir(parents=True)
    shutil.copytree(shared_data / "mnist_t10k", folder / "mnist_t10k", copy_function=shutil.copy)
    shutil.copytree(
        shared_data / "fsdd" / "recordings", folder / "fsdd" / "recordings", copy_function=shutil.copy
    )
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    recordings = folder / "fsdd" / "recordings"
    (recordings / "0_jackson_9.wav").rename(recordings / "x_jackson_9.wav")
    override = f"dataset=spoken_mnist,datasets.spoken_mnist.raw.raw_dir={folder}"
    result = fresh.run("run", "--pipeline", "ingest", "--params", override)
    assert result.status == 1, result.output
    assert "x_jackson_9.wav" in result.output
    assert "Traceback" not in result.output
