"""Tables that comparable software reads wrongly: the right values, or one message that says what is wrong.

The folders of hard_inputs/ stand for public bug reports (its README); further files of the same kinds are
made here."""

from __future__ import annotations

import datetime
import decimal
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


# ---------------------------------------------------------------------------------------- further such files
N = 12
Write = Callable[[Path], object]


def frame(**columns: Any) -> pd.DataFrame:
    own = {"id": [f"s{i}" for i in range(N)], "x": np.arange(N) + 0.5, "txt": "w", "y": ["a", "b"] * (N // 2)}
    return pd.DataFrame(own | columns)


def parquet(**columns: Any) -> Write:
    return lambda path: pq.write_table(pa.table(frame().to_dict("list") | columns), path)


def text(
    row: Callable[[int], str], header: str = "id,x,txt,y", end: str = "\n", encoding: str = "utf-8"
) -> Write:
    lines = [header, *(row(i) for i in range(N))]
    return lambda path: path.write_bytes((end.join(lines) + end).encode(encoding))


def label(i: int) -> str:
    return "ab"[i % 2]


def cells(*values: object) -> Write:
    """A table whose column x starts with these cells."""
    x = [*values, *(i + 0.25 for i in range(N - len(values)))]
    return lambda path: frame(x=pd.Series(x, dtype=object)).to_csv(path, index=False)


def workbook(change: Callable[[Any], object], **columns: Any) -> Write:
    def write(path: Path) -> None:
        frame(**columns).to_excel(path, index=False)
        book = openpyxl.load_workbook(path)
        change(book)
        book.save(path)

    return write


def quoted(txt: str) -> Write:
    return text(lambda i: f"s{i},{i},{txt},{label(i)}")


def files(name: str, column: str) -> Write:
    """A table beside files of the same names, whose letters may be composed otherwise."""

    def write(path: Path) -> None:
        for i in range(N):
            (path.parent / f"{name}{i}.jpg").parent.mkdir(exist_ok=True)
            (path.parent / f"{name}{i}.jpg").write_bytes(b"x")
        frame(photo=[f"{column}{i}.jpg" for i in range(N)]).to_csv(path, index=False)

    return write


def joined(keys: list[object], others: list[object], ending: str) -> Write:
    def write(path: Path) -> None:
        frame(key=keys).to_csv(path, index=False)
        other = pd.DataFrame({"key": others, "z": np.arange(N) * 2.0})
        other.to_csv(path.with_name("o.csv")) if ending == "csv" else other.to_parquet(
            path.with_name("o.parquet")
        )

    return write


QUOTE = '"'
NFC, NFD = "é", unicodedata.normalize("NFD", "é")
LONG = [2**60 + i for i in range(N)]
LONG8 = [10012345 + 37 * i for i in range(N)]
SHORT = [datetime.datetime(2024, 1, 1 + i, 22, 30) for i in range(N)]
BERLIN = pa.array(SHORT, pa.timestamp("us", tz="Etc/GMT-2"))
DATES = {"modalities": {"m": {"kind": "tabular", "columns": ["x"], "dates": ["d"]}, "txt": {"kind": "text"}}}
PLACES = {
    "modalities": {"m": {"kind": "tabular", "columns": ["x"], "categorical": ["c"]}, "txt": {"kind": "text"}}
}
PHOTO = {"modalities": {"photo": {"kind": "image", "size": [4]}, "txt": {"kind": "text"}}}
JOIN = {"join": [{"table": "o.csv", "key": "key"}]}
Z = {"modalities": {"num": {"kind": "tabular", "columns": ["z"]}, "txt": {"kind": "text"}}}
REGRESSION = {"task": "regression"}

# name, file, how it is written, the section of the data set, a column, its first cells, a note (or "")
Case = tuple[str, str, Write, dict[str, Any], str, list[object], str]
READ: list[Case] = [
    (
        "line ends of all kinds",
        "m.csv",
        text(lambda i: f"s{i},{i},w,{label(i)}" + "\r" * (i % 2)),
        {},
        "x",
        [0, 1],
        "",
    ),
    (
        "empty columns at the end",
        "m.csv",
        text(lambda i: f"s{i},{i},w,{label(i)},,", "id,x,txt,y,,"),
        {},
        "x",
        [0, 1],
        "",
    ),
    (
        "a row above 1 MB",
        "m.csv",
        text(lambda i: f"s{i},{i},{'w ' * 600_000 * (i == 3)},{label(i)}"),
        {},
        "x",
        [0, 1],
        "",
    ),
    # quotation marks
    ("inches", "m.csv", quoted('5" pipe'), {}, "txt", ['5" pipe'], ""),
    ("blanks around quoted cells", "m.csv", quoted(' "w, ""w""" '), {}, "txt", ['w, "w"'], ""),
    ("a backslash that ends a cell", "m.csv", quoted('"C:\\w\\"'), {}, "txt", ["C:\\w\\"], ""),
    ("lines within cells", "m.csv", quoted('"one\ntwo, three"'), {}, "txt", ["one\ntwo, three"], ""),
    (
        "marks that are not doubled, between quoted cells",
        "m.csv",
        text(lambda i: f'"s{i}","{i}","say "hi"","{label(i)}"', '"id","x","txt","y"'),
        {},
        "txt",
        ['say "hi"'],
        "m.csv: quotation marks that are not around a whole cell are read as characters (row 2).",
    ),
    # numbers
    ("Unicode minus", "m.csv", cells("\N{MINUS SIGN}5"), {}, "x", [-5], ""),
    ("blanks that do not break", "m.csv", cells("\N{NO-BREAK SPACE}5\N{NO-BREAK SPACE}"), {}, "x", [5], ""),
    (
        "commas for thousands",
        "m.csv",
        cells("1,234.5", "2,000"),
        {},
        "x",
        [1234.5, 2000],
        "marks for thousands",
    ),
    (
        "three digits behind decimal commas",
        "m.csv",
        text(lambda i: f"s{i};{i + 1},{i + 125};w;{label(i)}", "id;x;txt;y"),
        {},
        "x",
        [1.125, 2.126],
        "Column 'x': 12 numbers have a decimal comma, and are read so.",
    ),
    (
        "points between semicolons",
        "m.csv",
        text(lambda i: f"s{i};{i + 1}.{i + 125};w;{label(i)}", "id;x;txt;y"),
        {},
        "x",
        [1.125, 2.126],
        "such as '1.125' are read with a decimal point; remove the points if they are for thousands.",
    ),
    (
        "points for thousands in a target",
        "m.csv",
        text(lambda i: f"s{i};{i};w;" + ("1.234" if i == 1 else f"{i},5"), "id;x;txt;y"),
        REGRESSION,
        "target",
        [0.5, 1234],
        "1 numbers have marks for thousands, and are read so ('1.234' is 1234)",
    ),
    (
        "typed numbers beside text",
        "m.xlsx",
        workbook(lambda b: None, x=["12,5", 1.234, *["1,5"] * 10]),
        {},
        "x",
        [12.5, 1.234],
        "",
    ),
    # ids, keys, classes
    (
        "whole numbers beyond 2^53",
        "m.csv",
        lambda p: frame(id=LONG).to_csv(p, index=False),
        {},
        "sample_id",
        [str(LONG[0])],
        "",
    ),
    (
        "ids like 1e5",
        "m.csv",
        lambda p: frame(id=[f"1e{i}" for i in range(N)]).to_csv(p, index=False),
        {},
        "sample_id",
        ["1e0"],
        "",
    ),
    ("keys of eight digits", "m.csv", joined(LONG8, LONG8, "csv"), Z | {"raw": JOIN}, "z", [0, 2], ""),
    (
        "a group that a spreadsheet has cut",
        "m.csv",
        lambda p: frame(g="1.15292E+18").to_csv(p, index=False),
        {"raw": {"group": "g"}},
        "group",
        ["1.15292E+18"],
        "Column 'g': 12 cells such as '1.15292E+18' are long numbers without their last digits",
    ),
    (
        "classes in two Unicode forms",
        "m.csv",
        lambda p: frame(y=[NFC, NFD, "b"] * 4).to_csv(p, index=False),
        {},
        "target",
        [1, 1, 0],
        "",
    ),
    ("files in another Unicode form", "m.csv", files(NFD, NFC), PHOTO, "photo", [f"{NFD}0.jpg"], ""),
    (
        "folders in another Unicode form",
        "m.csv",
        files(f"{NFD}/", f"{NFC}/"),
        PHOTO,
        "photo",
        [f"{NFD}/0.jpg"],
        "",
    ),
    (
        "a category called NA",
        "m.csv",
        lambda p: frame(c=["NA", "EU"] * 6).to_csv(p, index=False),
        PLACES,
        "c",
        [None, "EU"],
        "Column 'c': 6 cells are 'NA', read as missing.",
    ),
    # types
    ("decimals", "m.parquet", parquet(x=[decimal.Decimal(i) / 4 for i in range(N)]), {}, "x", [0, 0.25], ""),
    (
        "ids that are decimals",
        "m.parquet",
        parquet(id=[decimal.Decimal(f"{i}.00") for i in range(N)]),
        {},
        "sample_id",
        ["0", "1"],
        "",
    ),
    (
        "whole numbers and nulls",
        "m.parquet",
        parquet(x=pa.array([None, *range(N - 1)])),
        {},
        "x",
        [None, 0],
        "",
    ),
    (
        "groups beyond 2^53 and nulls",
        "m.parquet",
        parquet(g=pa.array([*LONG[1:], None])),
        {"raw": {"group": "g"}},
        "group",
        [str(LONG[1]), str(LONG[2])],
        "",
    ),
    (
        "arrays beyond 2^53",
        "m.npy",
        lambda p: np.save(p, np.stack([LONG, np.arange(N), np.arange(N) % 2], 1)),
        Z | {"raw": {"names": ["id", "z", "y"]}, "modalities": {"z": {"kind": "tabular", "columns": ["z"]}}},
        "sample_id",
        [str(LONG[0])],
        "",
    ),
    (
        "dictionaries",
        "m.parquet",
        parquet(x=pa.array(range(N)).dictionary_encode(), y=pa.array(["a", "b"] * 6).dictionary_encode()),
        {},
        "x",
        [0, 1],
        "",
    ),
    ("truths as classes", "m.parquet", parquet(y=[True, False] * 6), {}, "target", [1, 0], ""),
    (
        "days of a time zone",
        "m.parquet",
        parquet(d=BERLIN),
        DATES,
        "d",
        [pd.Timestamp(2024, 1, 2)],
        "the times of day in 12 cells are not used",
    ),
    (
        "dates of a workbook",
        "m.xlsx",
        workbook(lambda b: None, d=[datetime.date(2024, 5, 1)] * N),
        DATES,
        "d",
        [pd.Timestamp(2024, 5, 1)],
        "",
    ),
    (
        "a sheet behind",
        "m.xlsx",
        workbook(lambda b: b.create_sheet("notes")),
        {},
        "x",
        [0.5],
        "m.xlsx: Only the first worksheet ('Sheet1') is read; there are 'notes', too.",
    ),
]

# name, file, how it is written, the data set's section, words of the message
Told = tuple[str, str, Write, dict[str, Any], list[str]]
REFUSED: list[Told] = [
    (
        "UTF-16",
        "m.csv",
        text(lambda i: f"s{i},{i},w,a", encoding="utf-16"),
        {},
        ["m.csv is UTF-16, not UTF-8"],
    ),
    (
        "Windows' character set",
        "m.csv",
        text(lambda i: f"s{i};{i};süß;a", "id;x;txt;y", encoding="cp1252"),
        {},
        ["m.csv is not UTF-8", "in line 2"],
    ),
    (
        "a header twice",
        "m.csv",
        text(lambda i: f"s{i},{i},{i},w,{label(i)}", "id,x,x,txt,y"),
        {},
        ["m.csv has columns more than once", "'x'"],
    ),
    (
        "names that are too few",
        "m.csv",
        text(lambda i: f"s{i},{i},w,{label(i)}"),
        {"raw": {"names": ["id", "x", "y"]}},
        ["13 of 13 rows can not be used", "row 1: has 4 cells, and `names` gives 3", "`names` under `raw`"],
    ),
    (
        "some rows with a cell too many",
        "m.csv",
        text(lambda i: f"s{i},{i},w{', w' * (i > 0)},{label(i)}"),
        {"raw": {"labelled_only": True}},
        ["11 of 12 rows can not be used", "row 3: has 5 cells, not 4"],
    ),
    (
        "a mark that is not closed",
        "m.csv",
        text(lambda i: f"s{i},{i},{QUOTE * (i == 4)}w, w,{label(i)}"),
        {},
        ["m.csv: a quotation mark is not closed", "row 6"],
    ),
    (
        "a mark that is not doubled",
        "m.csv",
        text(lambda i: f's{i},{i},"w, {"w" if i else ""}" w",{label(i)}'),
        {},
        ["or one within a cell is not doubled", 'row 2, near \'"w, " w"'],
    ),
    (
        "marks that close each other",
        "m.tsv",
        text(
            lambda i: f"s{i}\t{i}\t" + {3: '"w', 5: 'w"', 7: '"w\tw"'}.get(i, "w") + f"\t{label(i)}",
            "id\tx\ttxt\ty",
        ),
        {},
        ["m.tsv: 1 quoted cells hold line ends, and each of their lines has 4 cells", "line 5"],
    ),
    (
        "a header of another Unicode form",
        "m.csv",
        lambda p: frame(**{NFD: range(N)}).to_csv(p, index=False),
        {"modalities": {"num": {"kind": "tabular", "columns": [NFC]}}},
        [f"Copy {NFD!r} from here"],
    ),
    *(
        (f"the cell {cell}", "m.csv", cells(cell), {}, [f"row 2, column 'x': text {cell!r} {reason}"])
        for cell, reason in [
            ("12%", "is no number"),
            ("$5", "is no number"),
            ("5 kg", "is no number"),
            ("1_000", "is no number"),
            ("1.234,5", "is no number"),
            ("1,234", "may have a decimal comma or a comma for thousands"),
        ]
    ),
    (
        "points or thousands",
        "m.csv",
        lambda p: frame(x=["1,5", *["1.234"] * 11]).to_csv(p, index=False),
        {},
        ["row 3, column 'x': text '1.234' may have a decimal point or a point for thousands"],
    ),
    (
        "units everywhere",
        "m.csv",
        lambda p: frame(x="5 kg").to_csv(p, index=False),
        {},
        ["row 2, column 'x': text '5 kg' is no number", "write plain numbers"],
    ),
    (
        "zeros that a number lacks",
        "m.csv",
        joined([f"{i:03d}" for i in range(N)], [*range(N)], "parquet"),
        Z | {"raw": {"join": [{"table": "o.parquet", "key": "key"}]}},
        ["row 3: o.parquet has no row of key '001' (it has '1': zeros differ)"],
    ),
    (
        "months",
        "m.csv",
        lambda p: frame(d=[202401 + i for i in range(N)]).to_csv(p, index=False),
        DATES,
        ["cells that are not dates", "row 2, column 'd': '202401'"],
    ),
    (
        "days counted by Excel",
        "m.xlsx",
        workbook(lambda b: None, d=[45000 + i for i in range(N)]),
        DATES,
        ["row 2, column 'd': '45000'"],
    ),
    (
        "a date among numbers",
        "m.xlsx",
        workbook(lambda b: None, x=[*range(N - 1), datetime.date(2024, 5, 1)]),
        {},
        ["row 13, column 'x': text '2024-05-01 00:00:00' is no number"],
    ),
    (
        "ids that Excel has cut",
        "m.xlsx",
        workbook(lambda b: None, id=[float(n) for n in LONG]),
        {},
        ["ids in column 'id' that are not unique"],
    ),
    (
        "a workbook that openpyxl can not read",
        "m.xlsx",
        workbook(lambda b: b.create_chartsheet("c", 0)),
        {},
        ["m.xlsx is a truncated or damaged workbook"],
    ),
    (
        "lists",
        "m.parquet",
        parquet(txt=[["w"]] * N),
        {},
        ["m.parquet: cells that are neither text nor number", "row 1, column 'txt': '<list>'"],
    ),
    (
        "bytes that are no text",
        "m.parquet",
        parquet(txt=[b"w", b"\xff"] * 6),
        {},
        ["row 2, column 'txt': '<bytes>'"],
    ),
    (
        "lists in JSON",
        "m.jsonl",
        lambda p: p.write_text(
            "\n".join(json.dumps(row | {"txt": ["w"]}) for row in frame().to_dict("records"))
        ),
        {},
        ["row 1, column 'txt': '<list>'"],
    ),
    (
        "a joined table without the column",
        "m.csv",
        lambda p: (
            frame().drop(columns="x").to_csv(p, index=False),
            frame(z=1)[["id", "z"]].to_csv(p.with_name("o.csv"), index=False),
        ),
        {"raw": {"join": [{"table": "o.csv", "key": "id"}]}},
        ["m.csv lacks columns", "'x'", "o.csv is joined to it"],
    ),
    (
        "too few rows",
        "m.csv",
        lambda p: frame().head(2).to_csv(p, index=False),
        {},
        ["m.csv: 2 samples can not be divided into train, val and test"],
    ),
    (
        "a path that names no file",
        "m.csv",
        lambda p: frame(x="./").to_csv(p, index=False),
        {"modalities": {"x": {"kind": "image", "size": [8]}}},
        ["12 of 12 rows", "'./' names no file"],
    ),
    (
        "a path that names no file, where paths are ids",
        "m.csv",
        lambda p: frame(x=".").to_csv(p, index=False),
        {"modalities": {"x": {"kind": "image", "size": [8]}}, "raw": {"id": None}},
        ["12 of 12 rows", "'.' names no file"],
    ),
    (
        "truths as numbers",
        "m.parquet",
        parquet(x=[True, False] * 6),
        {},
        ["column 'x' holds text", "'True', 'False'"],
    ),
]


def made(project: Path, file: str, write: Write, section: dict[str, Any]) -> Manifest:
    (project / "raw").mkdir()
    write(project / "raw" / file)
    raw = {"layout": "table", "raw_dir": "raw", "table": file, "id": "id", "target": "y"}
    raw |= {"split": {"val": 0.25, "test": 0.25}} | section.get("raw", {})
    modalities = {"num": {"kind": "tabular", "columns": ["x"]}, "txt": {"kind": "text"}}
    return read(project, {"task": "classification", "modalities": modalities} | section | {"raw": raw})


@pytest.mark.parametrize(
    ("file", "write", "section", "column", "right", "note"),
    [case[1:] for case in READ],
    ids=[case[0] for case in READ],
)
def test_cells_are_read(
    tmp_path: Path,
    file: str,
    write: Write,
    section: dict[str, Any],
    column: str,
    right: list[object],
    note: str,
) -> None:
    manifest = made(tmp_path, file, write, section)
    assert len(manifest.table) == N
    first = manifest.table[column].head(len(right)).tolist()
    assert [None if pd.isna(cell) else cell for cell in first] == right
    assert not note or any(note in line for line in manifest.meta["notes"]), manifest.meta["notes"]


@pytest.mark.parametrize(
    ("file", "write", "section", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_cells_are_told(
    tmp_path: Path, file: str, write: Write, section: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(DataError) as told:
        made(tmp_path, file, write, section)
    for word in words:
        assert word in str(told.value)
