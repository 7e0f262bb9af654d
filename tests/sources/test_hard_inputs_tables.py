"""Tables that comparable software reads wrongly: the right values, or one message that says what is wrong.

The folders of hard_inputs/ stand for public bug reports (its README); further files of the same kinds are
made here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from g2d_pipeline.errors import DataError
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, read_raw
from g2d_pipeline.sources.manifest import Manifest

RUN = {"method": "unimodal", "compare": [], "device": "cpu", "progress": False, "workers": 1}


def read(project: Path, section: dict[str, Any]) -> Manifest:
    run = RUN | {"dataset": "own", "datasets": {"own": section}}
    configuration = resolve(run, {}, lambda raw, source: locate(raw, source, project), project=project)
    return read_raw(configuration.ingest(), project)


# ------------------------------------------------------------------------------------------------ hard_inputs
def texts(table: pd.DataFrame) -> list[str]:
    return table["txt"].tolist()


RIGHT: list[tuple[str, Callable[[pd.DataFrame], object], object, str]] = [
    # folder, what is looked at, what it must be, a note ("": none is needed)
    (
        "11-tsv-quotation-marks",
        lambda t: (len(t), texts(t)[4:6], t["target"][7]),
        (40, ['"Yes , he said , number 4', "word2 number 5"], 1),
        "m.tsv: quotation marks that are not around a whole cell are read as characters (row 6).",
    ),
    (
        "12-csv-decimal-comma-and-thousands-dot",
        lambda t: t["x"][:6].tolist(),
        [0.5, 30.5, 60.5, 1234.0, 120.5, 2500.0],
        "Column 'x': 2 numbers have marks for thousands, and are read so ('1.234' is 1234).",
    ),
    (
        "14-parquet-int64-ids",
        lambda t: (t["sample_id"].nunique(), t["sample_id"][0]),
        (40, "1152921504606846976"),
        "",
    ),
    (
        "15-parquet-binary-text",
        lambda t: (t["sample_id"][0], texts(t)[0], t["target"].nunique()),
        ("s0", "word0 foo", 2),
        "",
    ),
    (
        "17-xlsx-hidden-first-sheet",
        lambda t: (t["x"][0], len(t)),
        (1000.0, 40),
        "m.xlsx: Only the first visible worksheet ('Data') is read; there are 'old' (hidden), too.",
    ),
    (
        "18-xlsx-merged-cells",
        lambda t: (t["x"].isna().sum(), t["x"][4:9].tolist(), t["site"][5]),
        (0, [10.0] * 4 + [20.0], "site1"),
        "m.xlsx: 60 merged cells are filled with the value that they show.",
    ),
    ("19-csv-carriage-returns", lambda t: (len(t), t["x"][39], texts(t)[39]), (40, 39.0, "w0"), ""),
    (
        "21-csv-backslash-quotes",
        lambda t: texts(t)[:2],
        ['say "hi" w0', 'say "hi" w1'],
        "m.csv: quotation marks after a backslash are read as characters of the cell.",
    ),
    (
        "22-class-called-NA",
        lambda t: len(t),
        27,
        "13 of these rows hold 'NA', which means missing; if it is a class, list all under `classes`.",
    ),
]
TOLD = [
    (
        "13-parquet-int64-join",
        "40 of 40 rows can not be used",
        "m.parquet, row 1: o.parquet has no row of key '",
    ),
    ("16-dates-year-and-day-of-year", "m.csv: cells that are not dates", "row 2, column 'd': '2024041'"),
    (
        "20-csv-every-row-has-a-cell-too-many",
        "40 of 40 rows can not be used",
        "m.csv, row 2: has 5 cells, not 4",
    ),
]


def hard_input(shared: Path, folder: str, project: Path, raw: dict[str, Any] | None = None) -> Manifest:
    source = shared / "hard_inputs" / folder
    if not source.is_dir():
        pytest.skip(f"no {source}")
    (section,) = yaml.safe_load(next(source.glob("*.yml")).read_text())["datasets"].values()
    shutil.copytree(source / "raw", project / section["raw"]["raw_dir"])
    section["raw"] |= raw or {}
    return read(project, section)


@pytest.mark.parametrize(("folder", "look", "right", "note"), RIGHT, ids=[case[0] for case in RIGHT])
def test_hard_inputs_are_read(
    tmp_path: Path,
    shared_data: Path,
    folder: str,
    look: Callable[[pd.DataFrame], object],
    right: object,
    note: str,
) -> None:
    manifest = hard_input(shared_data, folder, tmp_path)
    assert look(manifest.table) == right
    assert not note or note in manifest.meta["notes"]


@pytest.mark.parametrize(("folder", "headline", "line"), TOLD, ids=[case[0] for case in TOLD])
def test_hard_inputs_are_told(
    tmp_path: Path, shared_data: Path, folder: str, headline: str, line: str
) -> None:
    with pytest.raises(DataError) as told:
        hard_input(shared_data, folder, tmp_path)
    assert headline in str(told.value)
    assert line in str(told.value)


@pytest.mark.parametrize("labelled_only", [True, False])
def test_what_classes_names_is_a_label(tmp_path: Path, shared_data: Path, labelled_only: bool) -> None:
    raw = {"classes": ["AS", "EU", "NA"], "labelled_only": labelled_only}
    manifest = hard_input(shared_data, "22-class-called-NA", tmp_path, raw)
    assert manifest.table["target"].value_counts().to_dict() == {1: 14, 2: 13, 0: 13}
