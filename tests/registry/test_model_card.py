"""Model cards of trained models: what they say, and that nothing in them is made up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from g2d_pipeline.artefacts import TrainedFolder, write_trained
from g2d_pipeline.configuration import Configuration
from g2d_pipeline.data_report.report import describe_data
from g2d_pipeline.errors import DataError
from g2d_pipeline.evaluation import Run, evaluate
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.pipelines.distill import train_students
from g2d_pipeline.pipelines.evaluate import _meta, samples_of
from g2d_pipeline.registry.evidence import read_evidence, write_evidence
from g2d_pipeline.registry.model_card import _measured, model_card
from g2d_pipeline.sources import locate, read_raw
from tests.conftest import REPOSITORY
from tests.test_resolve import FILES, ORIGINS, resolve

Artefacts = dict[str, Any]
LINEAGE = {
    "raw": "0af1", "created": "2026-11-26T22:00:00Z", "commit": "c0ffee", "dirty": True, "lock": "10c4",
    "seed": 0, "run": "joint/seed0", "machine": {"platform": "Linux", "cpu": "x86", "threads": 2},
    "versions": {"torch": "2.11.0"}, "inputs": {"features": "fea7"},
}  # fmt: skip
SENTENCE = "g2d under-uses audio <b>: a|b"


def trained_version(configuration: Configuration, base: Path, root: Path) -> tuple[Path, Artefacts]:
    """A joint model, trained for an epoch as the pipeline does, as a version's folder, and its artefacts."""
    manifest = read_raw(configuration.ingest(), REPOSITORY)
    write_store(base / "store", manifest, root, configuration.featurize())
    store = open_store(base / "store")
    train = train_students({"": store}, {}, configuration.distill())["joint/seed0"]
    folder = base / "version"
    folder.mkdir()
    write_trained(folder, train(folder))
    saved, samples = TrainedFolder(folder), samples_of(store, manifest)
    run = Run("joint", "", 0, saved.history, saved.predictions, saved.info, 0, saved.outputs(), samples)
    data = json.loads(json.dumps(describe_data(manifest, store, root), default=str))
    rankings = pd.DataFrame(columns=["seed", "confidence_on", "modality", "confidence"])
    result = evaluate([run], _meta([manifest], data), rankings, {}, data).metrics_json
    result["verdict"].append({"topic": "under-used modality", "text": SENTENCE, "command": ""})
    write_evidence(folder, run, saved, samples)
    shutil.rmtree(folder / "outputs")
    return folder, {"evaluation": json.loads(json.dumps(result)), "data": data, "lineage": LINEAGE}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artefacts]:
    """av_digits, the bundled sample."""
    base = tmp_path_factory.mktemp("digits")
    overrides = {"dataset": "av_digits", "method": "joint", "compare": [], "seed": 0, "epochs": 1}
    overrides |= {"progress": False, "workers": 1, "device": "cpu"}
    root = REPOSITORY / "data/01_raw/av_digits"
    configuration = resolve(FILES, overrides, lambda r, wanted: locate(r, wanted, REPOSITORY), ORIGINS)
    return trained_version(configuration, base, root)


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artefacts]:
    """A table of one's own: a regression on columns and vectors, without groups."""
    base = tmp_path_factory.mktemp("water")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"heat": rng.normal(size=60), "vector": [f"v.npy#{i}" for i in range(60)]})
    table["water"] = 20 + 3 * table["heat"] + rng.normal(0, 1, 60)
    np.save(base / "v.npy", rng.normal(size=(60, 3)).astype(np.float32))
    table.to_csv(base / "metadata.csv", index=False)
    small = {"name": "mlp", "widths": [4], "dropout": []}
    dataset = {
        "raw": {
            "layout": "table",
            "raw_dir": str(base),
            "target": "water",
            "split": {"val": 0.2, "test": 0.3},
        },
        "task": "regression",
        "target": {"name": "water", "unit": "%"},
        "modalities": {
            "table": {"kind": "tabular", "columns": ["heat"], "encoder": small},
            "vector": {"kind": "vector", "encoder": small},
        },
        "training": {"epochs": 1, "batch_size": 8},
    }
    files = {"datasets": {"water": dataset}, "methods": FILES["methods"]}
    overrides = {"dataset": "water", "method": "joint", "compare": [], "seed": 0, "progress": False}
    overrides |= {"workers": 1, "device": "cpu"}
    configuration = resolve(files, overrides, lambda r, wanted: locate(r, wanted, base), project=base)
    return trained_version(configuration, base, base)


