"""MIS-ME copies as users really hold them (datasets.md §5.5): each blemish is read, noted or told."""

from __future__ import annotations

import datetime
import math
import shutil
from collections.abc import Callable
from typing import Any

import openpyxl
import pytest

from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.cells import parse_number
from g2d_pipeline.sources.mis_me.simulated import HEADER
from tests.sources.raw_folders import WEATHER, MISMECopy


def test_a_whole_copy_keeps_order_columns_and_values(copy: MISMECopy) -> None:
    manifest = read_raw(copy.settings(), copy.project)
    table, meta = manifest.table, manifest.meta
    assert meta["counts"] == {"train": 24, "val": 6, "test": 9}
    assert meta["columns"] == {"tabular": WEATHER, "image": ["image"]}
    assert meta["source"] == "raw"
    assert meta["raw_dir"] == "raw"
    assert list(table.columns) == ["sample_id", "split", "target", "image", *WEATHER, "station"]
    sheet = openpyxl.load_workbook(copy.table("train")).worksheets[0]
    for i, cells in enumerate(sheet.iter_rows(min_row=2, values_only=True)):
        row = dict(zip(HEADER, cells, strict=True))
        assert table["target"][i] == row["vwc"]
        assert (copy.root / table["image"][i]).name == row["image"] == table["sample_id"][i]
        for column in WEATHER:
            assert table[column][i] == row[column] or (row[column] is None and math.isnan(table[column][i]))
    assert all((copy.root / path).is_file() for path in table["image"])
    assert meta["target"]["std"] == pytest.approx(table["target"][:24].std(ddof=0))


def test_the_station_of_test_pictures_comes_from_the_station_files(copy: MISMECopy) -> None:
    table = read_raw(copy.settings(), copy.project).table
    test = table[table["split"] == "test"]
    assert (test["station"] == test["sample_id"].str[:5]).all()
    assert (table[table["split"] != "test"]["station"] == "").all()
    for file in copy.root.rglob("OK*_test_set.xlsx"):
        file.unlink()
    assert "station" not in read_raw(copy.settings(), copy.project).table


def test_a_copy_nested_deeper_and_a_lock_file_do_no_harm(copy: MISMECopy) -> None:
    inner = copy.project / "inner"
    copy.root.rename(inner)
    copy.root.mkdir()
    inner.rename(copy.root / "MIS-ME-main")
    lock = copy.root / "MIS-ME-main/labels/classification/~$combined_only_train_set.xlsx"
    lock.write_bytes(b"someone")
    (copy.root / "__MACOSX").mkdir()
    (copy.root / "__MACOSX/combined_only_train_set.xlsx").write_bytes(b"")
    table = read_raw(copy.settings(), copy.project).table
    assert (copy.root / table["image"][0]).is_file()
    assert table["image"][0].startswith("MIS-ME-main/Dataset_Conf_0.5/")


@pytest.mark.parametrize("columns", [{"image": ["image"]}, {"tabular": WEATHER[:3]}])
def test_one_modality_alone(copy: MISMECopy, columns: dict[str, list[str]]) -> None:
    if "image" not in columns:
        shutil.rmtree(copy.images)
    table = read_raw(copy.settings(columns=columns), copy.project).table
    assert list(table.columns[3:-1]) == [c for names in columns.values() for c in names]


# ------------------------------------------------------------------------------------------------------ cells
@pytest.mark.parametrize(
    ("cell", "value", "how"),
    [
        (None, math.nan, "blank"),
        ("  ", math.nan, "blank"),
        (3, 3.0, "number"),
        (-2.5, -2.5, "number"),
        ("NaN", math.nan, "mark"),
        ("NAN", math.nan, "mark"),
        (-9999, math.nan, "mark"),
        ("-9999", math.nan, "mark"),
        ("#N/A", math.nan, "mark"),
        (" 12.5 ", 12.5, "text"),
        ("1e-3", 1e-3, "text"),
        ("12,5", 12.5, "text"),
        ("0,253", 0.253, "text"),
        ("-0,5", -0.5, "text"),
    ],
)
def test_cells_that_can_mean_only_one_number(cell: object, value: float, how: str) -> None:
    assert parse_number(cell) == (pytest.approx(value, nan_ok=True), how)


@pytest.mark.parametrize(
    "cell",
    [
        "1,013",
        "12.5 °C",
        "inf",
        "1.234,5",
        "25%",
        "#DIV/0!",
        True,
        datetime.datetime(2020, 5, 1),
        datetime.time(3),
        "1e999",
    ],
)
def test_cells_that_can_not(cell: object) -> None:
    with pytest.raises(ValueError, match=r"no number|not a number|a number"):
        parse_number(cell)


def headers_with_blanks(sheet: Any) -> None:
    for cell in sheet[1]:
        cell.value = f" {cell.value} "


def unnamed_index(sheet: Any) -> None:
    sheet.insert_cols(1)
    for row in range(2, sheet.max_row + 1):
        sheet.cell(row, 1).value = row


