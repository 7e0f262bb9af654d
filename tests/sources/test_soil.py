"""Real soils: twelve sensor tables and the weather, joined by day; a small table of chemistry, grouped by
place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from g2d_pipeline.config import IngestSettings, Table, TargetSettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.resolve import resolve
from g2d_pipeline.sources import locate, read_raw, signature
from g2d_pipeline.sources.manifest import Manifest
from tests.sources.raw_folders import MACHINE


def read_published(name: str, shared_data: Path, repository: Path) -> Manifest:
    """The data set as its YAML in conf/base reads it."""
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name} in the shared data")
    parameters = yaml.safe_load((repository / f"conf/base/parameters_{name}.yml").read_text(encoding="utf-8"))
    parameters["datasets"][name]["raw"]["raw_dir"] = str(shared_data / name)
    run = {"dataset": name, "method": "unimodal", "compare": [], "device": "cpu", "progress": False}
    configuration = resolve(run | parameters, {}, lambda raw, source: locate(raw, source, repository))
    return read_raw(configuration.ingest(), repository)


@pytest.fixture(scope="module")
def moisture(shared_data: Path, repository: Path) -> Manifest:
    return read_published("soil_moisture_weather", shared_data, repository)


def test_twelve_places_and_their_weather(moisture: Manifest) -> None:
    table, meta = moisture.table, moisture.meta
    assert len(table) == 25_982 - 9  # rows with a measurement, but for the day without weather
    assert table.groupby("group")["split"].nunique().eq(1).all()
    assert table["group"].nunique() == 12
    assert meta["group_disjoint"]
    dropped = {(d["file"], d["row"], d["reason"]) for d in meta["dropped"]}
    assert len(dropped) == 12
    assert ("soil/CAF067.txt", 1777, "weather_data.csv has no row of Date '02/28/2012'") in dropped
    assert "soil/*.txt: cells are separated by tabs." in meta["notes"]
    assert "14167 of 40140 rows have no 'VW_30cm', and are left out (labelled_only)." in meta["notes"]


def test_the_weather_is_that_of_the_row_s_day_and_of_the_days_before(
    moisture: Manifest, shared_data: Path
) -> None:
    """Against the two files, read by pandas alone, for one place."""
    folder = shared_data / "soil_moisture_weather"
    soil = pd.read_csv(folder / "soil/CAF308.txt", sep="\t")
    weather = pd.read_csv(folder / "weather_data.csv", skipinitialspace=True).set_index("DATE")[
        ["TMAX", "PRCP"]
    ]
    soil = soil.set_index(pd.to_datetime(soil["Date"], format="%m/%d/%Y").dt.strftime("%Y-%m-%d"))
    soil = soil[soil["VW_30cm"].notna() & soil.index.isin(weather.index)]
    found = moisture.table[moisture.table["group"] == "CAF308"]
    assert found["target"].tolist() == soil["VW_30cm"].tolist()
    assert found["T_60cm"].fillna(-99).tolist() == soil["T_60cm"].fillna(-99).tolist()
    assert found["TMAX"].fillna(-99).tolist() == weather.loc[soil.index, "TMAX"].fillna(-99).tolist()
    assert (weather.loc[soil.index, "PRCP"].isna() == found["PRCP"].isna().to_numpy()).all()
    for k in (0, 700, len(soil) - 1):
        end = pd.Timestamp(soil.index[k])
        days = [str(day.date()) for day in pd.date_range(end - pd.Timedelta(days=6), end)]
        assert found["PRCP_mean7"].iloc[k] == pytest.approx(
            weather["PRCP"].reindex(days).mean(), nan_ok=k > 0
        )


def test_chemistry_by_place(shared_data: Path, repository: Path) -> None:
    table = read_published("soil_camera_table", shared_data, repository).table
    assert len(table) == 89
    assert table[["EC (ds/m)", "Na2O"]].isna().sum().tolist() == [1, 1]
    assert table["target"].describe()[["min", "max"]].tolist() == [0.2, 13.7]
    assert table["group"].tolist() == [name.rstrip("0123456789") for name in table["sample_id"]]
    assert table.groupby("group")["split"].nunique().eq(1).all()


# --------------------------------------------------------------------------------------- made-up small tables
class Farm:
    """Two sensor tables of six days each, and the weather of those days."""

    def __init__(self, project: Path) -> None:
        self.project, self.root = project, project / "raw"
        (self.root / "sites").mkdir(parents=True)
        days = pd.date_range("2024-05-08", periods=6)
        for site in "ab":
            frame = pd.DataFrame({"site": f"{site}7", "day": days.strftime("%d.%m.%Y"), "water": range(6)})
            frame["heat"] = np.arange(6) * 0.5
            frame.to_csv(self.root / f"sites/{site}.csv", index=False)
        self.weather = pd.DataFrame(
            {"date": days.strftime("%Y-%m-%d"), "rain": [0.0, 1, 2, 3, 4, 5], "sky": "grey"}
        )
        self.save()

    def save(self) -> None:
        self.weather.sample(frac=1, random_state=0).to_csv(self.root / "weather.csv", index=False)

    def raw(self, **changes: Any) -> Table:
        join = {"table": "weather.csv", "key": {"day": "date"}, "means": [3]}
        of = {"raw_dir": "raw", "table": "sites/*.csv", "join": [join], "target": "water"}
        return Table(**of | {"split": {"val": 0.2, "test": 0.2}} | changes)

    def read(self, columns: list[str], allowed: float = 0.0, **changes: Any) -> Manifest:
        settings = IngestSettings(
            dataset="farm",
            source="raw",
            task="regression",
            target=TargetSettings(),
            raw=self.raw(**changes),
            columns={"all": columns},
            kinds={"all": "tabular"},
            max_bad_fraction=allowed,
            options=MACHINE,
        )
        return read_raw(settings, self.project)


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


def test_files_of_one_form_are_one_table_and_a_further_one_adds_columns(farm: Farm) -> None:
    table = farm.read(["heat", "rain", "rain_mean3"]).table
    assert table["sample_id"].tolist() == [f"sites/{s}.csv:row{r}" for s in "ab" for r in range(2, 8)]
    assert table["rain"].tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert table["rain_mean3"].tolist() == [0, 0.5, 1, 2, 3, 4] * 2


def test_means_count_days_and_not_rows(farm: Farm) -> None:
    farm.weather.loc[2, "rain"] = None
    farm.weather = farm.weather.drop(index=3)
    farm.save()
    manifest = farm.read(["rain_mean3"], allowed=0.2)
    assert manifest.table["rain_mean3"].tolist() == [0, 0.5, 0.5, 4, 4.5] * 2
    assert [(d["file"], d["row"]) for d in manifest.meta["dropped"]] == [
        ("sites/a.csv", 5),
        ("sites/b.csv", 5),
    ]


def test_keys_that_are_no_dates(farm: Farm) -> None:
    pd.DataFrame({"site": ["b7", "a7"], "clay": [20, 10]}).to_parquet(farm.root / "sites.parquet")
    table = farm.read(["heat", "clay"], join=[{"table": "sites.parquet", "key": "site"}]).table
    assert table["clay"].tolist() == [10.0] * 6 + [20.0] * 6


def test_two_further_tables(farm: Farm) -> None:
    pd.DataFrame({"site": ["b7", "a7"], "clay": [20, 10]}).to_csv(farm.root / "clay.csv", index=False)
    join = [{"table": "weather.csv", "key": {"day": "date"}}, {"table": "clay.csv", "key": "site"}]
    assert farm.read(["clay", "rain"], join=join).table[["clay", "rain"]].to_numpy().tolist()[7] == [
        20.0,
        1.0,
    ]


def test_rows_without_a_target_are_counted_and_left_out(farm: Farm) -> None:
    path = farm.root / "sites/a.csv"
    path.write_text(path.read_text().replace("08.05.2024,0,", "08.05.2024,NA,"))
    manifest = farm.read(["rain"], labelled_only=True)
    assert len(manifest.table) == 11
    assert "1 of 12 rows have no 'water', and are left out (labelled_only)." in manifest.meta["notes"]
    assert manifest.meta["dropped"] == []
    with pytest.raises(DataError, match=r"sites/a\.csv, row 2: no value in the target's column 'water'"):
        farm.read(["rain"])


def test_a_change_of_a_further_table_is_seen(farm: Farm) -> None:
    before = signature(farm.raw(), "raw", farm.root)
    farm.weather.loc[0, "rain"] = 9
    farm.save()
    assert signature(farm.raw(), "raw", farm.root) != before


def weather(**columns: Any) -> Callable[[Farm], None]:
    def change(farm: Farm) -> None:
        farm.weather = farm.weather.assign(**columns)
        farm.save()

    return change


def lose_a_day(farm: Farm) -> None:
    farm.weather = farm.weather[1:]
    farm.save()


def by_sky(farm: Farm) -> None:
    """The key is no date."""
    weather(date=["08-05", "09-05", "10-05", "11-05", "12-05", "13-05"])(farm)


def no_target(farm: Farm) -> None:
    for site in "ab":
        path = farm.root / f"sites/{site}.csv"
        pd.read_csv(path).assign(water="NA").to_csv(path, index=False)


BAD: list[tuple[str, Callable[[Farm], Any], dict[str, Any], list[str]]] = [
    ("no further table", lambda farm: (farm.root / "weather.csv").unlink(), {}, ["weather.csv is missing"]),
    (
        "a day is missing",
        lose_a_day,
        {},
        ["2 of 12 rows", "sites/a.csv, row 2: weather.csv has no row of day '08.05"],
    ),
    (
        "a day is there twice",
        weather(date="2024-05-08"),
        {},
        ["same key", "weather.csv, row 2, column 'date': '2024-"],
    ),
    (
        "a day is blank",
        weather(date=[""] + ["2024-05-08"] * 5),
        {},
        ["without the key", "weather.csv, row", "fill"],
    ),
    (
        "no such key",
        lambda farm: None,
        {"join": [{"table": "weather.csv", "key": "day"}]},
        ["weather.csv lacks columns", "- 'day'"],
    ),
    ("no number", weather(rain=["a lot", *"12345"]), {}, ["weather.csv, row", "column 'rain': text 'a lot'"]),
    (
        "means of no dates",
        by_sky,
        {},
        ["weather.csv: means over days are asked for", "remove `means` under `join`"],
    ),
    (
        "a column of both",
        weather(heat=1),
        {"columns": ["heat"]},
        ["sites/*.csv has columns more than once", "'heat'"],
    ),
    (
        "means not asked for",
        lambda farm: None,
        {"columns": ["rain_mean9"]},
        ["lacks columns", "'rain_mean9'"],
    ),
    (
        "no target at all",
        no_target,
        {"labelled_only": True},
        ["sites/*.csv: the target 'water' is blank in every row"],
    ),
    ("no such files", lambda farm: None, {"table": "plots/*.csv"}, ["raw must hold the table 'plots/*.csv'"]),
    (
        "no group in a cell",
        lambda farm: None,
        {"split": {"group": "site", "group_pattern": "[A-Z]"}},
        ["Rows without a group", "sites/a.csv, row 2, column 'site'", "group_pattern = '[A-Z]'"],
    ),
]


@pytest.mark.parametrize(("change", "with_", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_can_not_be_joined_is_told(
    farm: Farm, change: Callable[[Farm], Any], with_: dict[str, Any], words: list[str]
) -> None:
    change(farm)
    changes = dict(with_)
    with pytest.raises(DataError) as told:
        farm.read(changes.pop("columns", ["heat", "rain", "rain_mean3"]), **changes)
    assert [word for word in words if word not in str(told.value)] == [], str(told.value)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"group_pattern": "a"}, "group_pattern needs group"),
        ({"group": "a", "group_pattern": "("}, "no regular expr"),
    ],
)
def test_patterns_that_can_not_be(farm: Farm, split: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        farm.raw(split=split)
