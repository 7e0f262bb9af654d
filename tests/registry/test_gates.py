"""Gates before training: what they stop, what they let pass, how often they are wrong."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_diabetes

from g2d_pipeline.artefacts import write_trained
from g2d_pipeline.config.retrain import GateSettings, Limits
from g2d_pipeline.errors import DataError
from g2d_pipeline.features import open_store, write_store
from g2d_pipeline.pipelines.distill import train_students
from g2d_pipeline.registry.drift import (
    Sides,
    compare_categories,
    compare_features,
    compare_numbers,
    compare_shares,
)
from g2d_pipeline.registry.gates import GateReport, check_gates
from g2d_pipeline.registry.reference import FOLDER, content_keys, write_reference
from g2d_pipeline.retraining.outcome import outcome_file, write_outcome, write_page
from g2d_pipeline.sources import locate, read_raw
from g2d_pipeline.sources.manifest import Manifest
from tests.conftest import REPOSITORY
from tests.test_resolve import FILES, resolve

SETTINGS = GateSettings()
SILENT_SETTINGS = GateSettings(
    schema_change="go", new_columns="go", new_classes="go", vanished_classes="go",
    unreadable=Limits(), silent=Limits(), shift=Limits(), label_noise=Limits(),
)  # fmt: skip
MLP = {"name": "mlp", "widths": [16, 8], "dropout": []}


def of_rows(manifest: Manifest, rows: Any) -> Manifest:
    return changed(manifest, manifest.table.iloc[rows])


def changed(manifest: Manifest, table: pd.DataFrame, **meta: Any) -> Manifest:
    counts = {s: int((table["split"] == s).sum()) for s in ("train", "val", "test")}
    return Manifest(table.reset_index(drop=True), copy.deepcopy(manifest.meta) | {"counts": counts} | meta)


@dataclass
class Champion:
    """A model with its reference. `before`: what it was trained on; `later`: rows of the same source."""

    folder: Path
    root: Path
    before: Manifest
    later: pd.DataFrame

    def deliver(self, n: int, change: Callable[[pd.DataFrame], None] = lambda rows: None, seed: int = 0,
                **meta: Any) -> Manifest:  # fmt: skip
        """What it was trained on and n further rows, all of train, which `change` spoils."""
        new = self.later.sample(n, random_state=seed).assign(split="train").reset_index(drop=True)
        change(new)
        return changed(self.before, pd.concat([self.before.table, new]), **meta)

    def check(self, manifest: Manifest, settings: GateSettings = SETTINGS) -> GateReport:
        return check_gates(manifest, self.root, self.folder, settings)


def train(base: Path, dataset: dict[str, Any], rows: Callable[[pd.DataFrame], Any], epochs: int) -> Champion:
    files = {"datasets": {"own": dataset}, "methods": FILES["methods"]}
    overrides = {"dataset": "own", "method": "joint", "compare": [], "seed": 0, "device": "cpu"}
    overrides |= {"progress": False, "workers": 1, "epochs": epochs}
    found = lambda raw, wanted: locate(raw, wanted, base)  # noqa: E731
    configuration = resolve(files, overrides, found, project=base)
    whole = read_raw(configuration.ingest(), base)
    root = base / whole.meta["raw_dir"]
    chosen = rows(whole.table)
    before = of_rows(whole, np.flatnonzero(chosen))
    write_store(base / "store", before, root, configuration.featurize())
    ((_, job),) = train_students({"": open_store(base / "store")}, {}, configuration.distill()).items()
    folder = base / "version"
    folder.mkdir()
    write_trained(folder, job(folder))
    write_reference(folder, before, root, SETTINGS)
    return Champion(folder, root, before, whole.table[~chosen])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """av_digits, trained on a third of its rows of train; the other ones are delivered later."""
    base = tmp_path_factory.mktemp("digits")
    shutil.copytree(REPOSITORY / "data/01_raw/av_digits", base / "raw")
    dataset = copy.deepcopy(FILES["datasets"]["av_digits"])
    dataset["raw"]["raw_dir"] = "raw"
    part = lambda table: (table["split"] != "train") | (np.arange(len(table)) % 3 == 0)  # noqa: E731
    champion = train(base, dataset, part, epochs=10)
    rng = np.random.default_rng(0)
    for i in range(40):  # to be delivered in the place of others
        soundfile.write(base / f"raw/silent{i}.flac", np.zeros(8000 + i), 8000)
        soundfile.write(base / f"raw/noise{i}.flac", rng.uniform(-0.5, 0.5, 8000), 8000)
        (base / f"raw/broken{i}.flac").write_bytes(b"fLaC" + rng.bytes(200))
    np.save(base / "raw/black.npy", np.zeros((40, 8, 8), np.uint8))
    return champion


WORDS = [["wet", "field", "green", "grass"], ["dry", "sand", "hot", "dune"]]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """Sentences of two sorts: a modality of text, and nothing else."""
    base, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    words = [" ".join([*rng.choice(WORDS[c], 4), f"number {rng.integers(10**6)}"]) for c in labels]
    (base / "raw").mkdir()
    pd.DataFrame({"words": words, "kind": np.array(["meadow", "desert"])[labels]}).to_csv(
        base / "raw/metadata.csv", index=False
    )
    dataset = {
        "raw": {"layout": "table", "raw_dir": "raw", "target": "kind", "columns": {"text": "words"},
                "split": {"val": 0.2, "test": 0.2}},
        "task": "classification", "target": {"name": "kind"},
        "modalities": {"text": {"kind": "text", "length": 12, "vocabulary": 60,
                                "encoder": {"name": "bag", "width": 8}}},
        "training": {"epochs": 1, "batch_size": 16},
    }  # fmt: skip
    return train(base, dataset, lambda frame: rng.random(len(frame)) < 0.6, epochs=5)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """scikit-learn's diabetes data: one modality, numbers, a category, blank cells; a regression."""
    base = tmp_path_factory.mktemp("table")
    data = load_diabetes(as_frame=True, scaled=False).frame
    data["sex"] = data["sex"].map({1.0: "f", 2.0: "m"})
    data.loc[data.index % 9 == 4, "bp"] = np.nan
    (base / "raw").mkdir()
    data.to_csv(base / "raw/metadata.csv", index=False)
    columns = ["age", "bmi", "bp", "s5"]
    dataset = {
        "raw": {"layout": "table", "raw_dir": "raw", "target": "target", "split": {"val": 0.2, "test": 0.2}},
        "task": "regression", "target": {"name": "target", "unit": "points"},
        "modalities": {"table": {"kind": "tabular", "columns": columns, "categorical": ["sex"],
                                 "encoder": MLP}},
        "training": {"epochs": 1, "batch_size": 16},
    }  # fmt: skip
    part = lambda frame: np.random.default_rng(1).random(len(frame)) < 0.6  # noqa: E731
    return train(base, dataset, part, epochs=15)