def trailing_empty(sheet: Any) -> None:
    sheet.cell(sheet.max_row + 2, 3).value = "  "


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda c: c.edit("train", headers_with_blanks), None),
        (lambda c: c.edit("val", unnamed_index), None),
        (lambda c: c.edit("train", trailing_empty), "2 wholly empty rows"),
        (lambda c: c.put("train", 2, "wind_speed", -9999), "'wind_speed': 1 marks"),
        (lambda c: c.put("train", 2, "wind_speed", "NAN"), "'wind_speed': 1 marks"),
        (lambda c: c.put("train", 2, "wind_speed", "3,5"), "'wind_speed': 1 numbers are stored as text"),
        (lambda c: c.put("test", 2, "vwc", "0.21"), "'vwc': 1 numbers are stored as text"),
        (lambda c: c.put("val", 2, "vwc", 0.004), "1 water contents are below 0.01"),
        (
            lambda c: c.put("val", 2, "image", c.get("train", 3, "image")),
            "1 pictures are in more than one split",
        ),
        (
            lambda c: c.put("train", 4, "image", c.get("train", 3, "image")),
            "1 pictures are in more than one row",
        ),
        (lambda c: None, "not used: timestamp, station"),
        (lambda c: None, "'barometric_pressure' is blank in"),
        (lambda c: c.edit("test", lambda s: s.delete_rows(2)), None),
    ],
)
def test_what_can_be_read_is_read_and_noted(
    copy: MISMECopy, damage: Callable[[MISMECopy], object], note: str | None
) -> None:
    damage(copy)
    manifest = read_raw(copy.settings(), copy.project)
    assert manifest.table["sample_id"].is_unique
    if note is not None:
        assert any(note in n for n in manifest.meta["notes"]), manifest.meta["notes"]


def scale_target(sheet: Any) -> None:
    column = HEADER.index("vwc") + 1
    for row in range(2, sheet.max_row + 1):
        sheet.cell(row, column).value *= 100


def clear(column: str) -> Callable[[Any], None]:
    def change(sheet: Any) -> None:
        for row in range(2, sheet.max_row + 1):
            sheet.cell(row, HEADER.index(column) + 1).value = None

    return change


def v1(copy: MISMECopy) -> None:
    for split in ("train", "val", "test"):
        copy.edit(split, lambda sheet: sheet.delete_cols(5, 8))


def rename(column: str, new: object) -> Callable[[Any], None]:
    return lambda sheet: setattr(sheet.cell(1, HEADER.index(column) + 1), "value", new)


def first_image(copy: MISMECopy) -> Any:
    return copy.images / copy.get("train", 2, "image")


def change_name(change: Callable[[str], str]) -> Callable[[MISMECopy], None]:
    return lambda copy: copy.put("train", 2, "image", change(copy.get("train", 2, "image")))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
