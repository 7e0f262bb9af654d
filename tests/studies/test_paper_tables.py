"""The studies of the paper's tables: they cover what is published, and say where a comparison is void."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import yaml

from g2d_pipeline.catalog.parameters import parse_yaml
from g2d_pipeline.config.studies import StudySettings
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.evaluation import Failure
from g2d_pipeline.studies.cells import Site
from g2d_pipeline.studies.results import (
    Part,
    cells_frame,
    departures,
    published_protocol,
    published_rows,
    summary_frame,
    table_frame,
)  # fmt: skip
from g2d_pipeline.studies.settings import points, read_study
from tests.studies.conftest import REPOSITORY
from tests.test_resolve import configure

pytestmark = pytest.mark.filterwarnings("ignore:.*register_new_resolver")
FILES = {
    file.stem: [(file.name, file.read_bytes())] for file in (REPOSITORY / "conf/base/studies").glob("*.yml")
}


def study_of(name: str) -> StudySettings:
    study, _ = read_study(name, FILES, parse_yaml, {})
    assert isinstance(study, StudySettings)
    return study


@pytest.mark.parametrize("twin", ["", "_small"])
@pytest.mark.parametrize("table", range(1, 12))
def test_every_published_number_has_a_cell_and_every_cell_is_valid(table, twin):
    study = study_of(f"table{table}{twin}")
    grid = list(points(study))
    cells = {(point.dataset, point.label, method) for point in grid for method in point.methods}
    rows = published_rows(table)
    asked = {
        (row.dataset, "" if row.method == "unimodal" else row.options, row.method)
        for row in rows.itertuples(index=False)
    }
    teachers = {(dataset, "", "unimodal") for dataset, _, method in cells if method == "unimodal"}
    assert asked <= cells | teachers
    configurations = [(point.dataset, configure(**point.params)) for point in grid]
    assert set(rows["part"]) - {"multi"} <= {m for _, c in configurations for m in c.dataset.modalities}
    for dataset, c in configurations if not twin else []:
        void = departures("raw", c.describe()["dataset_settings"], published_protocol(dataset))
        assert list(void) == (["other split"] if dataset == "vggsound" else [])


def test_published_numbers_are_those_of_the_paper():
    counts = [len(published_rows(table)) for table in range(1, 12)]
    assert counts == [114, 81, 10, 18, 24, 8, 14, 18, 26, 65, 26]
    g2d = published_rows(8).query("dataset == 'crema_d' and method == 'g2d'")
    assert g2d.set_index("part")["published"].to_dict() == {"audio": 56.45, "visual": 72.72, "multi": 85.89}
    with pytest.raises(ConfigError, match=r"published = 12: of the paper there are the tables 1/2/"):
        published_rows(12)


PROTOCOL = {"training.epochs": 300, "raw.split": "published", "training.selection": "test"}
DEPARTURES = [
    ("raw", {}, []),
    ("sample", {}, ["sample"]),
    ("raw", {"training.epochs": 40}, ["fewer epochs"]),
    ("raw", {"training.epochs": 400}, ["other epochs"]),
    ("raw", {"raw.split": "speakers", "training.selection": "val"}, ["other split", "other selection"]),
]


@pytest.mark.parametrize(("source", "changes", "words"), DEPARTURES)
def test_a_comparison_is_void_in_plain_words(source, changes, words):
    values: dict[str, Any] = {**PROTOCOL, **changes}
    settings: dict[str, Any] = {"training": {}, "raw": {}}
    for key, value in values.items():
        section, _, name = key.partition(".")
        settings[section][name] = value
    assert list(departures(source, settings, PROTOCOL)) == words


def test_the_table_has_ours_published_and_the_difference_and_what_failed():
    about = {"source": "raw", "modality": "", "split": "test", "part": "multi", "metric": "accuracy"}
    about |= {"selection": "val", "selected_epoch": 1, "dataset": "crema_d"}
    rows = [
        about | {"method": method, "seed": seed, "value": value}
        for method, values in {"g2d": (0.85, 0.87), "distillation": (0.75,)}.items()
        for seed, value in enumerate(values)
    ]
    failures = [Failure("distillation", "", 1, "it diverged"), Failure("mla", "", 0, "no memory")]
    part = Part("crema_d", "", "raw", pd.DataFrame(rows), failures, {("g2d", "", 0, 0): 2.5})
    cells = cells_frame([part])
    assert cells["seconds"].dropna().tolist() == [2.5]
    table = table_frame(summary_frame(cells, (), published_rows(8))).set_index("method")
    assert table["ours"].to_dict() == {"g2d": "86.0 ± 1.4", "distillation": "75.0", "mla": "–"}
    assert table["published"].to_dict() == {"g2d": "85.89", "distillation": "78.63", "mla": "–"}
    assert table["difference"].to_dict() == {"g2d": "+0.1", "distillation": "-3.6", "mla": "–"}
    assert table["failed"].to_dict() == {"g2d": "", "distillation": "1: it diverged", "mla": "1: no memory"}
    void = Part("crema_d", "", "sample", pd.DataFrame(rows), [], {}, {"sample": "a simulated sample"})
    table = table_frame(summary_frame(cells_frame([void]), (), published_rows(8)))
    assert set(table["difference"]) == {"void: sample"}


def test_studies_name_their_data_sets_and_methods_as_they_are_called():
    site = Site(str(REPOSITORY), str(REPOSITORY / "conf"))
    methods = {*site.loader({}).methods, "unimodal"}
    for name in FILES:
        content = yaml.safe_load(FILES[name][0][1])["studies"][name]
        assert set(content.get("methods", [])) | set(content.get("first", [])) <= methods, name