def outcomes(report: GateReport) -> dict[str, str]:
    return {f.name: f.outcome for f in report.findings if f.outcome != "go"}


# ----------------------------------------------------------------------------------------------- what goes
@pytest.mark.parametrize("name", ["digits", "table"])
def test_the_same_data_go_without_torch(name: str, request: pytest.FixtureRequest) -> None:
    champion: Champion = request.getfixturevalue(name)
    report = champion.check(champion.before)
    assert (report.outcome, report.findings, report.rows["new"]) == ("go", [], 0)
    shuffled = of_rows(champion.before, np.random.default_rng(0).permutation(len(champion.before.table)))
    renamed = changed(shuffled, shuffled.table.assign(sample_id=lambda t: "x" + t["sample_id"]))
    assert champion.check(renamed).rows == {"new": 0, "looked_at": 0, "gone": 0}


def test_an_unchanged_delivery_imports_neither_torch_nor_scikit_learn(
    digits: Champion, tmp_path: Path
) -> None:
    pd.to_pickle((digits.before, digits.root, digits.folder), tmp_path / "case")
    code = (
        "import sys, pandas as pd; from g2d_pipeline.registry.gates import check_gates;"
        "from g2d_pipeline.config.retrain import GateSettings;"
        f"m, root, folder = pd.read_pickle({str(tmp_path / 'case')!r});"
        "assert check_gates(m, root, folder, GateSettings()).outcome == 'go';"
        "assert not {'torch', 'sklearn', 'scipy', 'matplotlib'} & {*sys.modules}, {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["digits", "table", "texts"])
def test_more_of_the_same_goes(name: str, seed: int, request: pytest.FixtureRequest) -> None:
    champion: Champion = request.getfixturevalue(name)
    report = champion.check(champion.deliver(120, seed=seed))
    assert report.outcome == "go", report.sentences
    assert report.rows == {"new": 120, "looked_at": 120, "gone": 0}
    tested = {f.name for f in report.findings}
    media = {"digits": "image", "table": "table", "texts": "text"}[name]
    assert tested >= {"unreadable", "label_noise", "shift/target", f"shift/{media}"}


def test_without_a_champion_everything_goes(digits: Champion, tmp_path: Path) -> None:
    report = check_gates(digits.before, digits.root, None, SETTINGS)
    assert (report.outcome, len(report.sentences)) == ("go", 1)
    assert "no champion" in report.sentences[0]
    shutil.copytree(digits.folder, tmp_path / "old", ignore=shutil.ignore_patterns(FOLDER))
    report = check_gates(digits.deliver(20), digits.root, tmp_path / "old", SETTINGS)
    assert (report.outcome, "no reference/" in report.sentences[0]) == ("go", True)


@pytest.mark.parametrize("name", ["digits", "table"])
def test_one_new_row_goes_and_what_is_not_tested_is_said(name: str, request: pytest.FixtureRequest) -> None:
    champion: Champion = request.getfixturevalue(name)
    report = champion.check(champion.deliver(1))
    assert (report.outcome, report.rows["new"]) == ("go", 1)
    assert "Not tested: " in " ".join(report.notes)
    assert "shift/target" in " ".join(report.notes)


def test_rows_that_are_gone_are_counted(digits: Champion) -> None:
    less = of_rows(digits.before, np.flatnonzero(np.arange(len(digits.before.table)) % 10 != 5))
    report = digits.check(less)
    assert report.outcome == "go"
    assert report.rows["gone"] == len(digits.before.table) - len(less.table)


# -------------------------------------------------------------------------------------------- what is stopped
def put(column: str, files: str, count: int = 40) -> Callable[[pd.DataFrame], None]:
    """The first `count` rows get other files."""

    def change(rows: pd.DataFrame) -> None:
        rows.loc[: count - 1, column] = [files.format(i) for i in range(count)]

    return change


def flip(rows: pd.DataFrame) -> None:
    rows.loc[rows.index % 2 == 0, "target"] = (rows["target"] + 1) % 10


DIGITS = {
    "broken files": (put("audio", "broken{}.flac", 30), "unreadable", "broken0.flac"),
    "missing files": (put("audio", "nowhere{}.flac", 30), "unreadable", "nowhere0.flac"),
    "labels flipped": (flip, "label_noise", "predicted"),
    "silence": (put("audio", "silent{}.flac"), "silent/audio", "40 of 100"),
    "black pictures": (put("image", "black.npy#{}"), "silent/image", "40 of 100"),
    "noise for speech": (put("audio", "noise{}.flac"), "shift/audio", "a classifier tells them apart"),
}


@pytest.mark.parametrize("case", DIGITS)
def test_a_bad_delivery_is_stopped_with_its_reason(digits: Champion, case: str) -> None:
    change, gate, words = DIGITS[case]
    report = digits.check(digits.deliver(100, change))
    assert report.outcome == "stop"
    assert outcomes(report)[gate] == "stop", report.sentences
    finding = next(f for f in report.findings if f.name == gate)
    assert words in finding.sentence
    assert finding.first
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()
    if case == "noise for speech":  # the one that draws random numbers
        assert report.to_json() == digits.check(digits.deliver(100, change)).to_json()
    assert digits.check(digits.deliver(100, change), SILENT_SETTINGS).outcome == "go"


def test_a_few_broken_files_warn(digits: Champion) -> None:
    report = digits.check(digits.deliver(100, put("audio", "broken{}.flac", 5)))
    assert outcomes(report) == {"unreadable": "warn"}


def test_rows_that_ingest_dropped_count_as_unreadable_once(digits: Champion) -> None:
    dropped = [{"file": f"gone{i}.flac", "row": None, "reason": "is missing"} for i in range(30)]
    report = digits.check(changed(digits.before, digits.before.table, dropped=dropped))
    assert outcomes(report) == {"unreadable": "stop"}
    assert "file gone0.flac, reason is missing" in report.sentences[0]
    assert digits.check(digits.deliver(100, dropped=dropped[:10])).findings[0].value == pytest.approx(
        10 / 110
    )


def test_at_most_so_many_rows_are_looked_at(digits: Champion) -> None:
    report = digits.check(digits.deliver(100, put("audio", "broken{}.flac", 40)), GateSettings(samples=50))
    assert report.rows == {"new": 100, "looked_at": 50, "gone": 0}
    assert "50 of the new rows were looked at" in " ".join(report.notes)
    assert 0.2 < next(f.value for f in report.findings if f.name == "unreadable") < 0.6  # type: ignore[operator]


def test_new_and_vanished_classes(digits: Champion) -> None:
    def tens(rows: pd.DataFrame) -> None:
        rows.loc[:9, "target"] = 10

    names = [*digits.before.meta["class_names"], "ten"]
    report = digits.check(digits.deliver(60, tens, class_names=names))
    assert outcomes(report) == {"classes/new": "stop"}
    assert "'ten' (10 rows)" in report.sentences[0]
    warned = digits.check(digits.deliver(60, tens, class_names=names), replace_setting("new_classes", "warn"))
    assert outcomes(warned) == {"classes/new": "warn"}
    less = digits.before.table[digits.before.table["target"] != 9]
    report = digits.check(changed(digits.before, less, class_names=digits.before.meta["class_names"][:9]))
    assert outcomes(report) == {"classes/vanished": "warn"}


def test_classes_are_matched_by_name_not_by_number(digits: Champion) -> None:
    """A class that sorts before the others moves all numbers by one."""
    moved = digits.before.table.assign(target=digits.before.table["target"] + 1)
    names = ["a", *digits.before.meta["class_names"]]
    report = digits.check(changed(digits.before, moved, class_names=names))
    assert (report.rows["new"], outcomes(report)) == (0, {"classes/new": "stop"})


def replace_setting(key: str, value: Any) -> GateSettings:
    return GateSettings(**{key: value})


def test_a_model_whose_features_are_not_finite_uses_no_row(digits: Champion, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(digits.folder, folder, ignore=shutil.ignore_patterns(FOLDER))
    weights = load_file(folder / "model.safetensors")
    key = next(k for k in weights if k.startswith("encoders.audio") and k.endswith("bias"))
    weights[key][:] = float("nan")
    save_file(weights, folder / "model.safetensors")
    write_reference(folder, digits.before, digits.root, SETTINGS)
    report = check_gates(digits.deliver(20), digits.root, folder, SETTINGS)
    assert outcomes(report) == {"unreadable": "stop"}
    assert "not finite" in report.sentences[0]


def test_a_damaged_reference_is_an_error_with_a_remedy(digits: Champion, tmp_path: Path) -> None:
    for name in ("reference.json", "contents.parquet", "features.image.npy"):
        shutil.copytree(digits.folder, tmp_path / name)
        (tmp_path / name / FOLDER / name).write_bytes(b"{}")
        with pytest.raises(DataError, match=r"reference is damaged .*promote another version"):
            check_gates(digits.before, digits.root, tmp_path / name, SETTINGS)


# ---------------------------------------------------------------------------------------------------- tables
def rename(table: Champion) -> Manifest:
    new = table.deliver(30)
    columns = {"table": ["age", "bmi_index", "bp", "s5", "sex"]}
    return changed(new, new.table.rename(columns={"bmi": "bmi_index"}), columns=columns)


def remove(table: Champion) -> Manifest:
    return table.deliver(30, columns={"table": ["age", "bp", "s5", "sex"]})


def retype(table: Champion) -> Manifest:
    new = table.deliver(30)
    return changed(new, new.table.assign(bmi=new.table["bmi"].astype(str)))


def unit(table: Champion) -> Manifest:
    return table.deliver(30, target=table.before.meta["target"] | {"unit": "kg"})


SCHEMAS = {rename: "'bmi' of 'table' is missing", remove: "'bmi' of 'table' is missing",
           retype: "'bmi' of 'table' holds text, held numbers",
           unit: "the target's unit is 'kg', was 'points'"}  # fmt: skip


@pytest.mark.parametrize("change", SCHEMAS)
def test_another_schema_is_stopped(table: Champion, change: Callable[[Champion], Manifest]) -> None:
    report = table.check(change(table))
    assert outcomes(report)["schema"] == "stop"
    assert SCHEMAS[change] in report.sentences[0]
    assert report.rows == {}
    assert table.check(change(table), SILENT_SETTINGS).outcome == "go"


def test_a_new_column_warns(table: Champion) -> None:
    columns = {"table": [*table.before.meta["columns"]["table"], "height"]}
    new = table.deliver(30, columns=columns)
    report = table.check(changed(new, new.table.assign(height=1.7)))
    assert outcomes(report)["columns"] == "warn"
    assert "column 'height' of 'table'" in report.sentences[0]
    assert report.rows["new"] == 30


TABLES: dict[str, tuple[Callable[[pd.DataFrame], Any], str, str]] = {
    "in pounds": (lambda t: t.update(t["bmi"] * 2.2), "shift/table", "bmi (KS distance"),
    "all blank": (lambda t: t.__setitem__("s5", np.nan), "shift/table", "s5 (KS distance"),
    "one sex": (lambda t: t.__setitem__("sex", "f"), "shift/table", "sex (PSI"),
    "a new word": (lambda t: t.__setitem__("sex", "?"), "shift/table", "sex (PSI"),
    "target moved": (lambda t: t.__setitem__("target", t["target"] + 100), "shift/target", "target (KS"),
    "targets turned over": (
        lambda t: t.__setitem__("target", 500 - t["target"]), "label_noise", "an error beyond 99 %"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_shifted_is_stopped(table: Champion, case: str) -> None:
    change, gate, words = TABLES[case]
    report = table.check(table.deliver(120, change))
    assert outcomes(report)[gate] == "stop", report.sentences
    assert words in next(f.sentence for f in report.findings if f.name == gate)
    assert table.check(table.deliver(120, change), SILENT_SETTINGS).outcome == "go"


def test_texts_that_are_empty_or_of_another_kind_are_stopped(texts: Champion) -> None:
    empty = texts.check(texts.deliver(60, lambda t: t.loc.__setitem__((slice(39), "text"), "")))
    assert outcomes(empty)["silent/text"] == "stop"
    other = texts.check(texts.deliver(60, lambda t: t.__setitem__("text", "a cat sat " + t["sample_id"])))
    assert outcomes(other)["shift/text"] == "stop"


def test_rows_are_new_by_their_content_and_number(table: Champion) -> None:
    """A changed value makes a row new; of equal rows, those beyond the earlier number are."""
    values = table.before.table.copy()
    values.loc[3, "bmi"] += 1
    assert table.check(changed(table.before, values)).rows == {"new": 1, "looked_at": 1, "gone": 1}
    again = table.before.table.head(5).assign(sample_id=lambda t: "again" + t["sample_id"])
    report = table.check(changed(table.before, pd.concat([again, table.before.table])))
    assert report.rows == {"new": 5, "looked_at": 5, "gone": 0}


def test_a_file_that_changes_makes_its_rows_new(digits: Champion, tmp_path: Path) -> None:
    shutil.copytree(digits.root, tmp_path / "raw")
    clip = digits.before.table["audio"].iloc[0]
    columns = digits.before.meta["columns"]
    before = content_keys(digits.before, columns, tmp_path / "raw")
    soundfile.write(tmp_path / "raw" / clip, np.linspace(0, 1, 8000), 8000)
    after = content_keys(digits.before, columns, tmp_path / "raw")
    rows = (digits.before.table["audio"] == clip).to_numpy()
    assert np.array_equal((before["content"] != after["content"]).to_numpy(), rows)
    assert (before["key/image"] == after["key/image"]).all()


# -------------------------------------------------------------------------------------- settings and the page
@pytest.mark.parametrize("name", ["unreadable", "silent", "shift", "label_noise"])
def test_limits_are_checked_and_named(name: str) -> None:
    for limits, words in (
        ({"warn": 0.3, "stop": 0.2}, "warn = 0.3 is above stop = 0.2"),
        ({"stop": 20}, "stop"),
    ):
        with pytest.raises(ValidationError, match=words) as error:
            GateSettings(**{name: limits})
        assert name in str(error.value)
    assert getattr(GateSettings(**{name: {"warn": None}}), name).stop == getattr(SETTINGS, name).stop
    with pytest.raises(ValidationError, match="new_classes"):
        replace_setting("new_classes", "halt")


def test_the_page_escapes_what_comes_from_data(digits: Champion, tmp_path: Path) -> None:
    def hostile(rows: pd.DataFrame) -> None:
        put("audio", "broken{}.flac", 30)(rows)
        rows["sample_id"] = [f"<script>{i}" for i in rows.index]

    file = outcome_file(tmp_path, "digits")
    report = digits.check(digits.deliver(60, hostile)).to_json()
    write_outcome(file.with_name("gates.json"), report)
    write_outcome(file, {"outcome": "refused", "reason": "see below"})
    write_page(tmp_path, "digits")
    page = file.with_suffix(".html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;0" in page
    assert "unreadable" in page


# -------------------------------------------------------------------- how often the tests are wrong, or right
def draws(kind: str, seed: int, move: float, groups: int = 0) -> float:
    """p of a test of 100 new rows against 200, of one distribution but for `move`; `groups` rows a group."""
    rng = np.random.default_rng(seed)
    sides, levels = Sides(), np.zeros(300)
    if groups:
        of = np.arange(300) // groups
        sides, levels = Sides(of[:200], of[200:]), rng.standard_normal(300 // groups)[of]
    moved = np.where(np.arange(300) >= 200, move, 0) + levels
    if kind == "numbers":
        x = rng.standard_normal(300) + moved
        return compare_numbers("x", x[:200], x[200:], sides).p
    if kind == "categories":
        c = np.digitize(rng.standard_normal(300) + moved, [-1, -0.3, 0.3, 1])
        return compare_categories("c", c[:200], c[200:], sides).p
    if kind == "features":
        z = rng.standard_normal((300, 6)) + moved[:, None]
        return compare_features("z", z[:200], z[200:], sides).p
    flags = (rng.standard_normal(300) + moved > 1.3).astype(float)
    return compare_shares(flags[:200], flags[200:], sides)[1]


RUNS = {"numbers": 400, "categories": 400, "features": 80, "shares": 400}


@pytest.mark.parametrize("kind", RUNS)
def test_false_alarms_are_as_rare_as_alpha_says_and_shifts_are_seen(kind: str) -> None:
    """At 5 %, within two standard errors; a move by a standard deviation is seen at 1 %."""
    p = np.array([draws(kind, seed, 0.0) for seed in range(RUNS[kind])])
    assert (p < 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(p))
    power = np.array([draws(kind, seed, 1.0) for seed in range(20)])
    assert (power < 0.01).mean() >= 0.9


@pytest.mark.parametrize("kind", ["numbers", "categories", "shares"])
def test_rows_in_groups_are_no_more_evidence_than_their_groups(kind: str) -> None:
    """Rows of a group resemble each other: taken as independent they would raise the alarm often."""
    p = np.array([draws(kind, seed, 0.0, groups=10) for seed in range(200)])
    assert (p < 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(p))
    power = np.array([draws(kind, seed, 4.0, groups=10) for seed in range(20)])
    assert (power < 0.01).mean() >= 0.9


def test_what_was_trained_on_is_no_news_to_an_encoder(digits: Champion) -> None:
    """Clips of later rows that are in train, too, are not tested: an encoder has learnt them by heart."""
    clips = digits.before.table.loc[digits.before.table["split"] == "train", "audio"]
    repeated = replace(digits, later=digits.later[digits.later["audio"].isin(clips)])
    report = repeated.check(repeated.deliver(100))
    assert "shift/image" in {f.name for f in report.findings}
    assert "shift/audio" not in {f.name for f in report.findings}
