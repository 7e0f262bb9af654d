"""The data report says what is in each split and what should make one suspicious, by name, and decodes
nothing."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from g2d_pipeline.config import (
    AudioFeatures,
    FeaturizeSettings,
    ImageFeatures,
    IngestSettings,
    RunOptions,
    Table,
    TabularFeatures,
    TargetSettings,
)
from g2d_pipeline.data_report import leakage
from g2d_pipeline.data_report import report as data_report
from g2d_pipeline.data_report.leakage import find_duplicates, find_similar, row_codes
from g2d_pipeline.data_report.page import build_data_page
from g2d_pipeline.data_report.report import describe_data, merge_reports
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import FeatureStore, open_store, write_store
from g2d_pipeline.features.kinds import base
from g2d_pipeline.features.kinds.audio import Audio
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.hashing import content_hashes, hash_files
from g2d_pipeline.sources.manifest import Manifest

SPLIT = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
COLUMNS = ["heat", "rain"]
RATE = 8000
OPTIONS = RunOptions(device="cpu", progress=False, workers=1)


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth coloured picture, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def saved_again(image: Image.Image) -> Image.Image:
    """The same, smaller and with a JPEG's losses."""
    buffer = io.BytesIO()
    image.resize((40, 33)).save(buffer, "jpeg", quality=60)
    return Image.open(buffer)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures and recordings. Picture 14 is a copy of 2, picture 17 is 5 saved again; recording 3 is
    silent."""
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for i in range(20):
        image = saved_again(picture(5)) if i == 17 else picture(2 if i == 14 else i)
        image.save(root / f"p{i:02d}.png")
        wave = np.zeros(RATE // 2) if i == 3 else 0.1 * rng.standard_normal(RATE // 4 * (1 + i % 4))
        soundfile.write(root / f"w{i:02d}.wav", wave, RATE, subtype="PCM_16")
    return root


def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    heat, rain = rng.uniform(15, 25, 20), rng.uniform(1, 5, 20)
    heat[6], rain[[4, 13, 19]] = 1000.0, np.nan
    heat[18], rain[18] = heat[0], rain[0]
    return pd.DataFrame({
        "sample_id": [f"s{i:02d}" for i in range(20)],
        "split": SPLIT,
        "target": np.append(rng.uniform(0.1, 0.3, 19), 3.0),
        "image": [f"p{i:02d}.png" for i in range(20)],
        "audio": [f"w{i:02d}.wav" for i in range(20)],
        "heat": heat,
        "rain": rain,
        "group": ["moor"] * 8 + ["shore"] * 6 + ["wood"] * 6,
    })  # fmt: skip


def manifest_of(rows: pd.DataFrame) -> Manifest:
    train = rows.loc[rows["split"] == "train", "target"]
    return Manifest(rows, {
        "dataset": "made_up", "task": "regression", "class_names": [], "source": "raw", "raw_dir": "raw",
        "target": {"name": "water", "unit": "m³", "mean": float(train.mean()),
                   "std": float(train.std(ddof=0)),
                   "min": float(train.min()), "max": float(train.max())},
        "counts": {s: int((rows["split"] == s).sum()) for s in ("train", "val", "test")},
        "columns": {"image": ["image"], "audio": ["audio"], "weather": COLUMNS}, "group_disjoint": False,
        "dropped": [{"file": "t.csv", "row": i, "reason": f"no target {i}"} for i in range(12)],
        "notes": ["A note."],
    })  # fmt: skip


MODALITIES: dict[str, Any] = {
    "image": ImageFeatures(size=[32]),
    "audio": AudioFeatures(sample_rate=RATE, seconds=0.5, n_fft=64, hop_length=64),
    "weather": TabularFeatures(columns=COLUMNS),
}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return manifest_of(table())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, raw: Path, manifest: Manifest) -> FeatureStore:
    folder = tmp_path_factory.mktemp("stores") / "store"
    settings = FeaturizeSettings(dataset="made_up", modalities=MODALITIES, options=OPTIONS)
    write_store(folder, manifest, raw, settings)
    return open_store(folder)


@pytest.fixture(scope="module")
def report(raw: Path, manifest: Manifest, store: FeatureStore) -> dict[str, Any]:
    return describe_data(manifest, store, raw)


def test_the_same_file_in_two_splits_is_told_with_its_samples(report: dict[str, Any]):
    found = report["modalities"]["image"]["duplicates"]
    assert (found["contents"], found["samples"]) == (1, 1)
    assert found["first"] == [
        {"train": {"samples": 1, "first": ["s02"]}, "val": {"samples": 1, "first": ["s14"]}}
    ]
    assert report["modalities"]["audio"]["duplicates"]["contents"] == 0
    assert report["duplicates"]["contents"] == 0  # no sample is the same in every modality


def test_equal_rows_of_a_table_are_duplicates(report: dict[str, Any]):
    (found,) = report["modalities"]["weather"]["duplicates"]["first"]
    assert {split: of["first"] for split, of in found.items()} == {"train": ["s00"], "test": ["s18"]}


def test_a_picture_saved_again_is_told_as_nearly_the_same(report: dict[str, Any]):
    (pair,) = report["modalities"]["image"]["alike"]["first"]
    assert (pair["sample"], pair["split"], pair["resembles"], pair["of"]) == ("s17", "test", "s05", "train")
    assert 0.995 <= pair["correlation"] < 1


def test_groups_in_several_splits(report: dict[str, Any]):
    groups = report["groups"]
    assert (groups["column"], groups["groups"], groups["crossing"]) == ("group", 3, 2)
    assert groups["first"] == [
        {"group": "shore", "splits": {"train": 4, "val": 2}},
        {"group": "wood", "splits": {"val": 2, "test": 4}},
    ]


def test_the_group_of_a_table_whose_split_is_given_reaches_the_report(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    rows = pd.DataFrame(
        {"x": range(8), "y": list("abababab"), "split": ["train"] * 4 + ["val"] * 2 + ["test"] * 2}
    )
    rows["place"] = ["moor", "moor", "shore", "", "shore", "wood", "hill", "hill"]
    rows.to_csv(tmp_path / "raw" / "metadata.csv", index=False)
    settings = IngestSettings(
        dataset="made_up", source="raw", task="classification", target=TargetSettings(), max_bad_fraction=0.0,
        raw=Table(raw_dir="raw", target="y", split="split", group="place"), columns={"numbers": ["x"]},
        kinds={"numbers": "tabular"}, options=OPTIONS,
    )  # fmt: skip
    rows = read_raw(settings, tmp_path).table
    found = data_report._groups(rows, rows["split"].to_numpy(object))
    assert (found["groups"], found["crossing"]) == (4, 1)
    assert found["first"] == [{"group": "shore", "splits": {"train": 1, "val": 1}}]


def test_outliers_of_columns_and_target(report: dict[str, Any]):
    found = {of["column"]: of for own in report["outliers"] for of in own["first"]}
    assert [(own["of"], own["count"]) for own in report["outliers"]] == [("weather", 1), ("target", 1)]
    assert set(found) == {"heat", "target"}
    (hot,) = found["heat"]["first"]
    assert (hot["sample"], hot["split"], hot["value"]) == ("s06", "train", 1000.0)
    assert hot["z"] > 100
    assert [one["sample"] for one in found["target"]["first"]] == ["s19"]


def test_the_robust_z_score_is_that_of_the_literature():
    """|x − median| / (1.4826 · MAD): of 1 … 9 the median is 5, the MAD 2; 5 standard deviations end at
    19.826."""

    def outliers(values: list[float]) -> list[float]:
        rows = pd.DataFrame({"x": values})
        split = np.array(["train"] * 9 + ["test"] * (len(values) - 9), object)
        found = data_report._outliers(rows, ["x"], split, [str(i) for i in range(len(values))])
        return [one["value"] for of in found for one in of["first"]]

    assert outliers([*map(float, range(1, 10)), 19.8, 20.0, np.nan, -9.8, -9.9]) == [20.0, -9.9]
    assert outliers([0.0, 1.0] * 7) == []  # a column of two values has none
    assert outliers([0.0] * 7 + [1.0, 2.0, 100.0]) == [
        100.0
    ]  # more than half are one value: the mean deviation


def test_missing_values_dropped_samples_and_silence(report: dict[str, Any]):
    weather = report["modalities"]["weather"]
    assert weather["missing"] == {"rain": {"train": 1, "val": 1, "test": 1}}
    assert [of["incomplete"] for of in weather["splits"].values()] == [1, 1, 1]
    assert report["dropped"]["samples"] == 12
    assert [item["row"] for item in report["dropped"]["first"]] == list(range(10))
    silent = report["modalities"]["audio"]["found"]["constant"]
    assert silent == {"samples": {"train": 1, "val": 0, "test": 0}, "first": ["s03"]}


def test_durations_sizes_and_counts(report: dict[str, Any], raw: Path):
    train = report["modalities"]["audio"]["splits"]["train"]
    assert train["seconds"] == {"min": 0.25, "median": 0.5, "max": 1.0}
    assert (train["filled"], train["cut"]) == (3, 5)
    image = report["modalities"]["image"]["splits"]
    assert image["train"]["width"] == {"min": 48.0, "median": 48.0, "max": 48.0}
    assert image["test"]["height"] == {"min": 33.0, "median": 40.0, "max": 40.0}
    sizes = [(raw / f"p{i:02d}.png").stat().st_size for i in range(12)]
    assert image["train"]["bytes"] == {
        "min": min(sizes),
        "median": float(np.median(sizes)),
        "max": max(sizes),
    }
    assert report["splits"]["test"]["samples"] == 4
    assert report["splits"]["test"]["quantiles"]["max"] == 3.0
    assert {split: sum(counts) for split, counts in report["histogram"]["counts"].items()} == {
        "train": 12, "val": 4, "test": 4,
    }  # fmt: skip


def test_warnings_say_each_kind_once_more(report: dict[str, Any]):
    kinds = [(w["kind"], w["count"]) for w in report["warnings"]]
    assert kinds == [
        ("duplicates", 1), ("near-duplicates", 1), ("duplicates", 1), ("groups in several splits", 2),
        ("outliers", 1), ("outliers", 1), ("blank", 1), ("dropped", 12),
    ]  # fmt: skip
    assert report["summary"] == (
        "2 duplicates, 1 near-duplicates, 2 groups in several splits, 2 outliers, 1 blank, 12 dropped"
    )


def test_warnings_of_several_splits_are_one_list_with_the_range_of_each_count(report: dict[str, Any]):
    assert merge_reports({"": report}) is report
    other = report | {"warnings": [], "notes": ["another"]}
    merged = merge_reports({"fold1": report, "fold2": report, "fold3": other})
    texts = [w["text"] for w in merged["warnings"]]
    assert texts == [f"{w['text']} (0 to {w['count']:,}, by split)" for w in report["warnings"]]
    assert merge_reports({"fold1": report, "fold2": report})["warnings"] == report["warnings"]
    assert merged["draws"]["fold2"]["train"] == report["splits"]["train"]["samples"]
    assert merged["notes"][0] == "Of 3 splits: warnings are of all, tables of the first (fold1)."
    assert merged["notes"][1:] == [*report["notes"], "another"]


def test_the_same_data_give_the_same_bytes(
    raw: Path, manifest: Manifest, store: FeatureStore, report: dict[str, Any]
):
    again = describe_data(manifest, store, raw)
    assert json.dumps(again, allow_nan=False) == json.dumps(report, allow_nan=False)
    assert build_data_page(again).encode() == build_data_page(report).encode()


def test_the_page_names_everything_and_escapes_it(report: dict[str, Any]):
    evil = "<script>alert('x')</script>"
    page = build_data_page(report | {"dataset": evil, "notes": [evil]})
    for words in (
        "s14",
        "s17",
        "s05",
        "shore",
        "s06",
        "no target 9",
        "… and 2 more, 12 in all",
        "s03",
        "rain",
    ):
        assert words in page
    assert "no target 10" not in page
    assert "<script>alert" not in page


def test_the_evaluation_shows_it(make_study, report: dict[str, Any]):
    from g2d_pipeline.evaluation import Results, build_report, collect_metrics, summarise

    study = make_study(seeds=(0,))
    metrics = collect_metrics(study.runs, "made_up", "raw")
    about = study.runs, study.meta, study.rankings, study.configuration, report
    page = build_report(Results(summarise(metrics)), metrics, {}, *about)
    assert 'id="data-warnings"' in page
    assert "s17 (test) resembles s05 (train)" in page
    assert 'id="figure-data_target"' in page


def test_what_is_clean_is_said_to_be(raw: Path, manifest: Manifest, store: FeatureStore):
    clean = replace(manifest, meta=manifest.meta | {"dropped": []})
    found = describe_data(clean, store, raw)
    assert "dropped" not in {w["kind"] for w in found["warnings"]}
    assert "No duplicates across splits" in build_data_page(found | {"warnings": []})


def test_samples_that_the_store_lacks_are_left_out_and_told(
    raw: Path, manifest: Manifest, store: FeatureStore
):
    more = pd.concat([manifest.table, manifest.table.tail(1).assign(sample_id="s20")], ignore_index=True)
    dropped = {
        "dropped": [{"sample_id": "s20", "modality": "audio", "file": "w20.wav", "reason": "is truncated"}]
    }
    other = FeatureStore(store.path, store.meta | dropped)
    found = describe_data(replace(manifest, table=more), other, raw)
    assert found["splits"]["test"]["samples"] == 4
    assert found["dropped"]["samples"] == 13
    with pytest.raises(DataError, match="of another manifest"):
        describe_data(replace(manifest, table=manifest.table.iloc[::-1]), store, raw)


def test_of_many_files_some_headers_are_read(
    raw: Path, manifest: Manifest, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
):
    read: list[Path] = []
    header = Audio.header
    monkeypatch.setattr(base, "MAX_HEADERS", 5)
    monkeypatch.setattr(Audio, "header", lambda self, path: read.append(path) or header(self, path))
    found = describe_data(manifest, store, raw)
    assert found["modalities"]["audio"]["headers"] == {"read": 5, "of": 20, "unknown": 0}
    assert len(read) == 5
    assert "the headers of 5 of 20 files were read" in build_data_page(found)


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, cache = tmp_path / "raw" / "a.wav", tmp_path / "hashes.json"
    file.parent.mkdir()
    file.write_bytes(b"one")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    hash_files([file], file.parent, "", cache)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("an unchanged file is hashed again"))
        before = content_hashes([file], cache)
    file.write_bytes(b"two")
    os.utime(file, (1_000_000_000, 1_000_000_000))  # as far as size and mtime tell, nothing has changed
    assert content_hashes([file], cache) == content_hashes([file], None) != before
    with pytest.raises(DataError, match="can not be read"):
        content_hashes([file.with_name("gone.wav")], cache)


def test_equal_samples_with_another_target_are_conflicts():
    code = np.array([0, 1, 0, 1, 2])
    found = leakage.find_conflicts(code, np.array([1, 5, 2, 5, 1]), list("abcde"))
    assert found == {"contents": 1, "first": [[{"sample": "a", "target": 1}, {"sample": "c", "target": 2}]]}


def test_repetitions_inside_a_split_are_counted_apart():
    split = np.array(["train", "train", "train", "test", "test"], object)
    found = find_duplicates(np.array([0, 0, 0, 1, 1]), split, list("abcde"))
    assert (found["contents"], found["samples"], found["within"]) == (0, 0, {"train": 2, "test": 1})


def test_missing_cells_equal_one_another():
    rows = pd.DataFrame({"a": [np.nan, np.nan, 0.0, -0.0], "b": ["x", "x", "x", "x"]})
    assert row_codes(rows).tolist() == [0, 0, 1, 1]


def test_different_digits_do_not_count_as_alike():
    """scikit-learn's handwritten digits, 8 × 8, of which no two are the same: hashes alone would take many
    for that."""
    from sklearn.datasets import load_digits

    digits = (load_digits().images * 15).astype(np.uint8)[:600, None]
    split = np.array(["train", "train", "test"], object)[np.arange(600) % 3]
    assert find_similar(digits, np.arange(600), split, [str(i) for i in range(600)])["samples"] <= 3


def test_the_middle_picture_of_a_clip_counts():
    first = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 20, 20), np.uint8)
    clips = np.concatenate([first, first])
    clips[2, :, 0] = 0  # another first picture, the same middle one
    clips[3, :, 1] = 255 - clips[3, :, 1]
    split = np.array(["train", "train", "test", "test"], object)
    found = find_similar(clips, np.arange(4), split, list("abcd"))
    assert [(p["sample"], p["resembles"]) for p in found["first"]] == [("c", "a")]


def test_photographs_of_houses_in_two_listings(shared_data: Path):
    """Real photographs: some houses were listed twice, with the same bytes."""
    photographs = sorted((shared_data / "houses" / "images").glob("*_frontal.jpg"))
    if not photographs:
        pytest.skip("no houses in the shared data")
    files = content_hashes(photographs, None)
    code = pd.factorize(np.array([files[p][1] for p in photographs], object))[0].astype(np.int64)
    split = np.array(["train", "test"], object)[np.arange(len(photographs)) % 2]
    found = find_duplicates(code, split, [p.name for p in photographs])
    assert found["contents"] + sum(found["within"].values()) > 0


def test_typing_errors_of_a_real_table_are_outliers(shared_data: Path):
    """89 soils: LOI is 2701 once and at most 37.5 elsewhere, AAS 10.3, 10.6 and at most 0.95 (its README)."""
    if not (shared_data / "soil_camera_table").is_dir():
        pytest.skip("no soil_camera_table in the shared data")
    columns = ["LOI", "AAS"]
    settings = IngestSettings(
        dataset="soils", source="raw", task="regression", target=TargetSettings(), max_bad_fraction=0.0,
        raw=Table(raw_dir=str(shared_data / "soil_camera_table"), table="RGB_Soil_Data.csv", id="Soil",
                  target="Higroscopic Water (%)"),
        columns={"laboratory": columns}, kinds={"laboratory": "tabular"}, options=OPTIONS,
    )  # fmt: skip
    rows = read_raw(settings, shared_data).table
    found = data_report._outliers(rows, columns, rows["split"].to_numpy(object), rows["sample_id"].tolist())
    values = {of["column"]: [one["value"] for one in of["first"]] for of in found}
    assert values["LOI"][0] == 2701.0
    assert values["AAS"][:2] == [10.6, 10.3]
