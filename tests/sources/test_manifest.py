"""What a manifest promises, and how it says that a promise is broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2d_pipeline.config import AVDigits, IngestSettings, RunOptions, TargetSettings
from g2d_pipeline.errors import DataError
from g2d_pipeline.sources.manifest import Manifest, build, read_manifest, validate, write_manifest


def settings(task: str) -> IngestSettings:
    return IngestSettings(
        dataset="toy",
        source="sample",
        task=task,
        target=TargetSettings(name="y", unit="m"),
        raw=AVDigits(raw_dir="raw"),
        columns={"photo": ["photo"], "weather": ["rain", "wind"]},
        max_bad_fraction=0,
        options=RunOptions(device="cpu", progress=False),
    )


def table(task: str) -> pd.DataFrame:
    n = 8
    target = np.arange(n, dtype=np.int64) % 2 if task == "classification" else np.linspace(0, 1, n)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "split": ["train"] * 4 + ["val"] * 2 + ["test"] * 2,
            "target": target,
            "photo": [f"p/{i}.png" for i in range(n)],
            "rain": [0.0, np.nan, *range(n - 2)],
            "wind": np.ones(n),
            "group": list("aabbccdd"),
        }
    )


def manifest(task: str = "classification") -> Manifest:
    names = ["no", "yes"] if task == "classification" else []
    return build(
        table(task), settings(task), raw_dir="raw", class_names=names, group_disjoint=True, notes=["hm"]
    )


def test_meta_of_a_regression_has_the_moments_of_train_alone() -> None:
    y = np.linspace(0, 1, 8)[:4]
    target = manifest("regression").meta["target"]
    assert target == pytest.approx(
        {"name": "y", "unit": "m", "mean": y.mean(), "std": np.std(y), "min": 0.0, "max": y.max()}
    )
    assert manifest().meta["target"] == {"name": "y", "unit": "m"}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_write_and_read_keep_everything_and_equal_manifests_give_equal_bytes(
    task: str, tmp_path: Path
) -> None:
    write_manifest(manifest(task), tmp_path / "a")
    again = read_manifest(tmp_path / "a")
    pd.testing.assert_frame_equal(again.table, manifest(task).table)
    assert again.meta == manifest(task).meta
    write_manifest(again, tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["manifest.json", "manifest.parquet"]
    for name in ("manifest.json", "manifest.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


Change = Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame]


def cells(column: str, rows: slice | list[int], value: object) -> Change:
    def change(frame: pd.DataFrame, meta: dict[str, Any]) -> pd.DataFrame:
        values = list(frame[column])
        for i in range(*rows.indices(len(values))) if isinstance(rows, slice) else rows:
            values[i] = value
        return frame.assign(**{column: values})

    return change


def resplit(frame: pd.DataFrame, meta: dict[str, Any]) -> pd.DataFrame:
    meta["counts"] = {"train": 6, "val": 0, "test": 2}
    return frame.assign(split=["train"] * 6 + ["test"] * 2)


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("classification", cells("split", [4], "vall"), ["row 4", "'vall'", "Did you mean 'val'?"]),
        ("classification", cells("split", [1], "Test"), ["row 1", "Did you mean 'test'?"]),
        ("classification", cells("sample_id", [1, 5], "s0"), ["not unique", "'s0' in rows 0, 1, 5"]),
        ("classification", cells("sample_id", [3], ""), ["without an id", "row 3"]),
        ("classification", resplit, ["splits without a sample", "val"]),
        ("classification", cells("target", slice(0, 4), 0), ["classes without a sample in train", "1 (yes)"]),
        ("classification", cells("target", [2], 7), ["labels outside 0 to 1", "row 2: 7"]),
        ("classification", cells("target", [2], -1), ["row 2: -1"]),
        ("classification", cells("target", [2], 0.5), ["float64, not int64", "set task to regression"]),
        ("classification", cells("group", [4], "a"), ["groups in more than one split", "'a' in train, val"]),
        ("classification", cells("group", [4], None), ["without a group", "row 4"]),
        (
            "classification",
            lambda f, m: f.rename(columns={"photo": "foto"}),
            ["lacks columns", "Did you mean 'foto'?"],
        ),
        ("classification", lambda f, m: f.drop(columns="group"), ["lacks columns", "'group'"]),
        ("classification", lambda f, m: f.iloc[:0], ["no rows"]),
        ("classification", lambda f, m: f.iloc[:-1], ["two files are of different runs"]),
        ("classification", lambda f, m: f.assign(rain=range(8)), ["'rain' is int64, not float64"]),
        ("classification", cells("rain", [3], np.inf), ["infinite", "'rain'", "row 3"]),
        ("classification", cells("rain", slice(0, 4), np.nan), ["'rain' is blank in all of train"]),
        ("classification", cells("photo", [6], None), ["no path in column 'photo'", "row 6"]),
        ("classification", lambda f, m: m.pop("notes") and f, ["lacks keys", "notes"]),
        ("regression", cells("target", [5], np.nan), ["not finite", "row 5: nan"]),
        ("regression", cells("target", [0], np.inf), ["not finite", "row 0: inf"]),
        ("regression", cells("target", slice(0, 4), 2.0), ["nothing to learn"]),
        ("regression", cells("target", slice(0, 8), "x"), ["not float64"]),
    ],
)
def test_a_broken_promise_is_told(task: str, change: Change, said: list[str]) -> None:
    good = manifest(task)
    meta = copy.deepcopy(good.meta)
    broken = Manifest(change(good.table.copy(), meta), meta)
    if (
        len(broken.table) == 8
        and "notes" in meta
        and broken.table["split"].isin(["train", "val", "test"]).all()
    ):
        meta["counts"] = {s: int((broken.table["split"] == s).sum()) for s in ("train", "val", "test")}
    with pytest.raises(DataError) as caught:
        validate(broken)
    for words in said:
        assert words in str(caught.value)
    assert "What to do:" in str(caught.value)


def test_a_group_may_cross_splits_where_the_data_set_allows_it() -> None:
    frame = table("classification").assign(group="one")
    build(frame, settings("classification"), raw_dir="raw", class_names=["no", "yes"])


def test_only_the_first_five_offenders_are_listed_and_all_are_counted() -> None:
    frame = table("classification").assign(photo="")
    with pytest.raises(DataError) as caught:
        build(frame, settings("classification"), raw_dir="raw", class_names=["no", "yes"])
    assert str(caught.value).count("\n  - row") == 5
    assert "… and 3 more, 8 in all" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", None, "There is no manifest.json"),
        ("manifest.parquet", None, "There is no manifest.parquet"),
        ("manifest.json", b"{", "is not JSON"),
        ("manifest.json", b"[]", "is not an object"),
        ("manifest.parquet", b"", "is not a parquet table"),
        ("manifest.parquet", b"PAR1 cut off", "is not a parquet table"),
    ],
)
def test_a_broken_manifest_on_disk_is_told(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    write_manifest(manifest(), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_manifest(tmp_path)


def test_a_manifest_of_two_runs_is_refused(tmp_path: Path) -> None:
    write_manifest(manifest(), tmp_path)
    meta = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    meta["counts"]["train"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(meta), "utf-8")
    with pytest.raises(DataError, match="different runs"):
        read_manifest(tmp_path)
