"""Which files are the table: one, one for each split, or a folder of usual names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from g2d_pipeline.config import IngestSettings, Table, TargetSettings
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import OPTIONS

N = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def rows(folder: Path, file: str, prefix: str = "", n: int = N, column: str = "file_name") -> pd.DataFrame:
    """A table of `n` pictures, saved with them in `folder`; their labels alternate."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({column: [f"{prefix}{i}.jpg" for i in range(n)], "label": ["a", "b"] * (n // 2)})
    table["size"] = range(n)
    for name in table[column]:
        (folder / file).parent.joinpath(name).write_bytes(b"x" + name.encode())
    if file.endswith("jsonl"):
        table.to_json(folder / file, orient="records", lines=True)
    else:
        table.to_csv(folder / file, index=False)
    return table


def settings(kinds: dict[str, str] | None = None, **raw: Any) -> IngestSettings:
    kinds = kinds or {"photo": "image"}
    return IngestSettings(
        dataset="own",
        source="raw",
        task="classification",
        target=TargetSettings(),
        kinds=kinds,
        raw=Table(raw_dir="raw", target="label", **raw),
        columns={k: [k] for k in kinds},
        max_bad_fraction=0.0,
        options=OPTIONS,
    )


def read(root: Path, kinds: dict[str, str] | None = None, **raw: Any) -> Manifest:
    return read_raw(settings(kinds, **raw), root.parent)


@pytest.mark.parametrize("file", ["metadata.csv", "metadata.jsonl", "Metadata.csv"])
@pytest.mark.parametrize("column", ["file_name", "image_file_name", "picture_file_name"])
def test_an_imagefolder_works_as_it_is(root: Path, file: str, column: str) -> None:
    table = rows(root, file, n=20, column=column)
    manifest = read(root)
    assert manifest.table["photo"].tolist() == table[column].tolist()
    assert manifest.meta["counts"] == {"train": 14, "val": 2, "test": 4}


SPLITS = {"train": "train.csv", "val": "valid.csv", "test": "Test.csv"}


@pytest.mark.parametrize("table", [None, SPLITS, list(SPLITS.values())])
def test_a_table_for_each_split(root: Path, table: Any) -> None:
    for split, file in SPLITS.items():
        rows(root, file, f"{split}-", n=2 if split == "val" else N)
    manifest = read(root, **({} if table is None else {"table": table}))
    assert manifest.meta["counts"] == {"train": N, "val": 2, "test": N}
    assert (manifest.table["split"] == manifest.table["photo"].str.partition("-")[0]).all()
    assert read(root, {"size": "tabular"}).table["sample_id"][N] == "valid.csv:row2"


def test_folders_with_a_table_each(root: Path) -> None:
    for split in ("train", "validation", "test"):
        rows(root, f"{split}/metadata.csv")
    manifest = read(root)
    assert manifest.meta["raw_dir"] == "raw"
    assert manifest.table["photo"].tolist()[::N] == ["train/0.jpg", "validation/0.jpg", "test/0.jpg"]
    assert manifest.table["sample_id"].is_unique
    assert not any("more than one split" in note for note in manifest.meta["notes"])
    asked = settings()
    before = signature(asked.raw, "raw", root, None, asked)
    (root / "test/3.jpg").write_bytes(b"other")
    assert signature(asked.raw, "raw", root, None, asked) != before
    (root / "validation/2.jpg").unlink()
    with pytest.raises(DataError, match=r"validation/metadata\.csv, row 4: 'validation/2\.jpg' is missing"):
        read(root)


def test_a_template_counts_the_rows_of_each_table(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows(root, f"{split}/metadata.csv")
    assert read(root, columns={"photo": "{index}.jpg"}).table["photo"].tolist()[N] == "val/0.jpg"


def test_columns_that_a_table_lacks_or_has_twice(root: Path) -> None:
    for split, file in SPLITS.items():
        table = rows(root, file, split)
        if split == "val":
            table.drop(columns="label").to_csv(root / file, index=False)
    with pytest.raises(
        DataError, match=r"(?s)train\.csv, valid\.csv, Test\.csv lacks.*'label' \(not in valid\.csv\)"
    ):
        read(root)
    pd.concat([table, table[["size"]]], axis=1).to_csv(root / "valid.csv", index=False)
    with pytest.raises(DataError, match=r"(?s)has columns more than once.*'size'"):
        read(root, {"size": "tabular"})


def test_a_split_without_a_table_and_tables_with_a_split(root: Path) -> None:
    rows(root, "train.csv")
    rows(root, "test.csv")
    with pytest.raises(DataError, match=r"There is train\.csv and test\.csv, but no table for val"):
        read(root)
    rows(root, "val.csv")
    with pytest.raises(
        ConfigError, match=r"raw\.split is set, and there is a table for each split \(train\.csv, val"
    ):
        read(root, split={"val": 0.2})
    rows(root, "dev.csv")
    with pytest.raises(
        DataError, match=r"(?s)may be the table of a split.*val: dev\.csv, val\.csv.*name the right"
    ):
        read(root)
    rows(root, "metadata.csv", n=20)  # it comes first
    assert len(read(root).table) == 20
    rows(root, "metadata.jsonl", n=20)
    with pytest.raises(DataError, match=r"(?s)Two files may be the table.*metadata\.csv.*metadata\.jsonl"):
        read(root)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"train": "a.csv", "val": "b.csv"}, "table lacks test"),
        ({"train": "a.csv", "val": "b.csv", "test": "a.csv"}, "the same file for two splits"),
        (["train.csv", "b.csv", "test.csv"], r"\['b.csv'\] tell no split"),
        (["train.csv", "training.csv", "test.csv"], "of the same split"),
    ],
)
def test_settings_of_tables_that_can_not_be_right(table: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Table(raw_dir="raw", target="label", table=table)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("metdata.csv", r"'metdata\.csv' is not there\. Did you mean 'metadata\.csv'\?"),
        ("metadata.tsv", r"'metadata\.tsv' is not there\. Did you mean 'metadata\.csv'\?"),
        ("tables/birds.csv", r"'tables/birds\.csv' is not there\. Did you mean 'deeper/birds\.csv'\?"),
        ("deeper/birdz.csv", r"'deeper/birdz\.csv' is not there\. Did you mean 'deeper/birds\.csv'\?"),
    ],
)
def test_the_nearest_table_is_suggested(root: Path, asked: str, words: str) -> None:
    rows(root, "metadata.csv")
    rows(root, "deeper/birds.csv")
    with pytest.raises(DataError, match=words):
        locate(Table(raw_dir="raw", target="label", table=asked), "auto", root.parent)
    (root / "metadata.csv").unlink()
    with pytest.raises(DataError, match=r"There is deeper/birds\.csv: is it the table\?"):
        locate(Table(raw_dir="raw", target="label"), "auto", root.parent)
