"""Cells of a user's table that are no numbers: categories, dates, texts; and which column a modality has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.config import IngestSettings, Table, TargetSettings
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest, read_manifest, write_manifest
from tests.sources.raw_folders import OPTIONS

N = 12
SPLIT = ["train"] * 6 + ["val"] * 3 + ["test"] * 3


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"split": SPLIT, "label": ["no", "yes"] * (N // 2), "size": np.arange(N) / 2} | columns
    )


def read(
    folder: Path,
    table: pd.DataFrame,
    kinds: dict[str, str],
    columns: dict[str, list[str]] | None = None,
    file: str = "metadata.csv",
    raw: dict[str, Any] | None = None,
    **changes: Any,
) -> Manifest:
    """The manifest of `table`, saved in `folder / raw` by the file's ending."""
    root = folder / "raw"
    root.mkdir(exist_ok=True)
    {
        ".csv": lambda path: table.to_csv(path, index=False),
        ".jsonl": lambda path: table.to_json(path, orient="records", lines=True, date_format="iso"),
        ".parquet": lambda path: table.to_parquet(path, index=False),
        ".xlsx": lambda path: table.to_excel(path, index=False),
    }[Path(file).suffix](root / file)
    of = Table(**{"raw_dir": "raw", "table": file, "target": "label", "split": "split"} | (raw or {}))
    every = {name: [name] for name in kinds} | (columns or {})
    return read_raw(
        IngestSettings(
            dataset="own",
            source="raw",
            task="classification",
            target=TargetSettings(),
            raw=of,
            columns=every,
            kinds=kinds,
            max_bad_fraction=0.0,
            options=OPTIONS,
        ).model_copy(update=changes),
        folder,
    )


PLACE = {"kinds": {"place": "tabular"}, "columns": {"place": ["size", "soil"]}, "categorical": ["soil"]}
DAY = {"kinds": {"day": "tabular"}, "dates": ["day"]}
FORMATS = ["metadata.csv", "m.jsonl", "m.parquet", "m.xlsx"]


# ------------------------------------------------------------------------------------------------- categories
@pytest.mark.parametrize("file", FORMATS)
def test_categories_are_text_or_missing(tmp_path: Path, file: str) -> None:
    soils = ["clay", "sand", None, "7", *["clay"] * (N - 4)]
    manifest = read(tmp_path, frame(soil=soils), file=file, **PLACE)
    assert [None if pd.isna(s) else s for s in manifest.table["soil"]] == soils
    assert manifest.meta["kinds"] == {"place": "tabular"}
    write_manifest(manifest, tmp_path / "made")
    again = read_manifest(tmp_path / "made").table
    assert again["soil"].fillna("?").tolist() == [s or "?" for s in soils]
    assert again["size"].dtype == "float64"


