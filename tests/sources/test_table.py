"""Anybody's own table: what is read by itself, and what is told by row, column and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml
from PIL import Image

from g2d_pipeline.config import IngestSettings, Table, TargetSettings
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.layout import find_layout
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import OPTIONS

N = 40
FRACTIONS = {"val": 0.2, "test": 0.2}
REGRESSION = {"task": "regression", "raw": {"target": "price"}}
KINDS = {"sound": "audio", "photo": "image", "clip": "video", "vector": "vector", "remark": "text"}


@dataclass
class Own:
    """A folder `raw` of sounds and pictures with a table of them, and the means to break it."""

    project: Path
    frame: pd.DataFrame
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.project / "raw"

    @property
    def table(self) -> Path:
        return self.root / "metadata.csv"

    def save(self, **options: Any) -> None:
        self.frame.to_csv(self.table, index=False, **options)

    def put(self, row: int, column: str, value: str | float) -> None:
        """Set the cell of a row as the user counts (the header is row 1)."""
        self.frame[column] = self.frame[column].astype(object)
        self.frame.loc[row - 2, column] = value
        self.save()

    def text(self, change: Callable[[str], str]) -> None:
        self.table.write_text(change(self.table.read_text(encoding="utf-8")), encoding="utf-8", newline="")

    def settings(self, raw: dict[str, Any] | None = None, **changes: Any) -> IngestSettings:
        fields: dict[str, Any] = {
            "dataset": "own",
            "source": "raw",
            "task": "classification",
            "target": TargetSettings(),
            "columns": {"sound": ["sound"], "photo": ["photo"], "weather": ["warmth", "rain"]},
            "max_bad_fraction": 0.0,
            "options": OPTIONS,
        }
        of = {"raw_dir": "raw", "target": "label", "split": FRACTIONS} | self.raw | (raw or {})
        kinds = {"kinds": {name: KINDS.get(name, "tabular") for name in (fields | changes)["columns"]}}
        return IngestSettings(**fields | kinds | changes, raw=Table(**of))

    def read(self, raw: dict[str, Any] | None = None, **changes: Any) -> Manifest:
        return read_raw(self.settings(raw, **changes), self.project)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"key": [f"s{i:02d}" for i in range(N)]})
    frame["sound"] = [f"audio/{i:02d}.wav" for i in range(N)]
    frame["photo_file_name"] = [f"Photos/{i:02d}.jpg" for i in range(N)]
    frame["warmth"] = rng.normal(20, 5, N).round(2)
    frame["rain"] = rng.integers(0, 9, N)
    frame["label"] = ["dry" if i % 4 else "wet" for i in range(N)]
    frame["price"] = rng.lognormal(size=N).round(4) + 1
    frame["place"] = [f"p{i % 8}" for i in range(N)]
    frame["fold"] = ["training"] * 24 + ["Valid"] * 8 + ["evaluation"] * 8
    made = Own(tmp_path, frame)
    for name in [*frame["sound"], *frame["photo_file_name"]]:
        path = made.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF" + name.encode())
    made.save()
    return made


# ---------------------------------------------------------------------------------------- what works as it is
def test_a_table_of_sounds_pictures_and_numbers(own: Own) -> None:
    manifest = own.read()
    table, meta = manifest.table, manifest.meta
    assert list(table.columns) == ["sample_id", "split", "target", "sound", "photo", "warmth", "rain"]
    assert meta["class_names"] == ["dry", "wet"]
    assert meta["counts"] == {"train": 24, "val": 8, "test": 8}
    assert table["target"].tolist() == (own.frame["label"] == "wet").astype(int).tolist()
    assert table["sound"].tolist() == own.frame["sound"].tolist()
    assert table["photo"].tolist() == own.frame["photo_file_name"].tolist()
    assert table["sample_id"][3] == "audio/03"
    assert table["warmth"].tolist() == own.frame["warmth"].tolist()
    assert table["rain"].dtype == "float64"
    assert "Columns of metadata.csv that are not used: key, price, place, fold." in meta["notes"]
    assert all(
        sum((table["split"] == s) & (table["target"] == 1)) in (2, 6) for s in ("train", "val", "test")
    )


def test_split_column_synonyms_ids_and_a_logarithm(own: Own) -> None:
    manifest = own.read(
        {"split": "fold", "id": "key", "target": "price", "log_target": True}, task="regression"
    )
    table, meta = manifest.table, manifest.meta
    assert meta["counts"] == {"train": 24, "val": 8, "test": 8}
    assert table["split"].tolist() == ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    assert table["sample_id"].tolist() == own.frame["key"].tolist()
    assert table["target"].to_numpy() == pytest.approx(np.log(own.frame["price"]))
    assert any("natural logarithm of 'price'" in note for note in meta["notes"])


@pytest.mark.parametrize("group", [None, "place"])
def test_an_official_test_split_with_val_drawn_from_train(own: Own, group: str | None) -> None:
    own.frame["fold"] = ["training"] * 30 + ["test"] * 10
    own.save()
    with pytest.raises(DataError, match=r"have val drawn from train: `split: \{column: fold, val: 0.1\}`"):
        own.read({"split": "fold"})
    manifest = own.read({"split": {"column": "fold", "val": 0.2, "group": group}})
    split = manifest.table["split"]
    assert (split[30:] == "test").all()
    assert set(split[:30]) == {"train", "val"}
    if group is None:
        assert (split == "val").sum() == 6
    else:
        places = own.frame["place"]
        assert not set(places[split == "val"]) & set(places[split == "train"])
    assert any("val is drawn from the official train rows" in note for note in manifest.meta["notes"])


def test_one_group_at_a_time_is_left_out(own: Own) -> None:
    own.frame.loc[3, ["place", "label"]] = ["p9", ""]  # one row, and it has no label
    own.save()
    raw = own.settings({"split": {"folds": "leave_one_out", "group": "place"}}).raw
    assert find_layout(raw, own.root).with_folds().split.folds == 9
    labelled = raw.model_copy(update={"labelled_only": True})
    counted = find_layout(labelled, own.root).with_folds()
    ends = counted.repeats(seed=5)
    assert list(ends) == [f"fold{i}/seed5" for i in range(1, 9)]
    tested = []
    for _, one in ends.values():
        manifest = own.read(one.model_dump())
        tested.append(set(manifest.table.loc[manifest.table["split"] == "test", "group"]))
    assert tested == [{f"p{i}"} for i in range(8)]
    assert "Test is 'place' p7." in " ".join(manifest.meta["notes"])
    with pytest.raises(DataError, match=r"split\.folds = 9, and there are 8 values of 'place'"):
        own.read({"split": {"folds": 9, "group": "place"}}, max_bad_fraction=0.1)
    tenth = own.settings({"split": {"folds": "leave_one_out", "fold": 10, "group": "place"}}).raw
    with pytest.raises(ConfigError, match=r"split\.fold = 10: metadata\.csv has 9 groups"):
        find_layout(tenth, own.root).with_folds()
    own.frame["place"] = ["p0", "p1"] * 20
    own.save()
    with pytest.raises(DataError, match=r"leave_one_out: metadata.csv has 2 groups in 'place'"):
        find_layout(raw, own.root).with_folds()


def test_named_groups_are_val_and_test(own: Own) -> None:
    manifest = own.read(
        {"split": {"group": "place", "test": {"group": ["p1", "p2"]}, "val": {"group": ["p7"]}}}
    )
    expected = {"p1": "test", "p2": "test", "p7": "val"}
    assert manifest.table["split"].tolist() == [expected.get(p, "train") for p in own.frame["place"]]
    assert any("Test is 'place' p1, p2." in note for note in manifest.meta["notes"])


@pytest.mark.parametrize(
    ("name", "cells", "use"),
    [
        ("fold", ["training"] * 30 + ["test"] * 10, "`split: {column: fold, val: 0.1}`"),
        ("fold", ["training"] * 20 + ["val"] * 10 + ["test"] * 10, "`split: fold`"),
        ("Split", [1, 2] * 20, "`split: Split`"),
        ("fold", ["test"] * 20 + ["exam"] * 20, None),
    ],
)
def test_a_split_column_that_is_not_used_is_told_loudly(
    own: Own, caplog: pytest.LogCaptureFixture, name: str, cells: list[Any], use: str | None
) -> None:
    own.frame = own.frame.drop(columns="fold").assign(**{name: cells})
    own.save()
    own.read()
    loud = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    text = f"own: Warning: column {name!r} is NOT used as the split. If it is the official one, say {use}."
    assert loud == ([text] if use else [])


def test_groups_are_in_one_split_each(own: Own) -> None:
    manifest = own.read({"split": FRACTIONS | {"group": "place"}})
    assert manifest.meta["group_disjoint"]
    assert manifest.table["group"].tolist() == own.frame["place"].tolist()
    assert (manifest.table.groupby("group")["split"].nunique() == 1).all()


def test_the_folder_convention_needs_one_line(own: Own) -> None:
    own.frame = own.frame.rename(columns={"sound": "file_name"})
    own.save()
    table = own.read(columns={"sound": ["sound"]}).table
    assert table["sound"].tolist() == own.frame["file_name"].tolist()


def test_a_tabular_modality_of_one_column_with_its_own_name(own: Own) -> None:
    manifest = own.read(columns={"warmth": ["warmth"], "sound": ["sound"]})
    assert manifest.table["warmth"].dtype == "float64"
    assert own.read(columns={"weather": ["rain"]}).table["sample_id"].tolist() == [
        f"row{i + 2}" for i in range(N)
    ]


def test_a_folder_of_pictures_is_one_video_and_repeated_files_get_ids(own: Own) -> None:
    own.frame["clip"] = ["Photos", *own.frame["photo_file_name"][1:39], "./Photos//01.jpg"]
    own.save()
    table = own.read(columns={"clip": ["clip"]}).table
    assert table["clip"][0] == "Photos"
    assert table["clip"][39] == table["clip"][1]
    assert table["sample_id"].tolist()[::39] == ["Photos", "Photos/01@row41"]
    assert table["sample_id"][1] == "Photos/01@row3"


def test_templates_name_files_by_row_and_column(own: Own) -> None:
    for i in range(N):
        (own.root / f"audio/{i:02d}.wav").rename(own.root / f"audio/{i + 1}_p{i % 8}.wav")
    np.save(own.root / "vectors.npy", np.zeros((N, 3)))
    columns = {"sound": "audio/{row}_{place}.wav", "vector": "vectors.npy#{index}"}
    table = own.read({"columns": columns}, columns={"sound": ["sound"], "vector": ["vector"]}).table
    assert table["sound"][0] == "audio/1_p0.wav"
    assert table["vector"][39] == "vectors.npy#39"


@pytest.mark.parametrize(
    "ending", ["tsv", "semicolon.csv", "bom.csv", "jsonl", "parquet", "xlsx", "crlf.csv"]
)
def test_every_format_says_the_same(own: Own, ending: str) -> None:
    plain = own.read().table
    path = own.root / f"data.{ending}"
    if ending == "jsonl":
        own.frame.to_json(path, orient="records", lines=True)
    elif ending == "parquet":
        own.frame.to_parquet(path)
    elif ending == "xlsx":
        own.frame.to_excel(path, index=False)
    else:
        separator = {"tsv": "\t", "semicolon.csv": ";"}.get(ending, ",")
        encoding = "utf-8-sig" if ending == "bom.csv" else "utf-8"
        own.frame.to_csv(
            path,
            index=False,
            sep=separator,
            encoding=encoding,
            lineterminator="\r\n" if ending[0] == "c" else "\n",
        )
    pd.testing.assert_frame_equal(own.read({"table": path.name}).table, plain)


def test_a_text_table_without_header(own: Own) -> None:
    lines = [f"  {row.rain}   {row.warmth} {row.price}" for row in own.frame.itertuples()]
    (own.root / "info.txt").write_text("\n".join(lines) + "\n")
    raw = {"table": "info.txt", "names": ["rain", "warmth", "price"], "target": "price"}
    table = own.read(raw, task="regression", columns={"weather": ["rain", "warmth"]}).table
    assert table["target"].tolist() == pytest.approx(own.frame["price"].tolist())
    assert table["sample_id"][0] == "row1"


def test_a_table_in_a_folder_deeper_and_paths_elsewhere(own: Own) -> None:
    (own.root / "labels").mkdir()
    own.table.rename(own.root / "labels/all.csv")
    manifest = own.read({"table": "labels/all.csv", "root": "."})
    assert manifest.meta["raw_dir"] == "raw"
    with pytest.raises(DataError, match=r"'audio/00\.wav' is missing"):
        own.read({"table": "labels/all.csv"})
    (own.root / "audio").rename(own.root / "labels/audio")
    manifest = own.read({"table": "labels/all.csv"}, columns={"sound": ["sound"]})
    assert manifest.meta["raw_dir"] == "raw/labels"


def test_missing_values_and_commas_become_numbers(own: Own) -> None:
    missing = ["", "NA", "NaN", "null", "N/A", "-", "none", "-9999", "-9999.0"]
    for row, cell in enumerate([*missing, "21,5", " 3.5 ", "1e1"], start=2):
        own.put(row, "warmth", cell)
    manifest = own.read()
    assert manifest.table["warmth"][:9].isna().all()
    assert manifest.table["warmth"][9:12].tolist() == [21.5, 3.5, 10.0]
    assert any("1 numbers have a decimal comma" in note for note in manifest.meta["notes"])


def test_numeric_classes_sort_as_numbers_and_classes_can_be_ordered(own: Own) -> None:
    own.frame["label"] = [f"{2 + 8 * (i % 2)}.0" for i in range(N)]
    own.save()
    assert own.read().meta["class_names"] == ["2", "10"]
    assert own.read({"classes": ["10", "2"]}).table["target"][0] == 1


def test_bad_rows_are_dropped_where_that_is_allowed(own: Own) -> None:
    (own.root / "audio/05.wav").unlink()
    own.put(12, "label", "NA")
    own.text(lambda text: text + "too,short\n")
    manifest = own.read(max_bad_fraction=0.1)
    assert len(manifest.table) == N - 2
    assert [(d["row"], d["reason"].split(":")[0]) for d in manifest.meta["dropped"]] == [
        (42, "has 2 cells, not 9"),
        (7, "'audio/05.wav' is missing"),
        (12, "no label in the target's column 'label'"),
    ]


def test_empty_rows_count_and_are_left_out(own: Own) -> None:
    own.text(lambda text: text.replace("\n", "\n\n,,,,,,,,\n", 1))
    manifest = own.read()
    assert len(manifest.table) == N
    assert "metadata.csv: 2 wholly empty rows are left out (row 2, 3)." in manifest.meta["notes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(rain=[-9999, 1] * (N // 2)), "'rain' holds 20 × -9999, read as missing"),
        (lambda f: f.assign(rain=[-999, 1] * (N // 2)), "'rain' holds 20 × -999, read as numbers"),
        (lambda f: f.assign(price=[1.5, -9999.0, *range(N - 2)]), "'price' holds 1 × -9999, read as missing"),
        (lambda f: f.assign(sound="audio/00.wav"), "1 files of 'sound' are in more than one split"),
    ],
)
def test_what_is_strange_is_noted(
    own: Own, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    own.frame = change(own.frame)
    own.save()
    manifest = own.read({"target": "price"}, task="regression", max_bad_fraction=0.1)
    assert any(words in note for note in manifest.meta["notes"]), manifest.meta["notes"]


def test_classes_that_differ_in_case_are_noted(own: Own) -> None:
    own.frame["label"] = ["Dry", "dry", "wet", "wet"] * 10
    own.save()
    assert (
        "Classes that differ in case or blanks only: 'Dry' and 'dry'. Are they one?"
        in own.read().meta["notes"]
    )


def test_signature_follows_what_the_table_names(own: Own) -> None:
    raw = own.settings().raw
    assert locate(raw, "auto", own.project) == ("raw", own.root)
    cache = own.project / "cache.json"
    before = signature(raw, "raw", own.root, cache, own.settings())
    for name in ("README.md", "audio/99.wav"):
        (own.root / name).write_text("named by no row")
    assert signature(raw, "raw", own.root, cache, own.settings()) == before
    (own.root / "audio/00.wav").write_bytes(b"RIFFother")
    changed = signature(raw, "raw", own.root, cache, own.settings())
    (own.root / "audio/00.wav").unlink()
    without = signature(raw, "raw", own.root, cache, own.settings())
    assert len({before, changed, without}) == 3


# -------------------------------------------------------------------------------------- what is told, by name
def rename(old: str, new: str) -> Callable[[Own], None]:
    def change(own: Own) -> None:
        own.frame = own.frame.rename(columns={old: new})
        own.save()

    return change


def put(row: int, column: str, value: str | float) -> Callable[[Own], None]:
    return lambda own: own.put(row, column, value)


def fill(column: str, value: str | float) -> Callable[[Own], None]:
    def change(own: Own) -> None:
        own.frame[column] = value
        own.save()

    return change


def write(content: bytes) -> Callable[[Own], None]:
    def change(own: Own) -> None:
        own.table.write_bytes(content)

    return change


def lose(own: Own) -> None:
    for path in (own.root / "audio").iterdir():
        if path.stem > "29":
            path.unlink()


def empty_folder(own: Own) -> None:
    (own.root / "clip").mkdir()
    own.put(3, "sound", "clip")


def repeat_header(own: Own) -> None:
    own.text(lambda text: text.replace("warmth,rain", "rain,rain", 1))


# The commonest faults are in tests/test_bad_input_cases.py, from the table to the feature store.
BAD: list[tuple[str, Callable[[Own], Any], dict[str, Any], list[str]]] = [
    # the file
    (
        "no table",
        lambda own: own.table.unlink(),
        {},
        ["holds files, but not those of layout table", "'metadata.csv'"],
    ),
    ("blank file", write(b"\n \n"), {}, ["metadata.csv is empty"]),
    (
        "LFS pointer",
        write(b"version https://git-lfs.github.com/spec/v1\n"),
        {},
        ["Git-LFS pointer", "git lfs pull"],
    ),
    ("web page", write(b"<!doctype html><html>"), {}, ["is a web page"]),
    ("utf-16", lambda own: own.save(encoding="utf-16"), {}, ["is UTF-16, not UTF-8"]),
    ("zero bytes", write(b"a,b\n\0,1\n"), {}, ["zero bytes"]),
    (
        "a cell too many",
        lambda own: own.text(lambda t: t.replace("audio/03.wav", "audio/03.wav,5")),
        {},
        ["metadata.csv, row 5: has 10 cells, not 9", "max_bad_fraction"],
    ),
    (
        "open quotation",
        lambda own: own.text(lambda t: t.replace("audio/03", '"audio/03') + "x\n" * 60),
        {},
        ["a quotation mark is not closed", "row 5 goes over 96 lines"],
    ),
    (
        "swallowed lines",
        lambda own: own.text(lambda t: t.replace("s03,", '"s03' + "\nx" * 51 + '",')),
        {},
        ["a quotation mark is not closed", "row 5, column 'key', goes over 51 lines"],
    ),
    (
        "no ending",
        lambda own: None,
        {"raw": {"table": "audio/00.wav"}},
        ["has the ending '.wav'", ".csv, .tsv"],
    ),
    (
        "json that is none",
        lambda own: (own.root / "m.jsonl").write_text('{"label": 1}\n{label\n[1]\n'),
        {"raw": {"table": "m.jsonl"}},
        ["m.jsonl has no column of modality 'sound'", "- label"],
    ),
    (
        "broken parquet",
        lambda own: (own.root / "m.parquet").write_bytes(b"PAR1xxxx"),
        {"raw": {"table": "m.parquet"}},
        ["m.parquet is no parquet table"],
    ),
    (
        "csv named xlsx",
        lambda own: (own.root / "m.xlsx").write_bytes(own.table.read_bytes()),
        {"raw": {"table": "m.xlsx"}},
        ["m.xlsx is a text table (CSV) with the ending .xlsx"],
    ),
    # columns
    (
        "missing target",
        rename("label", "lable"),
        {},
        ["metadata.csv lacks columns", "'label'. Did you mean 'lable'?"],
    ),
    ("case of a column", rename("warmth", "Warmth "), {}, ["'warmth'. Did you mean 'Warmth'?"]),
    (
        "missing medium",
        rename("photo_file_name", "Foto"),
        {},
        ["no column of modality 'photo'", "`columns: {photo: <column>}`", "'photo_file_name'"],
    ),
    ("doubled column", repeat_header, {"columns": {"w": ["rain"]}}, ["has columns more than once", "'rain'"]),
    (
        "missing group",
        lambda own: None,
        {"raw": {"split": {"group": "speaker"}}},
        ["lacks columns", "'speaker'"],
    ),
    ("template of no column", lambda own: None, {"raw": {"columns": {"sound": "{name}.wav"}}}, ["'name'"]),
    # numbers
    ("European number", put(9, "warmth", "1.013,5"), {}, ["row 9, column 'warmth'", "is no number"]),
    ("unit in a cell", put(4, "warmth", "12 °C"), {}, ["row 4, column 'warmth': text '12 °C' is no number"]),
    ("infinite", put(4, "warmth", "inf"), {}, ["row 4, column 'warmth': infinite"]),
    (
        "text column",
        fill("warmth", "high"),
        {},
        ["column 'warmth' holds text", "under the modality's `categorical`"],
    ),
    (
        "dates",
        fill("warmth", "2024-05-01"),
        {},
        ["holds dates", "- '2024-05-01'", "under the modality's `dates`"],
    ),
    ("blank column", fill("warmth", ""), {}, ["column 'warmth' is blank"]),
    (
        "bad cell of a column named as its modality",
        put(4, "warmth", "12 °C"),
        {"columns": {"warmth": ["warmth"]}},
        ["row 4, column 'warmth': text '12 °C' is no number"],
    ),
    # target
    (
        "no label",
        put(3, "label", "N/A"),
        {},
        ["1 of 40 rows", "row 3: no label in the target's column 'label'"],
    ),
    ("no label at all", fill("label", ""), {}, ["is blank in every row"]),
    ("ids as class", lambda own: None, {"raw": {"target": "key"}}, ["40 different values in 40 rows"]),
    (
        "target no number",
        put(6, "price", "cheap"),
        REGRESSION,
        ["row 6: column 'price': text 'cheap' is no number"],
    ),
    ("target blank", put(6, "price", ""), REGRESSION, ["row 6: no value in the target's column 'price'"]),
    (
        "logarithm of 0",
        put(6, "price", 0),
        {"task": "regression", "raw": {"target": "price", "log_target": True}},
        ["have no logarithm", "row 6, column 'price': 0"],
    ),
    # ids, splits, groups
    (
        "val in the column and drawn",
        lambda own: None,
        {"raw": {"split": {"column": "fold", "val": 0.1}}},
        ["column 'fold' says which rows are val (8), and split.val is given, too", "`split: fold`"],
    ),
    ("blank id", put(8, "key", ""), {"raw": {"id": "key"}}, ["Rows without an id", "row 8, column 'key'"]),
    ("blank split", put(8, "fold", ""), {"raw": {"split": "fold"}}, ["row 8, column 'fold': blank"]),
    (
        "blank group",
        put(8, "place", ""),
        {"raw": {"split": {"group": "place"}}},
        ["without a group", "row 8, column"],
    ),
    (
        "two groups",
        fill("place", "here"),
        {"raw": {"split": {"group": "place"}}},
        ["1 groups can not be divided"],
    ),
    # files
    (
        "files missing",
        lose,
        {},
        ["10 of 40 rows", "row 32: 'audio/30.wav' is missing", "and 5 more, 10 in all"],
    ),
    ("no file named", put(3, "sound", ""), {}, ["row 3: no file in column 'sound'"]),
    (
        "case of a folder",
        put(3, "photo_file_name", "photos/01.JPG"),
        {},
        ["it is there as 'Photos/01.jpg' (case or blanks differ)"],
    ),
    ("backslash", put(3, "sound", "audio\\01.wav"), {}, ["there as 'audio/01.wav' (slashes differ)"]),
    ("absolute", put(3, "sound", "/etc/hostname"), {}, ["an absolute path that leads out of", "set `root`"]),
    (
        "absolute, out again",
        lambda own: own.put(3, "sound", f"{own.root}/audio/../../outside.wav"),
        {},
        ["an absolute path that leads out of"],
    ),
    ("drive letter", put(3, "sound", "C:\\data\\01.wav"), {}, ["is an absolute path"]),
    ("address", put(3, "sound", "https://x.org/1.wav"), {}, ["is an address: download"]),
    ("several files", put(3, "sound", "audio/01.wav;audio/02.wav"), {}, ["row 3", "names several files"]),
    ("empty folder", empty_folder, {}, ["row 3: 'clip' is an empty folder"]),
    (
        "wrong root",
        lambda own: None,
        {"raw": {"root": "media"}},
        ["There is no folder", "set `root` under `raw`"],
    ),
]


@pytest.mark.parametrize(("change", "with_", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_told(
    own: Own, change: Callable[[Own], Any], with_: dict[str, Any], words: list[str]
) -> None:
    change(own)
    with pytest.raises(DataError) as told:
        own.read(**with_)
    message = str(told.value)
    assert "What to do: " in message
    for word in words:
        assert word in message


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"raw": {"columns": {"sond": "sound"}}}, r"'sond', which is no modality\. Did you mean 'sound'\?"),
    ({"raw": {"columns": {"weather": "rain"}}}, "the tabular modality 'weather' has its own `columns`"),
    ({"columns": {"weather": ["rain", "label"]}}, "column 'label' is the target: remove it from 'weather'"),
    ({"columns": {"weather": ["rain", "fold"]}, "raw": {"split": "fold"}}, "column 'fold' is the split"),
    (
        {"columns": {"weather": ["rain", "group"]}},
        "'group' of modality 'weather' is a name that every manifest uses",
    ),
    ({"columns": {"weather": ["rain", "warmth"], "more": ["rain"]}}, "the same column or name: rain"),
    ({"raw": {"log_target": True}}, "log_target is for a regression"),
    (
        {"task": "regression", "raw": {"target": "price", "classes": ["a", "b"]}},
        "classes are for a classification",
    ),
    ({"raw": {"classes": ["dry", "wet", "dry"]}}, "holds a name twice"),
    ({"raw": {"split": {"val": 0.5, "test": 0.5}}}, "leave nothing for train"),
    ({"raw": {"split": {"group": "label"}}}, "each class would be in one split only"),
]


@pytest.mark.parametrize(("with_", "words"), CONTRADICTIONS)
def test_settings_that_contradict_themselves(own: Own, with_: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own.read(**with_)


def test_lines_that_are_not_json_are_rows_that_can_be_dropped(own: Own) -> None:
    lines = [json.dumps(record) for record in own.frame.to_dict("records")]
    (own.root / "m.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl, row 4: is not JSON"):
        own.read({"table": "m.jsonl"})
    assert len(own.read({"table": "m.jsonl"}, max_bad_fraction=0.05).table) == N


# ------------------------------------------------------------------------------------------------- real files
def test_houses(shared_data: Path) -> None:
    if not (shared_data / "houses").is_dir():
        pytest.skip("no houses in the shared data")
    raw = Table(
        raw_dir=str(shared_data / "houses"),
        table="HousesInfo.txt",
        names=["bedrooms", "bathrooms", "area", "zipcode", "price"],
        columns={
            room: f"images/{{row}}_{room}.jpg" for room in ("frontal", "kitchen", "bedroom", "bathroom")
        },
        target="price",
        log_target=True,
        split={"val": 0.15, "test": 0.15},
    )
    columns = {"table": ["bedrooms", "bathrooms", "area"], **{room: [room] for room in raw.columns}}
    settings = IngestSettings(
        dataset="houses",
        source="raw",
        task="regression",
        target=TargetSettings(name="price", unit="ln USD"),
        raw=raw,
        columns=columns,
        max_bad_fraction=0.0,
        options=OPTIONS,
    )
    manifest = read_raw(settings, Path())
    assert manifest.meta["counts"] == {"train": 375, "val": 80, "test": 80}
    assert manifest.table["kitchen"][534] == "images/535_kitchen.jpg"
    assert np.exp(manifest.table["target"][0]) == pytest.approx(869_500)


# ------------------------------------------------------------------------------------------- docs/own-data.md
def test_the_walk_through_of_the_documentation(tmp_path: Path, repository: Path) -> None:
    """The YAML as it stands in docs/own-data.md, with sixty birds, up to the feature store."""
    text = (repository / "docs/own-data.md").read_text(encoding="utf-8")
    parameters = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    header = text.split("```csv\n")[1].split("\n")[0]
    rng = np.random.default_rng(0)
    root = tmp_path / "data/01_raw/birds"
    for folder in ("audio", "photos"):
        (root / folder).mkdir(parents=True)
    lines = [header]
    for i in range(60):
        name, gull = f"b{i:03d}", i % 3 == 0
        tone = np.sin(np.arange(4000) * (0.2 if gull else 0.7)) + rng.normal(size=4000) * 0.1
        soundfile.write(root / f"audio/{name}.wav", tone * 0.3, 8000)
        pixels = rng.integers(0, 128, (40, 50, 3)) + (100 if gull else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"photos/{name}.jpg")
        wind = "" if i == 1 else str(i % 7)
        species = "gull" if gull else "curlew"
        habitat = ["", "shore", "heath", "field"][i % 4]
        day, remark = (
            f"{2022 + i % 3}-0{4 + i % 5}-{i % 28 + 1:02d}",
            '"two adults, calling"' if i % 5 else "",
        )
        more = f"{habitat},{day},{remark},place {i % 13}"
        lines.append(f"{name},audio/{name}.wav,photos/{name}.jpg,{i / 4},{wind},{more},{species}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    run = {"dataset": "birds", "method": "unimodal", "compare": [], "device": "cpu", "progress": False}
    configuration = resolve(
        run | parameters, {}, lambda raw, source: locate(raw, source, tmp_path), project=tmp_path
    )
    manifest = read_raw(configuration.ingest(), tmp_path)
    assert manifest.meta["class_names"] == ["curlew", "gull"]
    assert manifest.meta["group_disjoint"]
    note = next(line for line in text.splitlines() if line.startswith("birds: ")).removeprefix("birds: ")
    assert note in manifest.meta["notes"], manifest.meta["notes"]
    made = tmp_path / "store"
    write_store(made, manifest, tmp_path / manifest.meta["raw_dir"], configuration.featurize())
    store = open_store(made)
    assert store.modalities == ("sound", "photo", "weather", "remark")
    assert store.arrays["photo"].shape == (60, 3, 32, 32)
    assert store.arrays["weather"].shape == (60, 2 + 3 + 4)
    assert store.meta["modalities"]["weather"]["statistics"]["features"][-4:] == [
        "habitat=<blank>",
        "habitat=field",
        "habitat=heath",
        "habitat=shore",
    ]
    assert np.isfinite(store.arrays["sound"]).all()
    assert store.arrays["remark"].shape == (60, 16)
    assert (store.arrays["remark"].any(axis=1) == (manifest.table["remark"] != "")).all()
