"""The simulated MIS-ME folder: equal bytes on every run, the published layout, strong pictures and a weak
table."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from g2d_pipeline.sources.mis_me.simulated import HEADER, IMAGE_FOLDER, WEATHER, make, write_xlsx

ROWS = {"train": 160, "val": 40, "test": 45}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    start = time.perf_counter()
    make(folder, ROWS, seed=0)
    assert time.perf_counter() - start < 15
    return folder


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    sheet = openpyxl.load_workbook(folder / f"labels/classification/{name}_set.xlsx").worksheets[0]
    header, *lines = sheet.iter_rows(values_only=True)
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_a_workbook_can_be_read_back(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", ["a", "b"], [[1.5, None], ["ä", 2]])
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx").worksheets[0]
    assert list(sheet.iter_rows(values_only=True)) == [("a", "b"), (1.5, None), ("ä", 2)]


def test_layout_and_counts_are_the_published_ones(sample: Path) -> None:
    for split, count in ROWS.items():
        lines = rows(sample, f"combined_only_{split}")
        assert len(lines) == count
        assert tuple(lines[0]) == HEADER
        assert all((sample / IMAGE_FOLDER / str(line["image"])).is_file() for line in lines)
    assert [len(rows(sample, f"OK00{i}_only_test")) for i in (1, 2, 3)] == [18, 12, 15]
    test = sorted(str(line["image"]) for line in rows(sample, "combined_only_test"))
    assert test == sorted(
        str(line["image"]) for i in (1, 2, 3) for line in rows(sample, f"OK00{i}_only_test")
    )


def test_blemishes_and_ranges(sample: Path) -> None:
    lines = rows(sample, "combined_only_train")
    assert all(line["barometric_pressure"] is None for line in lines if line["station"] == "OK002")
    others = [line[c] for line in lines for c in WEATHER if c != "barometric_pressure"]
    assert 0.01 < sum(v is None for v in others) / len(others) < 0.06
    assert all(0.08 <= float(str(line["vwc"])) <= 0.45 for line in lines)
    assert sum(line["precipitation"] == 0 for line in lines) > len(lines) / 2


def test_pictures_know_more_than_the_table(sample: Path) -> None:
    from PIL import Image
    from sklearn.linear_model import RidgeCV

    def read(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, int]]]:
        lines = rows(sample, f"combined_only_{split}")
        table = np.array([[np.nan if line[c] is None else line[c] for c in WEATHER] for line in lines], float)
        pixels, sizes = [], []
        for line in lines:
            with Image.open(sample / IMAGE_FOLDER / str(line["image"])) as image:
                sizes.append(image.size)
                pixels.append(np.asarray(image.resize((16, 16)), float).reshape(-1, 3) / 255)
        stack = np.array(pixels)
        picture = np.concatenate([stack.mean(1), np.median(stack, 1), stack.std(1)], axis=1)
        return table, picture, np.array([line["vwc"] for line in lines], float), sizes

    table, picture, y, sizes = read("train")
    table_test, picture_test, y_test, _ = read("test")
    assert all(60 <= side <= 400 for size in sizes for side in size)
    mean, std = np.nanmean(table, 0), np.nanstd(table, 0)
    standard = [np.nan_to_num((t - mean) / std) for t in (table, table_test)]
    r2 = {
        name: RidgeCV(np.logspace(-3, 3, 13)).fit(train, y).score(test, y_test)
        for name, train, test in (("table", *standard), ("image", picture, picture_test))
    }
    assert r2["image"] > 0.75
    assert 0.1 < r2["table"] < r2["image"] - 0.25


def test_tiny_samples_can_be_asked_for(tmp_path: Path) -> None:
    make(tmp_path, {"train": 1, "val": 1, "test": 1}, seed=5)
    assert len(rows(tmp_path, "combined_only_train")) == 1
    assert rows(tmp_path, "OK003_only_test") == []