def test_numbers_of_a_typed_file_are_categories_as_a_text_table_has_them(tmp_path: Path) -> None:
    zips = [90210.0, 10001.0] * (N // 2)
    assert read(tmp_path, frame(soil=zips), file="m.parquet", **PLACE).table["soil"].tolist()[:2] == [
        "90210",
        "10001",
    ]


def test_categories_that_are_names_or_nearly_the_same(tmp_path: Path) -> None:
    manifest = read(tmp_path, frame(soil=["Clay", "clay "] * (N // 2)), **PLACE)
    assert any(
        "Categories of 'soil' that differ in case or blanks only" in note for note in manifest.meta["notes"]
    )
    many = pd.concat([frame(soil="x")] * 3, ignore_index=True)
    many["soil"] = [f"p{i}" for i in range(3 * N)]
    with pytest.raises(
        DataError, match=r"(?s)column 'soil' has 36 different values in 36 rows.*no categories"
    ):
        read(tmp_path, many, **PLACE)
    with pytest.raises(DataError, match=r"(?s)column 'soil' is blank.*leave it out of `categorical`"):
        read(tmp_path, frame(soil=""), **PLACE)
    with pytest.raises(DataError, match=r"(?s)lacks columns.*'soil'\. Did you mean 'soill'\?"):
        read(tmp_path, frame(soill="clay"), **PLACE)
    with pytest.raises(DataError, match=r"'own': column 'soil' is blank in all of train"):
        read(tmp_path, frame(soil=[""] * 6 + ["clay"] * 6), **PLACE)


# ------------------------------------------------------------------------------------------------------ dates
@pytest.mark.parametrize("file", FORMATS)
def test_dates_are_days_or_missing(tmp_path: Path, file: str) -> None:
    days = pd.Series(pd.date_range("2023-12-30", periods=N, freq="D"))
    days[3] = pd.NaT
    manifest = read(tmp_path, frame(day=days), file=file, **DAY)
    assert manifest.table["day"].equals(days.astype("datetime64[ms]"))
    write_manifest(manifest, tmp_path / "made")
    assert read_manifest(tmp_path / "made").table["day"].equals(manifest.table["day"])


@pytest.mark.parametrize(
    ("cell", "note"),
    [
        ("2024-02-29", None),
        ("2024/2/29", None),
        ("20240229", None),
        ("29.2.2024", None),
        ("2024-02-29T00:00Z", None),
        ("29/02/2024", "'29/02/2024' the day comes first"),
        ("2-29-2024", "'2-29-2024' the month comes first"),
        ("2024-02-29 13:30:00+01:00", "the times of day in 12 cells are not used"),
    ],
)
def test_how_dates_may_be_written(tmp_path: Path, cell: str, note: str | None) -> None:
    manifest = read(tmp_path, frame(day=cell), **DAY)
    assert set(manifest.table["day"]) == {pd.Timestamp("2024-02-29")}
    about = [n for n in manifest.meta["notes"] if "'day'" in n]
    assert len(about) == (note is not None)
    assert note is None or note in about[0]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            ["01/05/2024"] * N,
            r"the day or the month may come first.*row 2, column 'day': '01/05/2024'.*as 2024-05-01",
        ),
        (["13/05/2024", "05/13/2024"] * 6, r"the day or the month may come first.*and 7 more, 12 in all"),
        (
            ["2024-05-01"] * 11 + ["2023-02-29"],
            r"cells that are not dates:.*row 13, column 'day': '2023-02-29'",
        ),
        (["05.13.2024"] * N, r"cells that are not dates:.*'05\.13\.2024'"),
        (["45413"] * N, r"cells that are not dates:.*'45413'"),
        (["2024"] * N, r"cells that are not dates:.*numbers go under `columns`"),
        ([""] * N, r"column 'day' is blank"),
    ],
)
def test_cells_that_are_no_dates(tmp_path: Path, cells: list[str], words: str) -> None:
    with pytest.raises(DataError, match=f"(?s){words}"):
        read(tmp_path, frame(day=cells), **DAY)


# ------------------------------------------------------------------------------------------------------ texts
def test_a_text_is_the_cell_as_it_stands(tmp_path: Path) -> None:
    remarks = [
        "Heard; not seen, at dawn",
        "",
        "NA",
        "\n".join(["a line"] * 99),
        'says "so"',
        *["12"] * (N - 5),
    ]
    manifest = read(tmp_path, frame(remark=remarks), {"remark": "text"})
    assert manifest.table["remark"].tolist() == remarks
    write_manifest(manifest, tmp_path / "made")
    assert read_manifest(tmp_path / "made").table["remark"].tolist() == remarks
    assert manifest.table["sample_id"][0] == "row2"
    with pytest.raises(DataError, match=r"row 5, column 'remark', goes over 98 lines"):
        read(tmp_path, frame(remark=remarks), {"size": "tabular"})


def test_a_text_column_is_found_by_its_kind_or_filled_from_a_template(tmp_path: Path) -> None:
    table = frame(text=["one", "two", *["more"] * 10], title=["A", "", *["B"] * 10])
    assert read(tmp_path, table, {"remark": "text"}).table["remark"].tolist()[:2] == ["one", "two"]
    raw = {"columns": {"remark": "{title}: {text}"}}
    assert read(tmp_path, table, {"remark": "text"}, raw=raw).table["remark"].tolist()[:2] == [
        "A: one",
        ": two",
    ]


@pytest.mark.parametrize("file", ["m.jsonl", "m.parquet"])
def test_a_text_that_is_not_there_is_told_by_row(tmp_path: Path, file: str) -> None:
    table = frame(remark=["", None, *["more"] * 10])
    with pytest.raises(DataError, match=rf"1 of 12 rows.*\n  - {file}, row 2: no text in column 'remark'"):
        read(tmp_path, table, {"remark": "text"}, file=file)
    manifest = read(tmp_path, table, {"remark": "text"}, file=file, max_bad_fraction=0.1)
    assert manifest.table["remark"].tolist() == ["", *["more"] * 10]
    with pytest.raises(DataError, match=r"'remark' holds no text"):
        read(tmp_path, frame(remark=""), {"remark": "text"})


# ------------------------------------------------------------------------------------------ modality → column
def folder_of(folder: Path, ending: str) -> list[str]:
    """`N` files called 0, 1, 2, …"""
    (folder / "raw").mkdir(exist_ok=True)
    for i in range(N):
        (folder / f"raw/{i}{ending}").write_bytes(b"x")
    return [f"{i}{ending}" for i in range(N)]


def test_the_kind_decides_whether_numbers_are_names_of_files(tmp_path: Path) -> None:
    folder_of(tmp_path, "")
    table = frame(photo=range(N))
    assert read(tmp_path, table, {"photo": "image"}).table["photo"].tolist() == [str(i) for i in range(N)]
    assert read(tmp_path, table, {"photo": "tabular"}).table["photo"].dtype == "float64"


@pytest.mark.parametrize(
    "column", ["face", "face_file_name", "video", "video_file_name", "file_name", "my_file_name"]
)
def test_a_clip_and_its_sound_need_no_columns(tmp_path: Path, column: str) -> None:
    table = frame(**{column: folder_of(tmp_path, ".mp4")})
    manifest = read(tmp_path, table, {"voice": "audio", "face": "video"})
    assert manifest.table["voice"].tolist() == manifest.table["face"].tolist() == table[column].tolist()
    assert any("it is the sound of 'face'" in note for note in manifest.meta["notes"])


def test_a_column_that_could_be_of_two_modalities_is_of_none(tmp_path: Path) -> None:
    table = frame(file_name=folder_of(tmp_path, ".jpg"))
    with pytest.raises(
        DataError, match=r"no column of modality 'front'.*\n.*\nWhat to do: say which one under raw"
    ):
        read(tmp_path, table, {"front": "image", "back": "image"})
    both = {"columns": {"front": "file_name", "back": "file_name"}}
    assert len(read(tmp_path, table, {"front": "image", "back": "image"}, raw=both).table) == N


def test_tabular_modalities_are_not_in_raw_columns(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the tabular modality 'size' has its own `columns`"):
        read(tmp_path, frame(), {"size": "tabular"}, raw={"columns": {"size": "size"}})


def test_an_array_of_numbers_is_a_table_whose_columns_are_named_in_the_settings(tmp_path: Path) -> None:
    from g2d_pipeline.sources.table.reading import read_table

    np.save(tmp_path / "labels.npy", np.array([2, 0, 1]))
    table = read_table(tmp_path / "labels.npy", "labels.npy", ["emotion"])
    assert table.names == ["emotion"]
    assert table["emotion"].tolist() == [2.0, 0.0, 1.0]
    assert table.places["row"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"has 1 columns and `names` gives no names"):
        read_table(tmp_path / "labels.npy", "labels.npy")
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"holds float64 \[2, 2, 2\]"):
        read_table(tmp_path / "cube.npy", "cube.npy", ["a"])
