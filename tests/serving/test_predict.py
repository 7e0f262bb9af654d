"""Predictions from raw samples: equal to what training has stored, made with less, refused with reason."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import g2d_pipeline
from g2d_pipeline import load_model
from g2d_pipeline.errors import ConfigError, DataError
from g2d_pipeline.models import task_from_json
from g2d_pipeline.serving import Predictor
from tests.serving.conftest import MODALITIES, Served

STUDENT = "joint/seed0"


def student(served: Served) -> Predictor:
    return load_model(served.runs[STUDENT])


def probabilities(predicted: pd.DataFrame) -> np.ndarray:
    return predicted[[c for c in predicted if c.startswith("probability/")]].to_numpy()


def in_order(predicted: pd.DataFrame, ids: Any) -> pd.DataFrame:
    return predicted.set_index("sample_id").loc[list(ids)].reset_index()


@pytest.mark.parametrize("run", [*(f"{m}/seed0" for m in MODALITIES), STUDENT])
def test_raw_rows_give_what_training_has_stored(every_kind: Served, run: str) -> None:
    """Every kind of modality alone, and all of them: from the user's own table."""
    part = "multi" if run == STUDENT else run.partition("/")[0]
    predicted = load_model(every_kind.runs[run]).predict(every_kind.raw / "metadata.csv")
    logits, index = every_kind.stored(run, part)
    predicted = predicted.iloc[index.index].reset_index(drop=True)
    expected = torch.from_numpy(logits).softmax(dim=1).numpy()
    assert np.abs(probabilities(predicted) - expected).max() < 1e-6
    names = np.array(["a", "b", "c"])
    assert predicted["prediction"].tolist() == names[logits.argmax(axis=1)].tolist()
    assert (predicted["missing"] == "").all()
    assert (predicted["fault"] == "").all()
    if run == STUDENT:
        for m in MODALITIES:
            alone, _ = every_kind.stored(run, m)
            assert predicted[f"prediction/{m}"].tolist() == names[alone.argmax(axis=1)].tolist()
            sure = torch.from_numpy(alone).softmax(dim=1).amax(dim=1).numpy()
            assert np.abs(predicted[f"confidence/{m}"] - sure).max() < 1e-6


def test_a_regression_has_its_unit_and_how_far_modalities_agree(regression: Served) -> None:
    predicted = student(regression).predict(regression.raw / "metadata.csv")
    logits, index = regression.stored(STUDENT, "multi")
    predicted = in_order(predicted, index["sample_id"])
    task = task_from_json(student(regression).info["architecture"]["task"])
    assert np.allclose(predicted["prediction"], task.predict(torch.from_numpy(logits)), rtol=1e-6)
    image, _ = regression.stored(STUDENT, "image")
    difference = task.predict(torch.from_numpy(image)).numpy() - predicted["prediction"]
    assert np.allclose(
        predicted["agreement/image"], np.exp(-0.5 * (difference / task.spread) ** 2), atol=1e-5
    )


def test_attributes_say_what_it_is(regression: Served) -> None:
    attrs = student(regression).predict(regression.table.head(2), root=regression.raw).attrs
    assert {k: attrs[k] for k in ("target", "unit", "task", "source")} == {
        "target": "water", "unit": "%", "task": "regression", "source": "raw",
    }  # fmt: skip
    assert attrs["model"].startswith("all_kinds/joint/seed0@")


def test_tables_of_any_form_a_data_frame_and_arrays_give_the_same(every_kind: Served, tmp_path: Path) -> None:
    model, table = student(every_kind), every_kind.table
    expected = probabilities(model.predict(every_kind.raw / "metadata.csv"))
    shutil.copytree(every_kind.raw, tmp_path / "raw")
    table.to_parquet(tmp_path / "raw/new.parquet", index=False)
    table.to_excel(tmp_path / "raw/new.xlsx", index=False)
    table.to_json(tmp_path / "raw/new.jsonl", orient="records", lines=True)
    for name in ("new.parquet", "new.xlsx", "new.jsonl"):
        assert np.array_equal(probabilities(model.predict(tmp_path / "raw" / name)), expected), name
    assert np.array_equal(probabilities(model.predict(table, root=every_kind.raw)), expected)
    assert (
        np.abs(probabilities(model.predict(table, root=every_kind.raw, batch_size=5)) - expected).max() < 1e-6
    )
    own = load_model(every_kind.runs["vector/seed0"])
    vectors = np.load(every_kind.raw / "vectors.npy")
    arrays = probabilities(own.predict({"vector": vectors}))
    assert np.array_equal(arrays, probabilities(own.predict(every_kind.raw / "metadata.csv")))
    frame = table[["heat", "rain", "day", "soil"]]
    own = load_model(every_kind.runs["table/seed0"])
    assert np.array_equal(probabilities(own.predict({"table": frame})), probabilities(own.predict(table)))


def test_a_folder_is_a_sample_a_file_name(every_kind: Served, tmp_path: Path) -> None:
    """By folders named as modalities, and by the endings alone."""
    own = load_model(every_kind.runs["image/seed0"])
    by_table = own.predict(every_kind.table, root=every_kind.raw)
    by_ending = in_order(own.predict(every_kind.raw / "png"), [str(i) for i in range(len(by_table))])
    assert np.array_equal(probabilities(by_ending), probabilities(by_table))
    for m, folder in {"image": "png", "video": "film"}.items():
        shutil.copytree(every_kind.raw / folder, tmp_path / m)
    predicted = student(every_kind).predict(tmp_path)
    assert len(predicted) == len(by_table)
    assert set(predicted["missing"]) == {"+".join(m for m in MODALITIES if m not in ("image", "video"))}
    assert in_order(predicted, ["3"])["prediction/image"].tolist() == [by_table["prediction"][3]]


