"""Columns by pattern, range and exclusion, tables that align by row, and thousands of columns."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from g2d_pipeline.catalog.loader import ProjectConfigLoader
from g2d_pipeline.config import (
    FeaturizeSettings,
    IngestSettings,
    Join,
    Table,
    TabularFeatures,
    TargetSettings,
)
from g2d_pipeline.data_report.page import build_data_page
from g2d_pipeline.data_report.report import describe_data
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.settings import CONFIG_LOADER_ARGS
from g2d_pipeline.sources import read_raw
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import OPTIONS

N = 40
WAVES = [str(length) for length in range(454, 951, 62)]  # 454, 516, … 950 nanometres
BANDS = [f"band_{k}" for k in range(12)]


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": [f"s{i}" for i in range(N)], "label": ["a", "b"] * (N // 2)})
    frame["sex"] = ["m", "f", "f", "m"] * (N // 4)
    values = pd.DataFrame(rng.normal(size=(N, len(WAVES + BANDS))).round(3), columns=WAVES + BANDS)
    return pd.concat([frame, values, pd.DataFrame({"height": np.arange(N) * 1.0})], axis=1)


def settings(features: TabularFeatures, raw: dict[str, Any] | None = None, **columns: str) -> IngestSettings:
    """Of one tabular modality, `num`, and `columns`: modality → kind of others."""
    return IngestSettings(
        dataset="own",
        source="raw",
        task="classification",
        target=TargetSettings(),
        raw=Table(**({"raw_dir": "raw", "table": "m.csv", "id": "id", "target": "label"} | (raw or {}))),
        columns={"num": features.all_columns} | {m: [m] for m in columns},
        kinds={"num": "tabular"} | columns,
        categorical=features.categorical,
        dates=features.dates,
        max_bad_fraction=0.0,
        options=OPTIONS,
    )


def read(folder: Path, frame: pd.DataFrame, raw: dict[str, Any] | None = None, **keys: Any) -> Manifest:
    (folder / "raw").mkdir(exist_ok=True)
    frame.to_csv(folder / "raw/m.csv", index=False)
    return read_raw(settings(TabularFeatures(**keys), raw), folder)


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        ({"columns": ["band_*"]}, BANDS),
        ({"columns": ["454..950"]}, WAVES),
        ({"columns": ["516..578"]}, ["516", "578"]),
        ({"columns": [454, "height"]}, ["454", "height"]),  # YAML reads 454 as a number
        ({"columns": ["band_2..band_4"]}, ["band_2", "band_3", "band_4"]),
        ({"columns": ["950..band_1"]}, ["950", "band_0", "band_1"]),  # as they stand in the table
        ({"columns": ["band_*", "!band_1*"]}, [b for b in BANDS if not b.startswith("band_1")]),
        ({"columns": ["454..950", "!516..888"]}, ["454", "950"]),
        ({"columns": ["*"], "categorical": ["sex"]}, [*WAVES, *BANDS, "height", "sex"]),
        ({"columns": ["band_*", "band_7"]}, [*(b for b in BANDS if b != "band_7"), "band_7"]),
    ],
    ids=str,
)
def test_what_patterns_and_ranges_select(
    tmp_path: Path, frame: pd.DataFrame, keys: dict[str, Any], columns: list[str]
) -> None:
    manifest = read(tmp_path, frame, **keys)
    assert manifest.meta["columns"]["num"] == columns
    numbers = [c for c in columns if c != "sex"]
    assert (manifest.table[numbers].to_numpy() == frame[numbers].to_numpy()).all()


def test_the_store_and_its_report_have_what_the_pattern_selects(tmp_path: Path, frame: pd.DataFrame) -> None:
    features = TabularFeatures(columns=["band_*"], categorical=["*x"])
    manifest = read(tmp_path, frame, columns=features.columns, categorical=features.categorical)
    write_store(
        tmp_path / "store", manifest, tmp_path / "raw", FeaturizeSettings(
            dataset="own", modalities={"num": features}, options=OPTIONS,
        )
    )  # fmt: skip
    named = TabularFeatures(columns=BANDS, categorical=["sex"])
    write_store(
        tmp_path / "named", manifest, tmp_path / "raw", FeaturizeSettings(
            dataset="own", modalities={"num": named}, options=OPTIONS,
        )
    )  # fmt: skip
    about = open_store(tmp_path / "store").meta["modalities"]["num"]
    assert about["settings"]["columns"] == BANDS
    assert about["settings"]["categorical"] == ["sex"]
    assert about == open_store(tmp_path / "named").meta["modalities"]["num"]


def test_what_a_pattern_leaves_out_is_said(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.rename(columns={"band_3": "place", "band_4": "group"})
    raw = {"split": {"val": 0.2, "test": 0.2, "group": "place"}}
    manifest = read(tmp_path, frame, raw, columns=["*"], categorical=["sex"])
    assert not {"id", "label", "place", "group", "target"} & {*manifest.meta["columns"]["num"]}
    (note,) = [note for note in manifest.meta["notes"] if "'*'" in note]
    for column in ("'id' (the id)", "'label' (the target)", "'place' (", "'group' (a name", "'sex' (named"):
        assert column in note
    assert f"(columns: {len(WAVES + BANDS) - 2 + 1})" in note


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"columns": ["bnd_*"]}, r"'bnd_\*' matches no column.*Did you mean 'band_\d'\?"),
        ({"columns": ["454..951"]}, r"no column '951', an end of the range.*The nearest is '950'"),
        ({"columns": ["band_1..bend_3"]}, r"no column 'bend_3', an end of the range.*mean 'band_3'\?"),
        ({"columns": ["950..454"]}, r"'950' comes after '454'.*write 454\.\.950"),
        ({"columns": ["band_3..band_1"]}, r"'band_3' comes after 'band_1'"),
        (
            {"columns": ["band_*", "band_1*"]},
            r"selected twice.*'band_1', by 'band_\*' and 'band_1\*'.*band_11",
        ),
        ({"columns": ["*"], "categorical": ["s*x"]}, r"selected twice: - 'sex', by '\*' and 's\*x'"),
        ({"columns": ["band_*", "!band_77"]}, r"'!band_77' excludes nothing.*Did you mean 'band_7'\?"),
        (
            {"columns": ["lab*"]},
            r"'lab\*' matches no column but what is used elsewhere, 'label' \(the target",
        ),
        ({"columns": ["band_*", "hight"]}, r"lacks columns.*'hight'\. Did you mean 'height'\?"),
        ({"columns": ["*"]}, r"column 'sex' holds text"),
    ],
    ids=str,
)
def test_what_matches_nothing_or_twice_is_told(
    tmp_path: Path, frame: pd.DataFrame, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError) as told:
        read(tmp_path, frame, **keys)
    message = " ".join(str(told.value).split())
    assert re.search(words, message), message


def test_a_name_of_the_table_is_that_column_whatever_it_looks_like(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    frame = frame.rename(columns={"band_0": "a*b", "band_1": "aab", "band_2": "x..y"})
    columns = ["a*b", "x..y", "band_1*"]
    manifest = read(tmp_path, frame, columns=columns)
    assert manifest.meta["columns"]["num"] == ["a*b", "x..y", "band_10", "band_11"]


def test_an_exclusion_excludes_from_something() -> None:
    with pytest.raises(ValidationError, match="columns starts with '!band_7'"):
        TabularFeatures(columns=["!band_7"])


# ----------------------------------------------------------------------------------------- rows that align
@pytest.fixture
def aligned(tmp_path: Path, frame: pd.DataFrame) -> Path:
    """m.csv of N rows and, row by row, spectra.npy, more.csv and more.parquet."""
    (tmp_path / "raw").mkdir()
    np.save(tmp_path / "raw/spectra.npy", np.arange(N * 3, dtype=np.float32).reshape(N, 3))
    np.save(tmp_path / "raw/line.npy", np.arange(N))
    more = pd.DataFrame({"id": frame["id"], "depth": np.arange(N) * 2.0})
    more.to_csv(tmp_path / "raw/more.csv", index=False)
    more.to_parquet(tmp_path / "raw/more.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("join", "columns", "first"),
    [
        ({"table": "spectra.npy"}, ["spectra_*"], [3.0, 4.0, 5.0]),
        ({"table": "spectra.npy", "names": ["r", "g", "b"]}, ["r..b"], [3.0, 4.0, 5.0]),
        ({"table": "line.npy"}, ["line"], [1.0]),
        ({"table": "more.csv"}, ["depth"], [2.0]),
        ({"table": "more.parquet"}, ["depth"], [2.0]),
    ],
    ids=str,
)
def test_row_i_belongs_to_row_i(
    aligned: Path, frame: pd.DataFrame, join: dict[str, Any], columns: list[str], first: list[float]
) -> None:
    frame.loc[0, "label"] = None  # a row that is dropped moves no other one
    keys = settings(TabularFeatures(columns=columns), {"join": [join | {"align": "row"}]})
    frame.to_csv(aligned / "raw/m.csv", index=False)
    manifest = read_raw(keys.model_copy(update={"max_bad_fraction": 0.1}), aligned)
    assert len(manifest.table) == N - 1
    assert manifest.table.set_index("sample_id").loc["s1", manifest.meta["columns"]["num"]].tolist() == first


def test_lengths_that_differ_are_told_with_both(aligned: Path, frame: pd.DataFrame) -> None:
    np.save(aligned / "raw/spectra.npy", np.zeros((N + 2, 3)))
    with pytest.raises(DataError, match=rf"spectra\.npy has {N + 2} rows, and m\.csv has {N}"):
        read(aligned, frame, {"join": [{"table": "spectra.npy", "align": "row"}]}, columns=["spectra_*"])
    pd.read_csv(aligned / "raw/more.csv").iloc[:-1].to_csv(aligned / "raw/more.csv", index=False)
    with pytest.raises(DataError, match=rf"more\.csv has {N - 1} rows, and m\.csv has {N}"):
        read(aligned, frame, {"join": [{"table": "more.csv", "align": "row"}]}, columns=["depth"])


def test_ids_that_differ_do_not_align(aligned: Path, frame: pd.DataFrame) -> None:
    pd.read_csv(aligned / "raw/more.csv")[::-1].to_csv(aligned / "raw/more.csv", index=False)
    with pytest.raises(DataError, match=r"m\.csv has columns more than once:\n  - 'id'"):
        read(aligned, frame, {"join": [{"table": "more.csv", "align": "row"}]}, columns=["depth"])


def test_an_array_longer_than_its_table_is_an_error(aligned: Path, frame: pd.DataFrame) -> None:
    (aligned / "raw/m.csv").write_text(frame.to_csv(index=False))
    raw = {"columns": {"v": "spectra.npy#{index}"}, "labelled_only": True}
    keys = settings(TabularFeatures(columns=["height"]), raw, v="vector")
    assert read_raw(keys, aligned).table["v"].tolist()[-1] == f"spectra.npy#{N - 1}"
    frame.iloc[-5:, 1] = None  # rows without a target are rows of the table
    (aligned / "raw/m.csv").write_text(frame.to_csv(index=False))
    assert len(read_raw(keys, aligned).table) == N - 5
    np.save(aligned / "raw/spectra.npy", np.zeros((N + 1, 3)))
    with pytest.raises(DataError, match=rf"spectra\.npy has {N + 1} rows, and m\.csv has {N}"):
        read_raw(keys, aligned)


@pytest.mark.parametrize("join", [{}, {"key": "id", "align": "row"}, {"align": "row", "means": [7]}], ids=str)
def test_a_join_says_once_which_rows_belong_together(join: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"which rows belong together|means over days need a key"):
        Join(table="more.csv", **join)


# ------------------------------------------------------------------------------------- thousands of columns
def test_two_thousand_columns_without_a_warning_and_with_a_short_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 2000)).round(3)
    values[rng.random(values.shape) < 0.01] = 1000.0  # an outlier
    values[0, :50] = -9999.0
    frame = pd.concat(
        [
            pd.DataFrame({"id": range(60), "label": ["a", "b"] * 30}),
            pd.DataFrame(values, columns=[f"g{k}" for k in range(2000)]),
        ],
        axis=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.PerformanceWarning)
        manifest = read(tmp_path, frame, columns=["g*"])
        features = TabularFeatures(columns=["g*"])
        write_store(
            tmp_path / "store", manifest, tmp_path / "raw", FeaturizeSettings(
                dataset="own", modalities={"num": features}, options=OPTIONS,
            )
        )  # fmt: skip
        report = describe_data(manifest, open_store(tmp_path / "store"), tmp_path / "raw")
    (missing,) = [note for note in manifest.meta["notes"] if "-9999" in note]
    assert missing == (
        "Column 'g0' holds 1 × -9999, read as missing. Likewise 49 more: 'g1', 'g2', 'g3', 'g4', 'g5', … "
        "(49 in all)."
    )
    (outliers,) = report["outliers"]
    assert (outliers["of"], outliers["columns"], len(outliers["first"])) == ("num", 2000, 10)
    assert 500 < outliers["affected"] < outliers["count"]
    (warning,) = [w for w in report["warnings"] if w["kind"] == "outliers"]
    assert f"in {outliers['affected']:,} of 2,000 columns" in warning["text"]
    modality = report["modalities"]["num"]
    assert (modality["missing_in"], len(modality["missing"])) == (50, 10)
    assert "of 50 columns that lack most" in build_data_page(report)


@pytest.mark.filterwarnings("ignore:.*register_new_resolver:UserWarning")
def test_a_yaml_that_lists_ten_thousand_columns(tmp_path: Path, repository: Path, shared_data: Path) -> None:
    """hard_inputs/27: OmegaConf's limit of nodes ended every run of every data set."""
    file = shared_data / "hard_inputs/27-wide-table/parameters_r27.yml"
    if not file.is_file():
        pytest.skip(f"real data: no {file} (set G2D_SHARED_DATA)")
    shutil.copytree(repository / "conf", tmp_path / "conf")
    shutil.copy(file, tmp_path / "conf/base")
    (tmp_path / "data/01_raw/r27").mkdir(parents=True)
    (tmp_path / "data/01_raw/r27/m.csv").write_text("id,y\n")
    parameters = {"dataset": "r27", "method": "unimodal", "compare": []}
    loader = ProjectConfigLoader(tmp_path / "conf", runtime_params=parameters, **CONFIG_LOADER_ARGS)
    assert loader.configuration.ingest().columns["num"] == [f"g{k}" for k in range(10_000)]