def parsed(card: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata, and heading → text."""
    _, front, body = card.split("---\n", 2)
    parts = re.split(r"^## (.*)\n", body, flags=re.MULTILINE)
    return yaml.safe_load(front), dict(zip(parts[1::2], parts[2::2], strict=True)) | {"": parts[0]}


def numbers_in(value: Any) -> set[str]:
    """Every number in artefacts as a card could write it: whole, in percent, with up to four digits."""
    if isinstance(value, Mapping):
        return set().union(*map(numbers_in, value.values()), *map(numbers_in, value))
    if isinstance(value, list | tuple | set):
        return set().union(*map(numbers_in, value))
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, int | float):
        return {f"{abs(value) * scale:.{d}f}" for scale in (1, 100) for d in range(7)} | {
            str(len(str(value)))
        }
    return set(re.findall(r"\d+(?:\.\d+)?", str(value)))


@pytest.mark.parametrize("which", ["digits", "water"])
def test_a_card_says_what_the_artefacts_say_and_no_other_number(
    which: str, request: pytest.FixtureRequest
) -> None:
    folder, artefacts = request.getfixturevalue(which)
    card = model_card(folder, dataset=which, version="7", **artefacts)
    assert card == model_card(folder, dataset=which, version="7", **artefacts)  # the same bytes
    _, sections = parsed(card)
    assert list(sections)[:-1] == [
        "Intended use", "Data", "Metrics", "Each modality, and without it", "Imbalance of the modalities",
        "Calibration", "Limits", "Lineage", "How to load it",
    ]  # fmt: skip
    digits = which == "digits"
    assert f"# {which}: joint, version 7" in sections[""]
    assert ("**SAMPLE.**" in sections[""]) is digits
    (test,) = [r for r in artefacts["evaluation"]["runs"] if r["method"] == "joint"]
    values, ends = test["metrics"]["test"]["multi"], test["intervals"]["test"]["multi"]
    name, scale = ("accuracy", 100) if digits else ("rmse", 1)
    row = next(
        line
        for line in sections["Metrics"].splitlines()
        if line.startswith("| Accuracy" if digits else "| RMSE")
    )
    found = [float(x) for x in re.findall(r"-?\d+\.\d+", row)]
    assert found == pytest.approx([scale * x for x in (values[name], *ends[name])], abs=0.06)
    of_modality = [
        line for line in sections["Each modality, and without it"].splitlines() if line.startswith("| ")
    ]
    for m, line in zip(("audio", "image") if digits else ("table", "vector"), of_modality[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == m
        assert float(cells[1]) == pytest.approx(scale * test["metrics"]["test"][m][name], abs=0.06)
    assert r"g2d under-uses audio &lt;b>: a\|b" in sections["Imbalance of the modalities"]
    assert ("ECE" in sections["Calibration"]) is digits
    assert ("Mean bias (%)" in sections["Calibration"]) is not digits
    counts = artefacts["data"]["splits"]["test"]["samples"]
    assert f"{counts} samples{' in 6 groups' if digits else ', without groups'}" in sections["Limits"]
    for said in (
        "c0ffee with uncommitted changes",
        "10c4",
        "torch: 2.11.0",
        "cpu x86",
        "input features: fea7",
    ):
        assert said in sections["Lineage"]
    assert f"models:/{which}/7" in sections["How to load it"]

    known = numbers_in([artefacts, json.loads((folder / "model.json").read_text())])
    known |= numbers_in(
        [json.loads((folder / name).read_text()) for name in ("inputs.json", "evidence.json")]
    )
    known |= numbers_in(list(_measured(read_evidence(folder)).values())) | {"95", "7"}
    body = card.split("---\n", 2)[2]
    written = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", body))
    names = {str(len(json.loads((folder / "model.json").read_text()).get("class_names") or []))}
    assert written <= known | names, written - known - names


def test_the_metadata_are_what_hugging_face_reads(
    digits: tuple[Path, Artefacts], water: tuple[Path, Artefacts]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    for which, (folder, artefacts) in (("digits", digits), ("water", water)):
        card = model_card(folder, dataset=which, **artefacts)
        front, _ = parsed(card)
        required = {"library_name", "license", "tags", "datasets", "metrics", "model-index"}
        assert required <= set(front)
        read = hub.ModelCard(card, ignore_metadata_errors=False).data
        assert read.library_name == "g2d-pipeline"
        results = {r.metric_type: r for r in read.eval_results}
        metric = "accuracy" if which == "digits" else "rmse"
        (run,) = artefacts["evaluation"]["runs"]
        assert results[metric].metric_value == pytest.approx(run["metrics"]["test"]["multi"][metric])
        assert (results[metric].dataset_split, results[metric].dataset_revision) == ("test", "0af1")
        assert ("sample-data" in read.tags) is (which == "digits")
    assert front.get("pipeline_tag") is None  # of two kinds


def test_what_no_artefact_says_is_not_measured(digits: tuple[Path, Artefacts], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(digits[0], tmp_path / "bare"))
    for name in ("evidence.json", "evidence.parquet", "inputs.json"):
        (folder / name).unlink()
    card = model_card(folder, dataset="digits", evaluation={}, data={}, lineage={})
    front, sections = parsed(card)
    assert front["model-index"] == [{"name": "digits-joint", "results": []}]
    for heading in ("Metrics", "Imbalance of the modalities", "Calibration"):
        assert sections[heading].strip() == "not measured"
    assert sections["Each modality, and without it"].count("not measured") == 5
    assert "code: not recorded" in sections["Lineage"]
    assert "raw data (hash): not recorded" in sections["Data"]
    assert sections["Limits"].strip() == "- not recorded"
    (folder / "model.json").unlink()
    with pytest.raises(DataError, match=r"model\.json is missing"):
        model_card(folder, dataset="digits", evaluation={}, data={}, lineage={})