TRAIN = "labels/classification/combined_only_train_set.xlsx"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        # the tables
        (v1, [TRAIN, "lacks 8 of 10 columns", "air_temperature", "v1", "second (27 June)"]),
        (lambda c: c.edit("train", rename("vwc", "VWC")), [TRAIN, "'vwc'. Did you mean 'VWC'?", "row 1"]),
        (
            lambda c: c.edit("val", rename("wind_speed", "windspeed")),
            ["val_set", "Did you mean 'windspeed'?"],
        ),
        (lambda c: c.edit("train", rename("timestamp", "vwc")), [TRAIN, "more than once", "vwc"]),
        (lambda c: c.edit("train", lambda s: s.delete_rows(2, 99)), [TRAIN, "no rows"]),
        (lambda c: c.edit("train", lambda s: s.delete_rows(1, 99)), [TRAIN, "row 1"]),
        (lambda c: c.table("train").write_bytes(b""), [TRAIN, "0 bytes"]),
        (lambda c: c.table("train").write_bytes(POINTER), [TRAIN, "Git-LFS"]),
        (lambda c: c.table("train").write_bytes(b"image,vwc\na.jpg,0.2\n"), [TRAIN, "CSV"]),
        (
            lambda c: c.table("train").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99)),
            [TRAIN, "old XLS"],
        ),
        (lambda c: c.table("train").write_bytes(c.table("train").read_bytes()[:3000]), [TRAIN, "truncated"]),
        (lambda c: c.table("val").unlink(), ["missing", "combined_only_val_set.xlsx", "Did you mean"]),
        (
            lambda c: shutil.copytree(c.root / "labels", c.root / "labels (1)"),
            ["Several train sets", "labels (1)"],
        ),
        # the cells
        (
            lambda c: c.put("train", 5, "wind_speed", "3 m/s"),
            [TRAIN, "cell I5", "row 5", "'wind_speed'", "3 m/s"],
        ),
        (lambda c: c.put("train", 5, "barometric_pressure", "101,325"), ["cell J5", "decimal comma"]),
        (lambda c: c.put("val", 3, "vwc", datetime.datetime(2021, 1, 2)), ["val_set", "cell D3", "a date"]),
        (
            lambda c: c.edit("train", clear("wind_speed")),
            [TRAIN, "blank in all 24 rows", "wind_speed", "remove it"],
        ),
        # the target
        (
            lambda c: c.put("test", 4, "vwc", None),
            ["test_set.xlsx, row 4", "no value in column 'vwc'", "1 of 39"],
        ),
        (lambda c: c.put("test", 4, "vwc", "NaN"), ["test_set.xlsx, row 4", "no value in column 'vwc'"]),
        (lambda c: c.edit("train", scale_target), [TRAIN, "cell D2", "24 in all", "percent", "divide"]),
        (lambda c: c.put("train", 6, "vwc", -0.02), [TRAIN, "cell D6", "-0.02", "zero or below"]),
        (lambda c: c.put("train", 6, "vwc", 0), [TRAIN, "cell D6", "zero or below"]),
        # the pictures
        (lambda c: first_image(c).unlink(), [f"{TRAIN}, row 2", "is not in the folder", "1 of 39"]),
        (lambda c: first_image(c).write_bytes(b""), [f"{TRAIN}, row 2", "0 bytes"]),
        (lambda c: first_image(c).write_bytes(POINTER), [f"{TRAIN}, row 2", "Git-LFS"]),
        (lambda c: first_image(c).write_bytes(b"<html>quota"), [f"{TRAIN}, row 2", "HTML"]),
        (lambda c: c.put("train", 2, "image", None), [f"{TRAIN}, row 2", "no picture is named"]),
        (
            change_name(lambda n: n.replace(".jpg", ".JPG")),
            ["row 2", "it is there as", "upper and lower case"],
        ),
        (change_name(lambda n: n.replace(".jpg", "")), ["row 2", ".jpg'", "the ending differs"]),
        (change_name(lambda n: n.replace(".jpg", ".png")), ["row 2", ".jpg'", "the ending differs"]),
        (change_name(lambda n: f"images/{n}"), ["row 2", "a folder before the name"]),
        (change_name(lambda n: f" {n}"), ["row 2", "blanks differ"]),
        (change_name(lambda n: n.replace("train", "trian")), ["row 2", "Did you mean 'OK00"]),
        (
            lambda c: c.images.rename(c.root / "pictures"),
            ["Dataset_Conf_0.5", "pictures are in", "- pictures"],
        ),
        (lambda c: shutil.rmtree(c.images), ["Dataset_Conf_0.5", "no picture anywhere"]),
        (
            lambda c: shutil.copytree(c.root / "Dataset_Conf_0.5", c.root / "b/Dataset_Conf_0.5"),
            ["Several picture"],
        ),
    ],
)
def test_what_can_not_be_read_is_told(
    copy: MISMECopy, damage: Callable[[MISMECopy], object], said: list[str]
) -> None:
    damage(copy)
    with pytest.raises(DataError) as caught:
        read_raw(copy.settings(), copy.project)
    for words in [*said, "What to do:"]:
        assert words in str(caught.value)


def test_bad_rows_are_dropped_up_to_the_fraction_allowed_and_listed(copy: MISMECopy) -> None:
    first_image(copy).unlink()
    copy.put("test", 4, "vwc", None)
    with pytest.raises(
        DataError, match=r"2 of 39 rows can not be used \(5\.13%; max_bad_fraction allows 5\.00%\)"
    ):
        read_raw(copy.settings(max_bad_fraction=0.05), copy.project)
    manifest = read_raw(copy.settings(max_bad_fraction=0.06), copy.project)
    assert manifest.meta["counts"] == {"train": 23, "val": 6, "test": 8}
    assert [(d["file"], d["row"]) for d in manifest.meta["dropped"]] == [
        (TRAIN, 2),
        (TRAIN.replace("train", "test"), 4),
    ]


def test_many_lost_pictures_are_counted_and_only_five_are_listed(copy: MISMECopy) -> None:
    for file in copy.images.glob("*_train_*"):
        file.unlink()
    with pytest.raises(DataError, match=r"(?s)24 of 39 rows.*and 19 more, 24 in all.*max_bad_fraction"):
        read_raw(copy.settings(), copy.project)


def test_a_broken_station_file_is_noted(copy: MISMECopy) -> None:
    (copy.root / "labels/classification/OK001_only_test_set.xlsx").write_bytes(b"")
    notes = read_raw(copy.settings(), copy.project).meta["notes"]
    assert any("Station OK001 is left out" in n for n in notes)
    assert any("in no station file" in n for n in notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {"images": ["images"]}}, r"no modality 'images'. Did you mean 'image'"),
        ({"columns": {"tabular": ["vwc"]}}, "must not hold vwc"),
        ({"columns": {"tabular": ["soil_temperature"]}}, "must not hold soil_temperature"),
        ({"columns": {"image": ["a", "b"]}}, "one column"),
        ({"task": "classification"}, "is a regression"),
    ],
)
def test_settings_that_the_layout_can_not_serve_are_refused(
    copy: MISMECopy, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_raw(copy.settings(**changes), copy.project)
