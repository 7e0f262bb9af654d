"""Parameter files as people break them: file, line and remedy; what another run needs stops nobody."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from g2d_pipeline.catalog.loader import Catalog, ProjectConfigLoader
from g2d_pipeline.catalog.parameters import merge_files
from g2d_pipeline.errors import ConfigError
from g2d_pipeline.explain import Origins
from g2d_pipeline.settings import CONFIG_LOADER_ARGS

NAME = "conf/base/parameters_own.yml"
TOP = {
    "conf/base/parameters.yml": b"dataset: other\nmethod: g2d\ncompare: [joint]\n",
    "conf/base/parameters_other.yml": b"datasets:\n  other: {task: classification}\n",
    "conf/base/methods/g2d.yml": b"methods:\n  g2d: {alpha: 1e-3}\n",
}


def merge(
    content: str | bytes, *local: dict[str, bytes], name: str = NAME, **overrides: Any
) -> tuple[dict[str, Any], Origins]:
    content = content.encode() if isinstance(content, str) else content
    return merge_files([TOP | {name: content}, *local], overrides)


BROKEN = {
    "a tab": ("datasets:\n  own:\n\traw: 1\n", "line 3 ('raw: 1'): a tab in the indentation: replace it"),
    "a key twice": (
        "datasets:\n  own:\n    raw: 1\n    raw: 2\n",
        "line 4 ('raw: 2'): the key 'raw' stands in line 3",
    ),
    "a colon in a value": ("datasets:\n  own:\n    a: b: c\n", "line 3 ('a: b: c'): a ':' too many"),
    "an open quotation mark": (
        'datasets:\n  own:\n    a: "b\n',
        "line 3 ('a: \"b'): a quotation mark is not closed",
    ),
    "an open bracket": (
        "datasets:\n  own:\n    a: [b\n    c: d\n",
        "line 4 ('c: d'): a bracket is not closed",
    ),
    "indentation": (
        "datasets:\n  own:\n    a: 1\n   c: d\n",
        "line 4 ('c: d'): the indentation does not fit",
    ),
    "an at sign": ("datasets:\n  own:\n    a: @b\n", "line 3 ('a: @b'): a value that starts with a special"),
    "latin-1": (b"datasets:\n  own:\n    a: \xe4\n", "line 3: no UTF-8 text"),
    "a conflict": (
        "datasets:\n<<<<<<< HEAD\n  own: {a: 1}\n=======\n>>>>>>> x\n",
        "line 2: a conflict of git",
    ),
    "inside itself": ("datasets:\n  own: &x\n    a: *x\n", "line 2 ('own: &x'): a section is inside itself"),
    "an object": ("datasets:\n  own: !!python/object:os.x {}\n", "line 2"),
    "a list": ("- own\n", ": it should hold keys with sections (datasets: …), not own"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_for_its_own_runs_and_a_warning_for_the_others(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, message = BROKEN[case]
    with pytest.raises(ConfigError) as error:
        merge(content, dataset="own")
    assert message in str(error.value)
    assert str(error.value).startswith(NAME)
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        files, _ = merge(content)
    assert list(files["datasets"]) == ["other"]
    assert f"{error.value}. The file is left out: this run does not need it." in caplog.messages


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NAME, "dataset: x\n\tmethod: y\n"),  # it may be about every run
        (NAME, "methods:\n  joint:\n\ta: 1\n"),
        (NAME, "datasets:\n  other:\n\ttask: regression\n"),
        ("conf/local/parameters.yml", "datasets:\n  x:\n\ta: 1\n"),
        ("conf/base/methods/joint.yml", "\t"),
    ],
)
def test_a_broken_file_that_the_run_may_need_stops_it(name: str, content: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}, line"):
        merge(content, name=name)


@pytest.mark.parametrize("content", ["", "# nothing\n", "datasets:\n"])
def test_an_empty_file_takes_nothing_away_and_says_how_it_should_begin(content: str) -> None:
    assert merge(content)[0]["datasets"]["other"] == {"task": "classification"}
    with pytest.raises(ConfigError, match=f"{NAME}: it has no data set 'own'. It should begin with the line"):
        merge(content, dataset="own")


def test_what_two_files_set_concerns_the_runs_that_use_it() -> None:
    again = {"conf/base/parameters_again.yml": b"datasets: {own: {task: b}}"}
    twice = [TOP | {NAME: b"datasets: {own: {task: a}}"} | again]
    assert merge_files(twice, {})[0]["dataset"] == "other"
    with pytest.raises(ConfigError, match=f"{NAME} and .*_again.yml both set datasets.own.task"):
        merge_files(twice, {"dataset": "own"})


def test_later_environments_win_and_the_origins_tell_which() -> None:
    local = {"conf/local/parameters.yml": b"methods: {g2d: {alpha: 2.5e1}}"}
    files, origins = merge("datasets: {own: {day: 2026-11-26, rate: 1e3, n: 1_000}}", local, dataset="own")
    assert files["methods"]["g2d"] == {"alpha": 25.0}
    assert files["datasets"]["own"] == {"day": "2026-11-26", "rate": 1000.0, "n": 1000}
    assert origins.find(("methods", "g2d", "alpha")) == "conf/local/parameters.yml"


def test_interpolations_are_resolved_in_what_the_run_uses() -> None:
    content = "datasets: {own: {a: '${datasets.other.task}', b: ['x-${..a}']}, third: {a: '${nowhere}'}}"
    assert merge(content, dataset="own")[0]["datasets"]["own"] == {
        "a": "classification",
        "b": ["x-classification"],
    }
    with pytest.raises(ConfigError, match=r"datasets.third.a: Interpolation key 'nowhere' not found"):
        merge(content, dataset="third")


def test_ten_thousand_columns_of_another_data_set_stop_nobody() -> None:
    columns = ", ".join(f"g{i}" for i in range(12_000))
    files, _ = merge(f"datasets: {{own: {{columns: [{columns}]}}}}", dataset="own")
    assert len(files["datasets"]["own"]["columns"]) == 12_000


def test_an_environment_that_does_not_exist(repository: Path, tmp_path: Path) -> None:
    loader = ProjectConfigLoader(repository / "conf", "prdo", **CONFIG_LOADER_ARGS)
    with pytest.raises(ConfigError, match=r"--env prdo: .*conf/prdo. Did you mean 'prod'\? Known: base,"):
        _ = loader.configuration
    loader = ProjectConfigLoader(tmp_path / "conf", **CONFIG_LOADER_ARGS)
    with pytest.raises(
        ConfigError, match=r"no folder of settings .*conf. Run in the project's folder, or say"
    ):
        _ = loader.configuration


def test_parameters_are_copied_for_each_node() -> None:
    """What one node does to its parameters no other one sees."""
    catalog, value = Catalog(), {"alpha": 1.0, "tau": [1, 2]}
    catalog["params:g2d"] = value
    catalog["table"] = [1]
    catalog.load("params:g2d")["tau"].append(3)
    assert catalog.load("params:g2d") == value == {"alpha": 1.0, "tau": [1, 2]}
    assert catalog.load("table") == [1]