def test_missing_modalities_are_marked_and_predicted_by_the_rest(
    regression: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A null cell, a file that is not there, a damaged one, a whole modality, and all of them."""
    model, table = student(regression), regression.table.head(6).copy()
    damaged = regression.raw / "png/damaged.png"
    damaged.write_bytes((regression.raw / "png/0.png").read_bytes()[:60])
    whole = model.predict(table, root=regression.raw)
    table.loc[1, "image"] = None
    table.loc[2, "image"] = "png/absent.png"
    table.loc[3, "image"] = "png/damaged.png"
    table.loc[4, ["heat", "rain", "soil", "day"]] = None
    with caplog.at_level(logging.WARNING):
        less = model.predict(table, root=regression.raw)
    assert less["missing"].tolist() == ["", "image", "image", "image", "table", ""]
    assert [bool(f) for f in less["fault"]] == [False, False, True, True, False, False]
    assert "absent.png' is missing" in less["fault"][2]
    assert "damaged.png" in less["fault"][3]
    assert "image in 3, table in 1" in caplog.text
    assert "2 samples name what can not be used" in caplog.text
    same = [0, 5]
    assert np.allclose(less["prediction"][same], whole["prediction"][same], rtol=1e-6)
    features = {"image": torch.zeros(1, 6)}
    with torch.no_grad():
        for m in ("table", "vector"):
            features[m] = model.model.encoders[m](torch.from_numpy(np.array(regression.store.arrays[m][1:2])))
        expected = model.model.fusion.logits_without(features, ["image"])
    assert less["prediction"][1] == pytest.approx(float(model.task.predict(expected)), rel=1e-6)
    assert np.isnan(less["agreement/image"][1])
    assert np.isnan(less["prediction/image"][1])
    nothing = model.predict({"image": np.zeros((1, 2), np.float32)})
    assert nothing["missing"].tolist() == ["table+image+vector"]
    assert np.isnan(nothing["prediction"][0])


def test_cells_that_are_no_numbers_are_named_and_the_rest_predicts(regression: Served) -> None:
    table = regression.table.head(3).astype({"heat": object})
    table.loc[1, "heat"] = "hot"
    predicted = student(regression).predict(table, root=regression.raw)
    assert predicted["missing"].tolist() == ["", "table", ""]
    assert "column 'heat'" in predicted["fault"][1]


def test_neither_kedro_nor_training_is_imported(every_kind: Served) -> None:
    code = (
        "import sys, g2d_pipeline; before = set(sys.modules)\n"
        f"model = g2d_pipeline.load_model({str(every_kind.runs[STUDENT])!r})\n"
        f"model.predict({str(every_kind.raw / 'metadata.csv')!r})\n"
        "assert 'torch' not in before\n"
        "print([m for m in sys.modules if m.split('.')[0].startswith('kedro')"
        " or m.startswith(('g2d_pipeline.training', 'g2d_pipeline.methods', 'g2d_pipeline.pipelines'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "load_model" not in vars(g2d_pipeline)


BROKEN = {
    "model.safetensors": (lambda b: b[: len(b) // 2], "can not be read"),
    "model.json": (lambda b: b[:-9], "can not be read"),
    "inputs.json": (lambda b: b[:-9], "is damaged"),
    "text.tokenizer.json": (lambda b: b + b" ", "changed since training"),
    "grey.components.npy": (lambda b: b[:-8], "changed since training"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_model_says_which_file(every_kind: Served, tmp_path: Path, name: str, gone: bool) -> None:
    folder, (change, words) = tmp_path / "model", BROKEN[name]
    shutil.copytree(every_kind.runs[STUDENT], folder)
    if gone:
        (folder / name).unlink()
        words = "is missing|can not be read"
    else:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(DataError, match=words):
        load_model(folder)


def test_a_kind_that_is_not_installed_is_no_damage(every_kind: Served, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(every_kind.runs[STUDENT], folder)
    about = json.loads((folder / "inputs.json").read_text())
    about["modalities"]["text"]["kind"] = "lab.words"
    (folder / "inputs.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"There is no kind 'lab\.words'.* Install the package that has it"):
        load_model(folder)


def test_a_model_reads_no_file_outside_of_its_folder(every_kind: Served, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(every_kind.runs[STUDENT], folder)
    about = json.loads((folder / "inputs.json").read_text())
    about["modalities"]["text"]["tokenizer"]["file"] = "../secret.json"
    (folder / "inputs.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="no name of a file beside it"):
        load_model(folder)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ("absent.csv", DataError, "does not exist"),
        (7, ConfigError, "nothing to predict from"),
        (pd.DataFrame({"heat": [1.0]}), DataError, "lacks columns"),
        ({"sound": np.zeros(3)}, ConfigError, "no modality 'sound'"),
        ({"table": np.zeros((3, 2)), "image": np.zeros((2, 4))}, ConfigError, "different lengths"),
    ],
)
def test_what_can_not_be_predicted_is_said(regression: Served, data: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        student(regression).predict(data)


def test_a_table_without_anything_that_the_model_knows(every_kind: Served) -> None:
    with pytest.raises(DataError, match=r"(?s)has no column of the model's.*image"):
        load_model(every_kind.runs["image/seed0"]).predict(pd.DataFrame({"other": [1]}))


@pytest.mark.parametrize("address", ["s3://bucket/model", "https://example.org/model"])
def test_addresses(address: str, every_kind: Served) -> None:
    with pytest.raises(ConfigError, match="is no address of a model"):
        load_model(address)
    assert load_model(every_kind.runs[STUDENT].as_uri()).version == student(every_kind).version
