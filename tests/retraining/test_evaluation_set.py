"""The evaluation set stays as it is while data grow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.config import IngestSettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.files import evaluation_set_file
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.evaluation_set import write_evaluation_set
from g2d_pipeline.sources.manifest import Manifest

DRAWN = {"val": 0.2, "test": 0.3, "seed": 0}


def ingest(project: Path, rows: int, split: object, group: bool = False) -> Manifest:
    """The manifest of the first `rows` rows of a table of numbers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    table = pd.DataFrame({"id": [f"r{i}" for i in range(400)], "x": x, "y": (x > 0).astype(int)})
    table["site"] = [f"s{i // 10}" for i in range(400)]
    table["part"] = ["train", "val", "test", "train"] * 100
    folder = project / "raw"
    folder.mkdir(exist_ok=True)
    table.head(rows).to_csv(folder / "metadata.csv", index=False)
    settings = IngestSettings.model_validate(
        {
            "dataset": "own",
            "source": "raw",
            "task": "classification",
            "target": {"name": "y"},
            "raw": {"layout": "table", "raw_dir": "raw", "id": "id", "target": "y", "split": split},
            "columns": {"table": ["x"]},
            "kinds": {"table": "tabular"},
            "max_bad_fraction": 0.0,
            "options": {"project": str(project)},
        }
    )
    return read_raw(settings, project, evaluation_set=evaluation_set_file(project, "own"))


def ids(manifest: Manifest, split: str) -> set[str]:
    return set(manifest.table.loc[manifest.table["split"] == split, "sample_id"])


def fix(project: Path, manifest: Manifest) -> None:
    write_evaluation_set(evaluation_set_file(project, "own"), manifest)


def test_the_set_changes_nothing_of_the_data_that_it_was_fixed_on(tmp_path):
    before = ingest(tmp_path, 200, DRAWN)
    fix(tmp_path, before)
    again = ingest(tmp_path, 200, DRAWN)
    assert again.meta == before.meta
    pd.testing.assert_frame_equal(again.table, before.table)


def test_new_rows_of_a_drawn_test_split_are_trained_on(tmp_path):
    first = ingest(tmp_path, 200, DRAWN)
    fix(tmp_path, first)
    grown = ingest(tmp_path, 400, DRAWN)
    assert ids(grown, "test") == ids(first, "test")
    assert len(grown.table) == 400
    assert grown.meta["counts"] == {s: len(ids(grown, s)) for s in ("train", "val", "test")}


def test_new_rows_that_the_data_call_test_are_left_out(tmp_path):
    first = ingest(tmp_path, 200, "part")
    fix(tmp_path, first)
    grown = ingest(tmp_path, 400, "part")
    assert ids(grown, "test") == ids(first, "test")
    assert ids(grown, "train") == {f"r{i}" for i in range(400) if i % 4 in (0, 3)}
    assert len(grown.table) == 350
    assert "50 new rows" in grown.meta["notes"][-1]


def test_no_new_row_is_of_a_group_of_the_set(tmp_path):
    split = DRAWN | {"group": "site"}
    first = ingest(tmp_path, 195, split)  # half of the last site is delivered later
    fix(tmp_path, first)
    grown = ingest(tmp_path, 400, split)
    assert ids(grown, "test") == ids(first, "test")
    sites = {name: set(rows["group"]) for name, rows in grown.table.groupby("split")}
    assert not sites["test"] & (sites["train"] | sites["val"])


def test_samples_that_are_gone_are_named(tmp_path):
    fix(tmp_path, ingest(tmp_path, 200, DRAWN))
    with pytest.raises(DataError, match=r"of 60 samples of the fixed evaluation set are not in the data"):
        ingest(tmp_path, 150, DRAWN)


def test_a_damaged_file_is_named(tmp_path):
    ingest(tmp_path, 200, DRAWN)
    file = evaluation_set_file(tmp_path, "own")
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(DataError, match=r"evaluation_set\.json is damaged"):
        ingest(tmp_path, 200, DRAWN)


def test_a_set_of_the_sample_is_not_one_of_raw_data(tmp_path):
    first = ingest(tmp_path, 200, DRAWN)
    fix(tmp_path, first)
    file = evaluation_set_file(tmp_path, "own")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"source": "sample"}))
    assert ids(ingest(tmp_path, 400, DRAWN), "test") != ids(first, "test")
