"""Predictions in a file: as in memory, gone on from after a kill, made anew where anything changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from g2d_pipeline import load_model
from g2d_pipeline.serving import Predictor
from g2d_pipeline.serving.predictor import write_predictions
from tests.serving.conftest import Served


@pytest.fixture
def raw(every_kind: Served, tmp_path: Path) -> Path:
    return Path(shutil.copytree(every_kind.raw, tmp_path / "raw"))


@pytest.fixture
def counted(every_kind: Served, monkeypatch: pytest.MonkeyPatch) -> tuple[Predictor, list[str]]:
    """The model of images, and the first sample of each batch that it predicts."""
    model, calls = load_model(every_kind.runs["image/seed0"]), list[str]()
    predict = model.predict_batch

    def counting(batch: Any) -> pd.DataFrame:
        calls.append(str(batch.table["sample_id"].iloc[0]))
        return predict(batch)

    monkeypatch.setattr(model, "predict_batch", counting)
    return model, calls


def test_a_killed_run_goes_on_and_what_changed_alone_is_predicted_again(
    counted: tuple[Predictor, list[str]], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, calls), table, file = counted, raw / "metadata.csv", raw / "out/predictions.parquet"
    expected = model.predict(table, batch_size=10)
    del calls[:]
    predict = model.predict_batch

    def killed(batch: Any) -> pd.DataFrame:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(batch)

    monkeypatch.setattr(model, "predict_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(model, table, file, size=10)
    assert calls == ["png/0", "png/10", "png/20"]
    assert not file.exists()
    monkeypatch.setattr(model, "predict_batch", predict)
    assert write_predictions(model, table, file, size=10) == 48
    assert calls[3:] == ["png/30", "png/40"]
    written = pd.read_parquet(file)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    assert written.attrs == expected.attrs
    assert [f.name for f in file.parent.iterdir()] == [file.name]

    assert write_predictions(model, table, file, size=10) == 48
    assert len(calls) == 5  # fresh
    shutil.copyfile(raw / "png/1.png", raw / "png/12.png")
    os.utime(raw / "png/12.png", (1, 1))
    write_predictions(model, table, file, size=10)
    assert pd.read_parquet(file)["prediction"].tolist() == model.predict(table)["prediction"].tolist()


def test_a_parquet_table_is_read_in_parts(counted: tuple[Predictor, list[str]], raw: Path) -> None:
    """Rows keep their numbers: templates and ids depend on them."""
    model, calls = counted
    table = pd.read_csv(raw / "metadata.csv")
    many = pd.concat([table] * 5, ignore_index=True)
    many.to_parquet(raw / "many.parquet", index=False)
    assert write_predictions(model, raw / "many.parquet", raw / "predictions.parquet", size=10) == 240
    assert len(calls) == 24  # 160 rows are read at once
    written = pd.read_parquet(raw / "predictions.parquet")
    assert written["prediction"].tolist() == model.predict(table, root=raw)["prediction"].tolist() * 5
